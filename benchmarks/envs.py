"""An environment of its own for each library that we compare with. PyTorch is the one of our environment,
so that only the library differs."""
import subprocess, sys, venv
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

def python_of(name): # a name in `PACKAGES`, or 'own' for ours
    "The Python of the environment `name`, made at the first call"
    if name == 'own': return sys.executable
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
