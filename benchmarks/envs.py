"""An environment of its own for each library that we compare with. PyTorch is the one of our environment,
so that only the library differs."""
import importlib.util, json, os, subprocess, sys, venv
from pathlib import Path
import torch

HERE = Path(__file__).parent
# name: (packages with what they need, packages without: those that would bring another PyTorch)
PACKAGES = dict(
    fastai=(['fastprogress<1.1', 'fastcore>=2.2.22', 'plum-dispatch<2.10', 'pandas', 'scipy', 'cloudpickle',
             'scikit-learn', 'requests'],
            ['fastai', 'fasttransform', 'fastdownload']),
    lightning=(['lightning-utilities', 'torchmetrics', 'fsspec', 'pyyaml', 'tqdm'], ['lightning']),
    ignite=([], ['pytorch-ignite']),
    accelerate=(['psutil', 'pyyaml', 'huggingface_hub', 'safetensors'], ['accelerate']))

def installed(name):
    "Is the library `name` in our own environment?"
    return importlib.util.find_spec(dict(own='torch').get(name, name)) is not None

def environ(**more): # variables to add
    "What a benchmark's process finds: the package beside this folder, then whatever was on the path"
    path = [str(HERE.parent), *filter(None, [os.environ.get('PYTHONPATH')])]
    return {**os.environ, 'PYTHONWARNINGS': 'ignore', 'PYTHONPATH': os.pathsep.join(path), **more}

def python_of(name): # a name in `PACKAGES`, or 'own' for ours
    "The Python that has the library `name`: ours, or that of an environment made at the first call"
    if installed(name): return sys.executable
    root = HERE/'.envs'/name
    python, ready = root/'bin/python', root/'.ready'
    if not ready.exists():
        print(f'making an environment for {name} ...', file=sys.stderr)
        venv.create(root, with_pip=True, clear=True)
        site = next(root.glob('lib/python*/site-packages'))
        (site/'shared.pth').write_text(str(Path(torch.__file__).parent.parent))
        needs, alone = PACKAGES[name]
        pip = [python, '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check']
        quiet = dict(check=True, stdout=sys.stderr, stderr=subprocess.DEVNULL)
        subprocess.run([*pip, '--no-deps', *alone], **quiet)
        if needs: subprocess.run([*pip, *needs], **quiet)
        ready.touch()
    return str(python)

def result_of(name, cmd, env): # library, what its Python is to run, variables
    "What the last line that a process prints says, as JSON; a RuntimeError says why there is none"
    try: python = python_of(name)
    except (OSError, subprocess.CalledProcessError) as e:
        raise RuntimeError(f'no environment for {name}: {e}') from e
    done = subprocess.run([python, *map(str, cmd)], capture_output=True, text=True, env=env)
    if done.returncode: raise RuntimeError((done.stderr.strip() or f'exit code {done.returncode}')[-1500:])
    return json.loads(done.stdout.strip().splitlines()[-1])
