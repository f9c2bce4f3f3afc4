"Builds the package from settings.ini, which holds every fact about it once."
from configparser import ConfigParser
from pathlib import Path
from setuptools import setup, find_packages

here = Path(__file__).parent
config = ConfigParser(delimiters=['='])
config.read(here/'settings.ini', encoding='utf-8')
cfg = config['DEFAULT']

results = {f"{cfg['lib_name']}._results": 'results'}
raw = [p.relative_to(here/'results').as_posix() for p in (here/'results').rglob('*.json')] # at any depth
static = {f"{cfg['lib_name']}.course": ['static/*']} # what the interactive figures are played by

setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    long_description=(here/'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    url=cfg['git_url'],
    author=cfg['author'],
    author_email=cfg['author_email'],
    license='Apache-2.0',
    keywords=cfg['keywords'],
    python_requires=f">={cfg['min_python']}",
    # the raw results come along, so that notebooks run where only the package is installed
    packages=[*find_packages(include=[cfg['lib_name'], f"{cfg['lib_name']}.*"]), *results],
    package_dir=results,
    package_data={**{name: raw for name in results}, **static},
    install_requires=cfg['requirements'].split(),
    extras_require={k: cfg[f'{k}_requirements'].split() for k in ('dev', 'docs')},
    entry_points={'console_scripts': cfg['console_scripts'].split(),
                  'nbdev': [f"{cfg['lib_name']}={cfg['lib_name']}._modidx:d"]},
    classifiers=['Development Status :: 4 - Beta', 'Intended Audience :: Education',
                 'Intended Audience :: Developers',
                 'License :: OSI Approved :: Apache Software License', 'Natural Language :: English',
                 *[f'Programming Language :: Python :: 3.{v}' for v in range(10, 14)]],
    zip_safe=False)
