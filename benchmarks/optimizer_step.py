"""What one step of an optimizer costs, side by side.

    python benchmarks/optimizer_step.py                      # the whole table; raw results to results/benchmarks/
    python benchmarks/optimizer_step.py --rounds 1 --steps 5 # a quick look

Each variant runs in a process of its own, and the processes take turns, since two fused steps in one process disturb each
other's threads and a machine is not equally fast at all times. Only ratios within one round are to be trusted.

The C library is told not to give freed memory back to the system: whether it does so between two backward passes depends on
what else lies on the heap, costs some milliseconds for the gradients of a ResNet-34, and has nothing to do with the optimizer."""
import json, os, statistics, subprocess, sys, time
from pathlib import Path

# variant: (what it is called, environment)
VARIANTS = dict(ours='callbacks, per parameter', pieces='callbacks, fused=True, no compiler', fused='callbacks, fused=True', loop='PyTorch, for-loop',
                foreach='PyTorch, foreach', torch_fused='PyTorch, fused', fastai='fastai', floor="the memory's limit")
BYTES = dict(adam=28, sgd=20, rmsprop=20) # a weight and step: everything read once, everything but the gradient written once

def shapes(model):
    "The parameter shapes of a model"
    if model == 'small': return [(1000,)]*1000
    if model.startswith('n='): return [(int(float(model[2:]))//10,)]*10
    import torchvision
    return [tuple(p.shape) for p in torchvision.models.resnet34(num_classes=10).parameters()]

def make(variant, optim, ps):
    "The optimizer; all with the same settings"
    import torch
    if variant in ('ours', 'fused', 'pieces'):
        from imagenette_train.all import SGD, Adam, RMSProp
        import imagenette_train.fused as fused
        if variant == 'pieces': fused.kernel = lambda *args: None
        f = variant != 'ours'
        return {'adam': lambda: Adam(ps, 1e-3, wd=0.01, fused=f), 'sgd': lambda: SGD(ps, 1e-3, mom=0.9, fused=f), 'rmsprop': lambda: RMSProp(ps, 1e-3, fused=f)}[optim]()
    if variant == 'fastai':
        from fastai.optimizer import SGD, Adam, RMSProp
        return {'adam': lambda: Adam(ps, 1e-3, wd=0.01), 'sgd': lambda: SGD(ps, 1e-3, mom=0.9), 'rmsprop': lambda: RMSProp(ps, 1e-3)}[optim]()
    kw = {'loop': dict(foreach=False), 'foreach': dict(foreach=True), 'torch_fused': dict(fused=True)}[variant]
    if optim == 'rmsprop' and variant == 'torch_fused': return None # PyTorch has none
    return {'adam': lambda: torch.optim.AdamW(ps, 1e-3, weight_decay=0.01, **kw), 'sgd': lambda: torch.optim.SGD(ps, 1e-3, momentum=0.9, **kw),
            'rmsprop': lambda: torch.optim.RMSprop(ps, 1e-3, **kw)}[optim]()

def memory(field):
    "A line of Linux's account of this process's memory, in MB; 0 elsewhere"
    try: return next(int(l.split()[1])/1024 for l in Path('/proc/self/status').read_text().splitlines() if l.startswith(field))
    except (OSError, StopIteration): return 0.

def work(variant, optim, model, device, steps):
    "What one process measures; prints JSON"
    import torch
    torch.manual_seed(0)
    sync = torch.cuda.synchronize if device == 'cuda' else lambda: None
    def ms(f):
        sync(); t = time.perf_counter(); f(); sync()
        return 1e3*(time.perf_counter()-t)
    if variant == 'floor': # scaling in place reads and writes each number once: 8 bytes
        buf = torch.ones(sum(torch.Size(s).numel() for s in shapes(model)), device=device)
        for _ in range(3): buf.mul_(1.0001)
        ts = [ms(lambda: buf.mul_(1.0001))*BYTES[optim]/8 for _ in range(steps)]
        return dict(step_ms=ts)
    ps = [torch.nn.Parameter(torch.randn(s, device=device)*0.05) for s in shapes(model)]
    cs = [torch.randn_like(p)*0.01 for p in ps]
    opt = make(variant, optim, ps)
    if opt is None: return None
    for p,c in zip(ps, cs): p.grad = c.clone()
    first = ms(opt.step) + ms(opt.step)
    try: Path('/proc/self/clear_refs').write_text('5') # forget the peak so far
    except OSError: pass
    before = memory('VmRSS')
    if device == 'cuda': torch.cuda.reset_peak_memory_stats(); held = torch.cuda.memory_allocated()
    step = [ms(opt.step) for _ in range(steps)]
    extra = (torch.cuda.max_memory_allocated()-held)/2**20 if device == 'cuda' else memory('VmHWM') - before
    zero = opt.zero_grad if variant == 'fastai' else lambda: opt.zero_grad(set_to_none=True) # as each library's own training loop does
    whole = []
    for _ in range(max(2, steps//2)):
        loss = sum((p*c).sum() for p,c in zip(ps, cs)) # its gradients are tensors made anew, as a network's are
        def iteration():
            zero(); loss.backward(); opt.step()
        whole.append(ms(iteration))
    return dict(step_ms=step, iteration_ms=whole, first_ms=first, extra_mb=extra)

def table(result, optim, model):
    "Rows of the table of one optimizer and model: medians over rounds, and ratios within rounds"
    runs = [r for r in result['runs'] if (r['optim'], r['model']) == (optim, model)]
    med = lambda v, k='step_ms': {r['round']: statistics.median(r[k]) for r in runs if r['variant'] == v and r.get(k)}
    best = min((v for v in ('torch_fused', 'foreach', 'loop') if med(v)), key=lambda v: statistics.median(med(v).values()))
    rows = []
    for v,label in VARIANTS.items():
        ts = med(v)
        if not ts: continue
        ratio = lambda to: statistics.median(ts[i]/med(to)[i] for i in ts if i in med(to))
        mid = lambda k: statistics.median(med(v, k).values()) if med(v, k) else None
        rs = [r for r in runs if r['variant'] == v]
        rows.append({'variant': label, 'ms a step': statistics.median(ts.values()), 'spread': f'{min(ts.values()):.1f} to {max(ts.values()):.1f}', 'with zero_grad and accumulation': mid('iteration_ms'),
                     f"of {VARIANTS[best]}": ratio(best), 'of the limit': ratio('floor'), 'extra MB': statistics.median(r.get('extra_mb', 0) for r in rs) if v != 'floor' else None,
                     'first two steps, s': max(r.get('first_ms', 0) for r in rs)/1e3 if v != 'floor' else None})
    return rows

def main(rounds=3, steps=30, models=('resnet34', 'small'), optims=('adam', 'sgd', 'rmsprop'), growth=True, device=None, out=None):
    import torch
    from imagenette_train.results import environment, write_whole
    from tabulate import tabulate
    from envs import python_of
    device = device or ('cuda' if torch.cuda.is_available() else 'cpu')
    out = Path(out or Path(__file__).parent.parent/'results'/'benchmarks'/f'optimizer_step-{device}.json')
    plan = [(o, m, v) for m in models for o in optims for v in VARIANTS]
    if growth: plan += [('adam', f'n={n}', v) for n in ('1e5', '1e6', '1e7', '1e8') for v in ('ours', 'fused', 'torch_fused', 'floor')]
    result = dict(settings=dict(rounds=rounds, steps=steps, bytes=BYTES), environment=environment(device), runs=[])
    env = {**os.environ, 'PYTHONWARNINGS': 'ignore', 'MALLOC_TRIM_THRESHOLD_': str(2**40), 'MALLOC_MMAP_THRESHOLD_': str(2**25), 'PYTHONPATH': str(Path(__file__).parent.parent)}
    for i in range(rounds):
        for optim,model,variant in plan:
            cmd = [python_of('fastai' if variant == 'fastai' else 'own'), __file__, 'work', variant, optim, model, device, str(steps)]
            done = subprocess.run(cmd, capture_output=True, text=True, env=env)
            if done.returncode: raise SystemExit(f'{variant}, {optim}, {model} failed:\n{done.stderr[-2000:]}')
            got = json.loads(done.stdout.strip().splitlines()[-1])
            if got: result['runs'].append(dict(round=i, optim=optim, model=model, variant=variant, **got))
        write_whole(out, json.dumps(result, indent=1))
        print(f'round {i+1} of {rounds} done', file=sys.stderr)
    for m in models:
        for o in optims: print(f'\n{o}, {m}:\n' + tabulate(table(result, o, m), headers='keys', floatfmt='.2f'))
    print(f'\nraw results: {out}')

if __name__ == '__main__':
    if sys.argv[1:2] == ['work']: print(json.dumps(work(*sys.argv[2:6], int(sys.argv[6]))))
    else:
        sys.path.insert(0, str(Path(__file__).parent))
        import argparse
        a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        a.add_argument('--rounds', type=int, default=3); a.add_argument('--steps', type=int, default=30)
        a.add_argument('--models', nargs='*', default=['resnet34', 'small']); a.add_argument('--optims', nargs='*', default=['adam', 'sgd', 'rmsprop'])
        a.add_argument('--no-growth', dest='growth', action='store_false'); a.add_argument('--device'); a.add_argument('--out')
        main(**vars(a.parse_args()))
