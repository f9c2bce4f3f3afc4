"""What the training loop itself costs, side by side.

    python benchmarks/loop_overhead.py             # raw results to results/benchmarks/
    python benchmarks/loop_overhead.py --rounds 1  # a quick look

Microseconds a batch on a model so small that the loop is what takes the time (a linear layer, batches of 20
rows, one thread, batches ready in memory), each variant in a process of its own, the processes taking
turns, the fastest epoch of all counts (what else the machine does can only add); fastai, Lightning, Ignite
and Accelerate each in an environment of its own. Then the epoch of a ResNet-34 at 64 px, ours over a hand-
written loop; the time to import the library; and the memory that 10,000 batches leave behind."""
import json, os, statistics, subprocess, sys, time, warnings
from pathlib import Path

VARIANTS = dict(hand='hand-written loop', hand_own='hand-written loop, our SGD', bare='ours, no callback',
                default='ours, default callbacks', ten='ours, ten callbacks',
                wrapped="ours, default callbacks, PyTorch's SGD", ignite='Ignite', accelerate='Accelerate',
                fastai='fastai', lightning='Lightning')

def data(n=2000, bs=20):
    import torch
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n*bs, 10, generator=g)
    y = x @ torch.randn(10, 1, generator=g)
    return list(zip(x.split(bs), y.split(bs)))

OWN = ('hand_own', 'bare', 'default', 'ten') # these step with our SGD, all others with PyTorch's

def hand(batches, SGD=None):
    import torch, torch.nn.functional as F
    model = torch.nn.Linear(10, 1)
    opt = (SGD or torch.optim.SGD)(model.parameters(), lr=1e-3)
    def epoch():
        model.train()
        for xb,yb in batches:
            loss = F.mse_loss(model(xb), yb)
            loss.backward()
            opt.step()
            opt.zero_grad(set_to_none=True)
    return epoch

def hand_own(batches):
    from imagenette_train.momentum import SGD
    return hand(batches, SGD)

def ours(batches, kind):
    from functools import partial
    import torch, torch.nn.functional as F
    from imagenette_train.all import Learner, DataLoaders, SGD, Callback, OptimWrapper
    if kind == 'bare': Learner.default_cbs = []
    class Listens(Callback):
        def begin_batch(self): pass
        def after_batch(self): pass
    opt_func = partial(OptimWrapper, opt=torch.optim.SGD) if kind == 'wrapped' else SGD
    cbs = [Listens() for _ in range(7)] if kind == 'ten' else None
    dls = DataLoaders(batches, None)
    learn = Learner(dls, torch.nn.Linear(10, 1), F.mse_loss, opt_func, lr=1e-3, cbs=cbs)
    learn.training = True
    if kind != 'bare': learn.logger = None
    return lambda: learn.fit(1)

def ignite(batches):
    import torch, torch.nn.functional as F
    from ignite.engine import Engine
    model = torch.nn.Linear(10, 1)
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
    return lambda: trainer.run(batches, max_epochs=1)

def accelerate(batches):
    import torch, torch.nn.functional as F
    from accelerate import Accelerator
    acc = Accelerator(cpu=True)
    model = torch.nn.Linear(10, 1)
    model, opt = acc.prepare(model, torch.optim.SGD(model.parameters(), lr=1e-3))
    def epoch():
        model.train()
        for xb,yb in batches:
            with acc.accumulate(model):
                loss = F.mse_loss(model(xb), yb)
                acc.backward(loss)
                opt.step()
                opt.zero_grad()
    return epoch

def fastai(batches):
    import torch, torch.nn.functional as F
    import fastai.callback.progress # noqa: F401 (it gives the Learner no_bar)
    from fastai.learner import Learner
    from fastai.data.core import DataLoaders
    from fastai.optimizer import SGD
    class Batches(list):
        device, n, bs, num_workers, before_iter = torch.device('cpu'), 40000, 20, 0, None
        def to(self, device): return self
    dls = DataLoaders(Batches(batches), Batches(batches[:1]), device=torch.device('cpu'))
    learn = Learner(dls, torch.nn.Linear(10, 1), loss_func=F.mse_loss, opt_func=SGD, lr=1e-3)
    def epoch():
        with learn.no_bar(), learn.no_logging(): learn.fit(1)
    return epoch

def lightning(batches):
    import logging, torch, torch.nn.functional as F
    import lightning as L
    logging.getLogger('lightning.pytorch').setLevel(logging.ERROR)
    class Model(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Linear(10, 1)
        def training_step(self, batch, i):
            xb, yb = batch
            return F.mse_loss(self.net(xb), yb)
        def configure_optimizers(self): return torch.optim.SGD(self.parameters(), lr=1e-3)
    class Batches: # a list would be taken for several loaders
        def __len__(self): return len(batches)
        def __iter__(self): return iter(batches)
    model, loader = Model(), Batches()
    def epoch():
        trainer = L.Trainer(max_epochs=1, accelerator='cpu', logger=False, enable_checkpointing=False,
                            enable_progress_bar=False, enable_model_summary=False)
        trainer.fit(model, loader)
    return epoch

def work(variant):
    "Microseconds a batch, five times"
    import torch
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    batches = data()
    is_ours = variant in ('bare', 'default', 'ten', 'wrapped')
    epoch = ours(batches, variant) if is_ours else globals()[variant](batches)
    epoch()
    out = []
    for _ in range(5):
        t = time.perf_counter()
        epoch()
        out.append(1e6*(time.perf_counter()-t)/len(batches))
    return out

def resnet(pairs=10, n=6, bs=32):
    "Seconds of an epoch of `n` batches, hand-written and ours, as pairs in turn; both with our SGD"
    import torch, torch.nn.functional as F
    from torchvision.models import resnet34
    from imagenette_train.all import Learner, DataLoaders, SGD
    torch.manual_seed(0)
    batches = [(torch.randn(bs, 3, 64, 64), torch.randint(0, 10, (bs,))) for _ in range(n)]
    model, other = resnet34(num_classes=10), resnet34(num_classes=10)
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
            t = time.perf_counter()
            loops[k]()
            pair[k] = time.perf_counter()-t
        out.append(pair)
    return out

def growth():
    "Kilobytes that the process has grown by after each of five times 2,000 batches"
    import gc, torch
    torch.set_num_threads(1)
    def rss():
        lines = Path('/proc/self/status').read_text().splitlines()
        return next(int(l.split()[1]) for l in lines if l.startswith('VmRSS'))
    epoch = ours(data(), 'default')
    def after_an_epoch():
        epoch()
        gc.collect()
        return rss()
    start = after_an_epoch()
    return [after_an_epoch()-start for _ in range(5)]

def run(*args, env_of='own'):
    from envs import python_of
    env = {**os.environ, 'PYTHONWARNINGS': 'ignore', 'PYTHONPATH': str(Path(__file__).parent.parent)}
    cmd = [python_of(env_of), __file__, 'work', *args]
    done = subprocess.run(cmd, capture_output=True, text=True, env=env)
    if done.returncode: raise SystemExit(f'{args} failed:\n{done.stderr[-2000:]}')
    return json.loads(done.stdout.strip().splitlines()[-1])

def import_time(what):
    "Seconds that `what` takes in a fresh Python"
    code = f"import time; t = time.perf_counter(); {what}; print(time.perf_counter()-t)"
    env = {**os.environ, 'PYTHONPATH': str(Path(__file__).parent.parent)}
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, env=env)
    return float(done.stdout)

def table(result):
    # the fastest of all processes: what else the machine does can only add
    best = {v: min(min(r['us']) for r in rs) for v,rs in result['loop'].items()}
    rows = []
    for v,label in VARIANTS.items():
        if v not in best: continue
        same = best['hand_own' if v in OWN else 'hand'] # the hand-written loop with the same optimizer
        rows.append({'loop': label, 'µs a batch': best[v], 'over hand-written, same SGD': best[v]-same,
                     'times hand-written': best[v]/same})
    return rows

def facts(result):
    ratio = lambda pairs: statistics.median(a/b for a,b in pairs)
    pairs, imports = result['resnet'], result['import']
    epoch = ratio((p['ours'], p['hand']) for p in pairs)
    fastest = min(p['ours'] for p in pairs)/min(p['hand'] for p in pairs)
    return [['epoch of ResNet-34 at 64 px, ours / hand-written: median of pairs', f"{epoch:.3f}"],
            ['the same, fastest / fastest', f"{fastest:.3f}"],
            ['import of imagenette_train.all / of torch and torchvision',
             f"{ratio(zip(imports['ours'], imports['torch'])):.2f}"],
            ['memory after 2,000, 4,000, ... 10,000 further batches, KB',
             ', '.join(map(str, result['growth_kb']))]]

def main(rounds=5, out=None):
    from imagenette_train.files import write_whole
    from imagenette_train.results import environment
    from tabulate import tabulate
    out = Path(out or Path(__file__).parent.parent/'results'/'benchmarks'/'loop_overhead-cpu.json')
    result = dict(settings=dict(rounds=rounds), environment=environment('cpu'))
    result |= dict(loop={}, resnet=[], growth_kb=None)
    result['import'] = dict(torch=[], ours=[])
    for i in range(rounds):
        for v in VARIANTS:
            env_of = v if v in ('ignite', 'accelerate', 'fastai', 'lightning') else 'own'
            result['loop'].setdefault(v, []).append(dict(us=run('loop', v, env_of=env_of)))
        result['resnet'] += run('resnet')
        imported = dict(torch='import torch, torchvision', ours='import imagenette_train.all')
        for k,what in imported.items(): result['import'][k].append(import_time(what))
        print(f'round {i+1} of {rounds} done', file=sys.stderr)
    result['growth_kb'] = run('growth')
    write_whole(out, json.dumps(result, indent=1))
    both = tabulate(table(result), headers='keys', floatfmt='.1f') + '\n\n' + tabulate(facts(result))
    print(f'{both}\n\nraw results: {out}')

if __name__ == '__main__':
    if sys.argv[1:2] == ['work']:
        _, _, what, *rest = sys.argv
        print(json.dumps({'loop': work, 'resnet': resnet, 'growth': growth}[what](*rest)))
    else:
        sys.path.insert(0, str(Path(__file__).parent))
        import argparse
        a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        a.add_argument('--rounds', type=int, default=5)
        a.add_argument('--out')
        main(**vars(a.parse_args()))
