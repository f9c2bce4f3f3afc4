"""Builds an sdist and, from it, a wheel; installs each into an empty folder, without anything else of the
project around it, and looks at what has come along.

    python tools/check_package.py                # and runs notebook course/stored_results there
    python tools/check_package.py NAME... | --all  # and runs these notebooks there, as they would in Colab

A notebook runs from a copy in an empty folder, in a real kernel, with the wheel alone."""
import importlib.metadata, os, re, shutil, subprocess, sys, tarfile, tempfile, time, zipfile
from pathlib import Path
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from opening import cfg, name_of, notebooks, root

lib = cfg['lib_name']

def call(*cmd, **kwargs):
    p = subprocess.run([str(c) for c in cmd], capture_output=True, text=True, **kwargs)
    assert p.returncode == 0, f"{' '.join(map(str, cmd))}\n{p.stdout}{p.stderr}"
    return p.stdout

def copy_of_project(to):
    "What git keeps of the project, and new files that it does not ignore"
    names = call('git', 'ls-files', '--cached', '--others', '--exclude-standard', cwd=root).splitlines()
    for name in names:
        if not (root/name).is_file(): continue
        (to/name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root/name, to/name)
    return to

def built(tmp):
    "An sdist and a wheel made from it, nothing fetched"
    project = copy_of_project(tmp/'project')
    call(sys.executable, '-m', 'build', '--no-isolation', '--outdir', tmp/'dist', cwd=project)
    return next((tmp/'dist').glob('*.tar.gz')), next((tmp/'dist').glob('*.whl'))

def contents(sdist, wheel):
    "Everything that is promised is inside, and nothing else"
    with zipfile.ZipFile(wheel) as z: inside = set(z.namelist())
    with tarfile.open(sdist) as t: sources = {n.partition('/')[2] for n in t.getnames()}
    modules = {p.relative_to(root).as_posix()
               for pattern in ('*.py', 'static/*') for p in (root/lib).rglob(pattern)}
    results = {f'{lib}/_results/{p.relative_to(root/"results")}' for p in (root/'results').rglob('*.json')}
    assert modules | results <= inside, sorted((modules | results) - inside)
    strange = {n for n in inside - modules - results if '.dist-info/' not in n}
    assert not strange, strange
    assert {'LICENSE', 'README.md', 'settings.ini', 'setup.py'} <= sources, sources
    return len(inside)

def installed(archive, to):
    "The archive's package in folder `to`, without what it requires; it is found there and tells its version"
    call(sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps', '--no-build-isolation',
         '--disable-pip-version-check', '--target', to, archive)
    env, empty = {**os.environ, 'PYTHONPATH': str(to)}, to.parent/'empty'
    empty.mkdir(exist_ok=True)
    here = call(sys.executable, '-c', f'import {lib}; print({lib}.__file__)', cwd=empty, env=env).strip()
    assert Path(here).is_relative_to(to), here
    said = call(to/'bin'/'imagenette-train', '--version', cwd=empty, env=env).split()[-1]
    known = {cfg['version'], re.search(r'"(.*)"', (root/lib/'__init__.py').read_text())[1], said,
             next(iter(importlib.metadata.distributions(name=lib, path=[str(to)]))).version}
    assert known == {cfg['version']}, f'versions differ: {known}'

def run_alone(name, target, tmp):
    "Notebook `name` in an empty folder; gives what went wrong, or nothing"
    folder = tmp/'alone'/name
    folder.mkdir(parents=True)
    nb = nbformat.read(root/f'nbs/{name}.ipynb', 4)
    os.environ.update(PYTHONPATH=str(target), IMAGENETTE_TRAIN_CACHE=str(folder/'cache'), MPLBACKEND='agg')
    try: NotebookClient(nb, timeout=1200, kernel_name='python3',
                        resources={'metadata': {'path': str(folder)}}).execute()
    except CellExecutionError as e: return str(e)[-1500:]
    return ''

def main():
    names = sys.argv[1:] or ['course/stored_results']
    if names == ['--all']: names = list(map(name_of, notebooks()))
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp).resolve()
        sdist, wheel = built(tmp)
        print(f'{wheel.name}: {contents(sdist, wheel)} files')
        for i,archive in enumerate((sdist, wheel)): installed(archive, tmp/f'target{i}')
        failed = 0
        for name in names:
            t = time.perf_counter()
            wrong = run_alone(name, tmp/'target1', tmp)
            failed += bool(wrong)
            said = f"{'FAILED' if wrong else 'ok':6} {time.perf_counter()-t:6.1f} s"
            print(f'{name:>28} {said}', wrong, flush=True)
    sys.exit(bool(failed))

if __name__ == '__main__': main()
