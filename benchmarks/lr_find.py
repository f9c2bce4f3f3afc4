"""Two learning rate finders on the same network: ours, and fastai's.

    python benchmarks/lr_find.py --data DIR # raw results to results/benchmarks/lr_find-cpu.json

The chapter's third task is to write a finder of your own and to compare it with the library's. Both start
from the same weights (a ResNet-18), see the same 100 batches (real pictures, 64 px, nothing drawn at random)
in the same order, and use Adam with the same settings; each runs in an environment of its own. What is left
to differ is the finder."""
import argparse, json, sys, tempfile, warnings
from pathlib import Path

def network():
    import torch
    from torchvision.models import resnet18
    torch.manual_seed(0)
    return resnet18(num_classes=10)

def ours(batches, loss_func):
    from imagenette_train.all import Adam, DataLoaders, Learner, minimum, slide, steep, valley
    learn = Learner(DataLoaders(batches, None), network(), loss_func, Adam)
    # fastai divides the way to `end_lr` by 100 and not by 99, so its last rate is one factor below
    found = learn.lr_find(1e-7, 1e-7*1e8**0.99, 100, show_plot=False,
                          suggest_funcs=(minimum, steep, valley, slide))
    return *learn.lr_find_curve, found._asdict()

def fastai(batches, loss_func):
    import torch
    import fastai.callback.progress # noqa: F401 (it gives the Learner no_bar)
    from fastai.callback.schedule import minimum, slide, steep, valley
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.optimizer import Adam
    class Batches(list):
        device, n, bs, num_workers, before_iter = torch.device('cpu'), 100*32, 32, 0, None
        def to(self, device): return self
    dls = DataLoaders(Batches(batches), Batches(batches[:1]), device=torch.device('cpu'))
    learn = Learner(dls, network(), loss_func=loss_func, opt_func=Adam, path=tempfile.mkdtemp())
    with learn.no_bar():
        found = learn.lr_find(show_plot=False, suggest_funcs=(minimum, steep, valley, slide))
    rec = learn.recorder
    lrs, losses = ([float(o) for o in os] for os in (rec.lrs, rec.losses))
    return lrs, losses, {k: float(v) for k,v in found._asdict().items()}

def work(who, file):
    import torch, torch.nn.functional as F
    warnings.simplefilter('ignore')
    lrs, losses, found = globals()[who](torch.load(file), F.cross_entropy)
    from importlib.metadata import version
    library = 'fastai' if who == 'fastai' else 'torch'
    return dict(lrs=lrs, losses=losses, suggested=found, version=version(library))

def write_batches(data, file):
    import torch
    from imagenette_train.all import get_data, set_seed
    set_seed(0)
    plain = dict(rotate=0., zoom=1., warp=0., max_lighting=0.)
    dls = get_data(path=data, presize=80, resize=64, bs=32, n_per_class=(400, 20), **plain)
    torch.save([b for _,b in zip(range(100), dls.train)], file)
    return dls.folder

def run(who, file):
    from envs import environ, result_of
    return result_of('fastai' if who == 'fastai' else 'own', [__file__, 'work', who, file], environ())

def table(result):
    "Rows: what each rule suggests, from our curve and from fastai's"
    ours, theirs = result['ours']['suggested'], result['fastai']['suggested']
    return [[name, f'{ours[name]:.2e}', f'{theirs[name]:.2e}'] for name in ours]

def apart(result):
    "The largest relative difference of the two smoothed losses, and over how many batches"
    pairs = list(zip(result['ours']['losses'], result['fastai']['losses']))
    return max(abs(a-b)/abs(b) for a,b in pairs), len(pairs)

def main(data=None, out=None):
    from imagenette_train.core.io import atomic_write_text
    from imagenette_train.experiments.results import environment_info
    from tabulate import tabulate
    out = Path(out or Path(__file__).parent.parent/'results'/'benchmarks'/'lr_find-cpu.json')
    with tempfile.TemporaryDirectory() as tmp:
        file = str(Path(tmp)/'batches.pt')
        folder = write_batches(data, file)
        result = dict(settings=dict(arch='resnet18', size=64, bs=32, num_it=100, generated=folder.generated),
                      environment=environment_info('cpu'), ours=run('ours', file), fastai=run('fastai', file))
    atomic_write_text(out, json.dumps(result, indent=1))
    print(tabulate(table(result), ['rule', 'ours', f"fastai {result['fastai']['version']}"]))
    worst, n = apart(result)
    print(f'largest relative difference of the smoothed losses: {worst:.1e}, over {n} batches')
    print(f'raw results: {out}')

if __name__ == '__main__':
    if sys.argv[1:2] == ['work']: print(json.dumps(work(*sys.argv[2:4])))
    else:
        sys.path.insert(0, str(Path(__file__).parent))
        a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        a.add_argument('--data')
        a.add_argument('--out')
        main(**vars(a.parse_args()))
