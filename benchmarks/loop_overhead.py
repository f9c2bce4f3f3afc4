"""What the training loop itself costs, side by side.

    python benchmarks/loop_overhead.py             # raw results to results/benchmarks/
    python benchmarks/loop_overhead.py --rounds 1  # a quick look
    python benchmarks/loop_overhead.py --device cuda

Microseconds a batch on a model so small that the loop is what takes the time (a linear layer, batches of 20
rows, one thread, batches ready in memory). Each library runs in a process of its own (an environment of its
own, too), and in that process its epochs take turns with those of a loop written by hand around *the same
optimizer*: so every ratio is of two epochs that ran right after one another, and no library answers for
another's optimizer. The table gives medians of these differences and ratios over all pairs, with the middle
half of them.
"Hand-written, twice" is the yardstick: what differs less than that, does not differ.
For `fit_one_cycle` the loop by hand has the same schedule, and writes rate and momentum into the optimizer.

Lightning's Trainer is made before, and its epochs are timed from its hooks on_train_epoch_start and _end, as
it is and `barebones`. Then the epoch of a ResNet-34 at 64 px, ours beside a hand-written loop; and the memory
that 10,000 batches leave behind."""
import json, statistics, sys, time, warnings
from pathlib import Path

# variant: (what it is called, whose optimizer, its environment)
VARIANTS = dict(
    hand=('hand-written, twice', "PyTorch's SGD", 'own'),
    bare=('ours, no callback', 'our SGD', 'own'),
    default=('ours, default callbacks', 'our SGD', 'own'),
    ten=('ours, ten callbacks', 'our SGD', 'own'),
    wrapped=('ours, default callbacks', "PyTorch's SGD, wrapped", 'own'),
    cycle=('ours, fit_one_cycle', 'our SGD, lr and momentum scheduled', 'own'),
    ignite=('Ignite', "PyTorch's SGD", 'ignite'),
    accelerate=('Accelerate', "PyTorch's SGD", 'accelerate'),
    fastai=('fastai', "fastai's SGD", 'fastai'),
    fastai_torch=('fastai', "PyTorch's SGD, wrapped", 'fastai'),
    lightning=('Lightning', "PyTorch's SGD", 'lightning'),
    barebones=('Lightning, barebones', "PyTorch's SGD", 'lightning'))

DEVICE = 'cpu' # of models and batches; set by `work`

def data(n=2000, bs=20):
    import torch
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n*bs, 10, generator=g)
    y = x @ torch.randn(10, 1, generator=g)
    return list(zip(x.to(DEVICE).split(bs), y.to(DEVICE).split(bs)))

def linear():
    import torch
    return torch.nn.Linear(10, 1).to(DEVICE)

def hand(batches, opt_func=None):
    "An epoch of a loop written by hand, around the optimizer that `opt_func` makes"
    import torch, torch.nn.functional as F
    model = linear()
    opt = (opt_func or torch.optim.SGD)(list(model.parameters()), lr=1e-3)
    def epoch():
        model.train()
        for xb,yb in batches:
            loss = F.mse_loss(model(xb), yb)
            loss.backward()
            opt.step()
            opt.zero_grad()
    return epoch

def hand_one_cycle(batches, opt_func):
    "The same with one cycle: learning rate and momentum are written into the optimizer before each batch"
    import torch.nn.functional as F
    from imagenette_train.training.schedule import combined_cos
    model = linear()
    opt = opt_func(list(model.parameters()), lr=1e-3)
    lr, mom = combined_cos(0.25, 1e-3/25, 1e-3, 1e-3/1e5), combined_cos(0.25, 0.95, 0.85, 0.95)
    def epoch():
        model.train()
        for i,(xb,yb) in enumerate(batches):
            pct = i/len(batches)
            for h in opt.hypers: h['lr'], h['mom'] = lr(pct), mom(pct)
            loss = F.mse_loss(model(xb), yb)
            loss.backward()
            opt.step()
            opt.zero_grad()
    return epoch

# --- each gives an epoch of the library's loop, and the optimizer for the loop by hand beside it

def ours(batches, kind):
    from functools import partial
    import torch, torch.nn.functional as F
    from imagenette_train.all import Learner, DataLoaders, SGD, Callback, OptimWrapper
    Learner.default_cbs = [] if kind == 'bare' else Learner.default_cbs
    class Listens(Callback):
        def begin_batch(self): pass
        def after_batch(self): pass
    opt_funcs = dict(wrapped=partial(OptimWrapper, opt=torch.optim.SGD), cycle=partial(SGD, mom=0.9))
    opt_func = opt_funcs.get(kind, SGD)
    cbs = [Listens() for _ in range(7)] if kind == 'ten' else None
    dls = DataLoaders(batches, None)
    learn = Learner(dls, linear(), F.mse_loss, opt_func, lr=1e-3, cbs=cbs)
    learn.training, learn.logger = True, None
    fit = learn.fit_one_cycle if kind == 'cycle' else learn.fit
    return lambda: fit(1), opt_func

def ignite(batches):
    import torch, torch.nn.functional as F
    from ignite.engine import Engine
    model = linear()
    opt = torch.optim.SGD(model.parameters(), lr=1e-3)
    def update(engine, batch):
        model.train()
        xb, yb = batch
        loss = F.mse_loss(model(xb), yb)
        loss.backward()
        opt.step()
        opt.zero_grad()
        return loss
    trainer = Engine(update)
    return lambda: trainer.run(batches, max_epochs=1), None

def accelerate(batches):
    import torch, torch.nn.functional as F
    from accelerate import Accelerator
    acc = Accelerator(cpu=DEVICE == 'cpu')
    model = linear()
    model, opt = acc.prepare(model, torch.optim.SGD(model.parameters(), lr=1e-3))
    def epoch():
        model.train()
        for xb,yb in batches:
            with acc.accumulate(model):
                loss = F.mse_loss(model(xb), yb)
                acc.backward(loss)
                opt.step()
                opt.zero_grad()
    return epoch, None

def fastai(batches, kind):
    from functools import partial
    import torch, torch.nn.functional as F
    import fastai.callback.progress # noqa: F401 (it gives the Learner no_bar)
    from fastai.learner import Learner
    from fastai.data.core import DataLoaders
    from fastai.optimizer import SGD, OptimWrapper
    class Batches(list):
        device, n, bs, num_workers, before_iter = torch.device(DEVICE), 40000, 20, 0, None
        def to(self, device): return self
    opt_func = partial(OptimWrapper, opt=torch.optim.SGD) if kind == 'fastai_torch' else SGD
    dls = DataLoaders(Batches(batches), Batches(batches[:1]), device=torch.device(DEVICE))
    learn = Learner(dls, linear(), loss_func=F.mse_loss, opt_func=opt_func, lr=1e-3)
    def epoch():
        with learn.no_bar(), learn.no_logging(): learn.fit(1)
    return epoch, opt_func

def lightning(batches, barebones, n):
    "Pairs of seconds (the library's epoch, by hand), timed from Lightning's own hooks"
    import logging, torch, torch.nn.functional as F
    import lightning as L
    logging.getLogger('lightning.pytorch').setLevel(logging.ERROR)
    by_hand, pairs = hand(batches), []
    class Model(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = linear()
        def training_step(self, batch, i):
            xb, yb = batch
            return F.mse_loss(self.net(xb), yb)
        def configure_optimizers(self): return torch.optim.SGD(self.parameters(), lr=1e-3)
        def on_train_epoch_start(self): self.t = now()
        def on_train_epoch_end(self): pairs.append((now()-self.t, seconds(by_hand)))
    class Batches: # a list would be taken for several loaders
        def __len__(self): return len(batches)
        def __iter__(self): return iter(batches)
    quiet = dict(barebones=True) if barebones else dict(logger=False, enable_checkpointing=False,
                                                        enable_progress_bar=False, enable_model_summary=False)
    kind = 'gpu' if DEVICE == 'cuda' else 'cpu'
    L.Trainer(max_epochs=n+1, accelerator=kind, **quiet).fit(Model(), Batches())
    return pairs[1:]

# --- measuring

def now():
    "Seconds, when the device has done all that it was told"
    import torch
    if DEVICE == 'cuda': torch.cuda.synchronize()
    return time.perf_counter()

def seconds(f):
    t = now()
    f()
    return now()-t

def alternately(epoch, by_hand, n):
    "`n` pairs of seconds (the library's epoch, by hand); who goes first changes each time"
    epoch(); by_hand()
    pairs = []
    for i in range(n):
        if i % 2: b, a = seconds(by_hand), seconds(epoch)
        else: a, b = seconds(epoch), seconds(by_hand)
        pairs.append((a, b))
    return pairs

def versions(env):
    "What is compared here"
    from importlib.metadata import version
    names = dict(own='torch', ignite='pytorch-ignite').get(env, env)
    return version(names)

def work(variant, n=12):
    "Pairs of microseconds a batch, (the library's loop, by hand), and the library's version"
    import torch
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    batches, env = data(), VARIANTS[variant][2]
    if env == 'lightning': pairs = lightning(batches, variant == 'barebones', n)
    else:
        make = dict(hand=lambda: (hand(batches), None), ignite=lambda: ignite(batches),
                    accelerate=lambda: accelerate(batches))
        kinds = fastai if env == 'fastai' else ours
        epoch, opt_func = make[variant]() if variant in make else kinds(batches, variant)
        by_hand = hand_one_cycle if variant == 'cycle' else hand
        pairs = alternately(epoch, by_hand(batches, opt_func), n)
    return dict(us=[[1e6*t/len(batches) for t in p] for p in pairs], version=versions(env))

def resnet(pairs=10, n=6, bs=32):
    "Seconds of an epoch of `n` batches, hand-written and ours, as pairs in turn; both with our SGD"
    import torch, torch.nn.functional as F
    from torchvision.models import resnet34
    from imagenette_train.all import Learner, DataLoaders, SGD
    torch.manual_seed(0)
    batches = [(torch.randn(bs, 3, 64, 64).to(DEVICE), torch.randint(0, 10, (bs,)).to(DEVICE))
               for _ in range(n)]
    model, other = resnet34(num_classes=10).to(DEVICE), resnet34(num_classes=10).to(DEVICE)
    opt = SGD(model.parameters(), lr=1e-3)
    def hand():
        model.train()
        for xb,yb in batches:
            loss = F.cross_entropy(model(xb), yb)
            loss.backward()
            opt.step()
            opt.zero_grad(set_to_none=True)
    learn = Learner(DataLoaders(batches, None), other, opt_func=SGD, lr=1e-3)
    learn.logger = None
    loops, out = dict(hand=hand, ours=lambda: learn.fit(1)), []
    for f in loops.values(): f()
    for i in range(pairs):
        pair = {}
        for k in (list(loops), list(loops)[::-1])[i%2]:
            pair[k] = seconds(loops[k])
        out.append(pair)
    return out

def growth():
    "Kilobytes that the process has grown by after each of five times 2,000 batches"
    import gc, torch
    torch.set_num_threads(1)
    def rss():
        lines = Path('/proc/self/status').read_text().splitlines()
        return next(int(l.split()[1]) for l in lines if l.startswith('VmRSS'))
    epoch, _ = ours(data(), 'default')
    def after_an_epoch():
        epoch()
        gc.collect()
        return rss()
    start = after_an_epoch()
    return [after_an_epoch()-start for _ in range(5)]

def run(*args, env_of='own', device='cpu'):
    "What a process of its own measured"
    from envs import environ, result_of
    return result_of(env_of, [__file__, 'work', device, *args], environ())

def middle(values):
    "The quarter points of `values`: a quarter of them below the first, half below the second"
    return statistics.quantiles(values, n=4) if len(values) > 1 else list(values)*3

def said(values, digits):
    "Median and middle half, as text"
    low, mid, high = middle(values)
    return f'{mid:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})'

def table(result):
    "Rows: each loop beside a hand-written one with the same optimizer"
    rows = []
    for v,(label,opt,env) in VARIANTS.items():
        if v not in result['loop']: continue
        pairs = [p for r in result['loop'][v] for p in r['us']]
        version = '' if env == 'own' else f" {result['loop'][v][0]['version']}"
        rows.append({'loop': label + version, 'optimizer, also of the loop by hand': opt,
                     'µs a batch': f'{statistics.median(a for a,_ in pairs):.0f}',
                     'µs more than by hand': said([a-b for a,b in pairs], 0),
                     'times by hand': said([a/b for a,b in pairs], 2)})
    return rows

def facts(result):
    pairs = [p['ours']/p['hand'] for p in result['resnet']]
    if not pairs or 'growth_kb' not in result: return []
    return [['epoch of ResNet-34 at 64 px, ours / by hand', said(pairs, 3)],
            ['memory after 2,000, 4,000, ... 10,000 further batches, KB',
             ', '.join(map(str, result['growth_kb']))]]

def describe_run(result):
    e = result['environment']
    machine = e['device_name'].split(',')[0]
    return f"{machine}, one thread, torch {e['torch']}, Python {e['python']}, {e['date'][:10]}"

def a_round(result, device, skip, quick):
    "Measure every loop once; a loop that cannot be measured is named, and the others go on"
    for v,(_,_,env) in VARIANTS.items():
        if v in result['failures'] or v in skip: continue
        try: result['loop'].setdefault(v, []).append(run('loop', v, env_of=env, device=device))
        except RuntimeError as e:
            print(f'{v}: no figure, since {e}', file=sys.stderr)
            result['failures'][v] = str(e)
    result['loop'] = {v: rs for v,rs in result['loop'].items() if rs}
    if not quick: result['resnet'] += run('resnet', device=device)

def main(rounds=4, out=None, device='cpu', skip=(), quick=False):
    from imagenette_train.core.io import atomic_write_text
    from imagenette_train.experiments.results import environment_info
    from tabulate import tabulate
    folder = Path(__file__).parent.parent/'results'/'benchmarks'
    out = Path(out or folder/f'loop_overhead-{device}.json')
    result = dict(settings=dict(rounds=rounds), environment=environment_info(device), loop={}, resnet=[],
                  failures={})
    for i in range(rounds):
        a_round(result, device, skip, quick)
        print(f'round {i+1} of {rounds} done', file=sys.stderr)
    if not quick: result['growth_kb'] = run('growth', device=device)
    atomic_write_text(out, json.dumps(result, indent=1))
    print(describe_run(result), tabulate(table(result), headers='keys'), tabulate(facts(result)),
          *(f'no figure for {v}: {why}' for v,why in result['failures'].items()), f'raw results: {out}',
          sep='\n\n')
    own = [v for v in result['failures'] if VARIANTS[v][2] == 'own']
    sys.exit(bool(own))

if __name__ == '__main__':
    if sys.argv[1:2] == ['work']:
        _, _, DEVICE, what, *rest = sys.argv
        print(json.dumps({'loop': work, 'resnet': resnet, 'growth': growth}[what](*rest)))
    else:
        sys.path.insert(0, str(Path(__file__).parent))
        import argparse
        a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        a.add_argument('--rounds', type=int, default=4)
        a.add_argument('--device', default='cpu')
        a.add_argument('--skip', nargs='*', default=[])
        a.add_argument('--quick', action='store_true', help='the small loops only')
        a.add_argument('--out')
        main(**vars(a.parse_args()))
