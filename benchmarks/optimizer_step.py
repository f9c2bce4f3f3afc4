"""What one step of an optimizer costs, side by side.

    python benchmarks/optimizer_step.py                      # the whole table; results/benchmarks/
    python benchmarks/optimizer_step.py --rounds 1 --steps 5 # a quick look
    python benchmarks/optimizer_step.py --again floor        # one variant anew, into the result that is there

Each variant runs in a process of its own, and the processes take turns, since two fused steps in one
process disturb each other's threads and a machine is not equally fast at all times. Only ratios within one
round are to be trusted.

The C library is told not to give freed memory back to the system: whether it does so between two backward
passes depends on what else lies on the heap, costs some milliseconds for the gradients of a ResNet-34, and
has nothing to do with the optimizer."""
import json, statistics, sys, time
from pathlib import Path

# variant: (what it is called, environment)
VARIANTS = dict(ours='callbacks, per parameter', pieces="callbacks, fused='flat'",
                fused='callbacks, fused=True', loop='PyTorch, for-loop', foreach='PyTorch, foreach',
                torch_fused='PyTorch, fused', fastai='fastai', floor="the memory's limit")
GROWN = 3 # in how many rounds the growing sizes are measured, too
# bytes for a weight and step: everything is read once, everything but the gradient written once
BYTES = dict(adam=28, sgd=20, rmsprop=20)
NUMBERS = dict(adam=4, sgd=3, rmsprop=3) # a weight, its gradient and its averages

def shapes(model):
    "The parameter shapes of a model"
    if model == 'small': return [(1000,)]*1000
    if model.startswith('n='): return [(int(float(model[2:]))//10,)]*10
    import torchvision
    return [tuple(p.shape) for p in torchvision.models.resnet34(num_classes=10).parameters()]

def ours(variant, ps):
    "Our optimizers: one callback after the other, in sweeps, or in compiled sweeps"
    from imagenette_train.all import SGD, Adam, RMSProp
    f = dict(ours=False, pieces='flat', fused=True)[variant]
    return dict(adam=lambda: Adam(ps, 1e-3, wd=0.01, fused=f), sgd=lambda: SGD(ps, 1e-3, mom=0.9, fused=f),
                rmsprop=lambda: RMSProp(ps, 1e-3, fused=f))

def fastais(ps):
    from fastai.optimizer import SGD, Adam, RMSProp
    return dict(adam=lambda: Adam(ps, 1e-3, wd=0.01), sgd=lambda: SGD(ps, 1e-3, mom=0.9),
                rmsprop=lambda: RMSProp(ps, 1e-3))

def pytorchs(variant, ps):
    import torch
    kw = dict(loop=dict(foreach=False), foreach=dict(foreach=True), torch_fused=dict(fused=True))[variant]
    # PyTorch has no fused RMSProp
    rmsprop = lambda: None if variant == 'torch_fused' else torch.optim.RMSprop(ps, 1e-3, **kw)
    return dict(adam=lambda: torch.optim.AdamW(ps, 1e-3, weight_decay=0.01, **kw),
                sgd=lambda: torch.optim.SGD(ps, 1e-3, momentum=0.9, **kw), rmsprop=rmsprop)

def make(variant, optim, ps):
    "The optimizer; all with the same settings"
    if variant in ('ours', 'fused', 'pieces'): return ours(variant, ps)[optim]()
    return (fastais(ps) if variant == 'fastai' else pytorchs(variant, ps))[optim]()

def memory(field):
    "A line of Linux's account of this process's memory, in MB; 0 elsewhere"
    try:
        lines = Path('/proc/self/status').read_text().splitlines()
        return next(int(l.split()[1])/1024 for l in lines if l.startswith(field))
    except (OSError, StopIteration): return 0.

def stopwatch(device):
    "A function that gives the milliseconds of a call"
    import torch
    sync = torch.cuda.synchronize if device == 'cuda' else lambda: None
    def ms(f):
        sync()
        t = time.perf_counter()
        f()
        sync()
        return 1e3*(time.perf_counter()-t)
    return ms

def floor(optim, model, device, steps):
    "The memory's limit: scaling in place reads and writes each number once, 8 bytes"
    import torch
    # as many numbers as a step looks at: fewer might fit into a cache that the step's do not fit into
    n = NUMBERS[optim]
    weights, ms = sum(torch.Size(s).numel() for s in shapes(model)), stopwatch(device)
    buf = torch.ones(n*weights, device=device)
    for _ in range(3): buf.mul_(1.0001)
    return dict(step_ms=[ms(lambda: buf.mul_(1.0001))*BYTES[optim]/(8*n) for _ in range(steps)])

def forget_peak(device):
    "Start to watch how much memory is taken; gives a function that says how many MB more there were"
    import torch
    if device == 'cuda':
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        return lambda: (torch.cuda.max_memory_allocated()-held)/2**20
    try: Path('/proc/self/clear_refs').write_text('5')
    except OSError: pass
    before = memory('VmRSS')
    return lambda: memory('VmHWM') - before

def iterations(opt, ps, cs, ms, zero, n):
    "Milliseconds of zero_grad, backward and step"
    # the gradients are tensors made anew, as a network's are
    whole = []
    for _ in range(n):
        loss = sum((p*c).sum() for p,c in zip(ps, cs))
        def iteration():
            zero()
            loss.backward()
            opt.step()
        whole.append(ms(iteration))
    return whole

def work(variant, optim, model, device, steps):
    "What one process measures; prints JSON"
    import torch
    torch.manual_seed(0)
    if variant == 'floor': return floor(optim, model, device, steps)
    ps = [torch.nn.Parameter(torch.randn(s, device=device)*0.05) for s in shapes(model)]
    cs = [torch.randn_like(p)*0.01 for p in ps]
    opt, ms = make(variant, optim, ps), stopwatch(device)
    if opt is None: return None
    for p,c in zip(ps, cs): p.grad = c.clone()
    first = ms(opt.step) + ms(opt.step)
    extra = forget_peak(device)
    step = [ms(opt.step) for _ in range(steps)]
    extra = extra()
    # as each library's own training loop does
    zero = opt.zero_grad if variant == 'fastai' else lambda: opt.zero_grad(set_to_none=True)
    whole = iterations(opt, ps, cs, ms, zero, min(15, max(2, steps//2))) # each of them makes a graph
    return dict(step_ms=step, iteration_ms=whole, first_ms=first, extra_mb=extra)

def medians(runs, variant, key='step_ms'):
    "Of a variant: round -> median"
    return {r['round']: statistics.median(r[key]) for r in runs if r['variant'] == variant and r.get(key)}

def mid(values): return statistics.median(values) if values else None

def ratio(a, b): return statistics.median(a[i]/b[i] for i in a if i in b)

def ratios(a, b):
    "The median of the ratios within rounds, and the smallest and largest of them, as text"
    rs = sorted(a[i]/b[i] for i in a if i in b)
    return f'{statistics.median(rs):.2f} ({rs[0]:.2f} to {rs[-1]:.2f})' if rs else ''

def use_fastest_step(runs):
    "PyTorch's fastest variant"
    theirs = [v for v in ('torch_fused', 'foreach', 'loop') if medians(runs, v)]
    return min(theirs, key=lambda v: mid(medians(runs, v).values()))

def compared(result, optim, model, shown=('ours', 'fused', 'fastai', 'floor')):
    "Of each variant: its time over PyTorch's fastest, within rounds, and seconds of the first two steps"
    runs = [r for r in result['runs'] if (r['optim'], r['model']) == (optim, model)]
    best, rows = use_fastest_step(runs), {}
    for v in shown:
        if not medians(runs, v): continue
        firsts = [r['first_ms']/1e3 for r in runs if r['variant'] == v and 'first_ms' in r]
        rows[v] = ratios(medians(runs, v), medians(runs, best)), statistics.median(firsts) if firsts else None
    return VARIANTS[best], rows

def row(runs, v, best):
    "The row of variant `v` in the table"
    ts, rs = medians(runs, v), [r for r in runs if r['variant'] == v]
    is_floor = v == 'floor'
    return {'variant': VARIANTS[v], 'ms a step': mid(ts.values()),
            'spread': f'{min(ts.values()):.1f} to {max(ts.values()):.1f}',
            'with zero_grad and accumulation': mid(medians(runs, v, 'iteration_ms').values()),
            f"over {VARIANTS[best]}, within rounds": ratios(ts, medians(runs, best)),
            'over the limit': ratios(ts, medians(runs, 'floor')),
            'extra MB': None if is_floor else statistics.median(r.get('extra_mb', 0) for r in rs),
            'first two steps, s': None if is_floor else max(r.get('first_ms', 0) for r in rs)/1e3}

def table(result, optim, model):
    "Rows of the table of one optimizer and model: medians over rounds, and ratios within rounds"
    runs = [r for r in result['runs'] if (r['optim'], r['model']) == (optim, model)]
    best = use_fastest_step(runs)
    return [row(runs, v, best) for v in VARIANTS if medians(runs, v)]

# freed memory is not given back to the system
KEEP = dict(MALLOC_TRIM_THRESHOLD_=str(2**40), MALLOC_MMAP_THRESHOLD_=str(2**25))

def measure(variant, optim, model, device, steps):
    "What a process of its own measured"
    from envs import environ, result_of
    library = 'fastai' if variant == 'fastai' else 'own'
    return result_of(library, [__file__, 'work', variant, optim, model, device, steps], environ(**KEEP))

def failed(result, i, optim, model, variant, error):
    "Keep why there is no figure, once for each variant, and go on"
    if variant not in result['failures']:
        print(f'{variant}, {optim}, {model}: no figure, since {error}', file=sys.stderr)
    result['failures'].setdefault(variant, f'{optim}, {model}, round {i}: {error}')

def planned(models, optims, growth, skip=()):
    "Every (optimizer, model, variant) to measure"
    plan = [(o, m, v) for m in models for o in optims for v in VARIANTS if v not in skip]
    sizes = ('1e5', '1e6', '1e7', '1e8') if growth else ()
    grown = [v for v in ('ours', 'fused', 'torch_fused', 'floor') if v not in skip]
    return plan + [('adam', f'n={n}', v) for n in sizes for v in grown]

def without(file, variants, environment):
    "The result in `file` without what was measured of `variants`, which is measured again"
    result = json.loads(Path(file).read_text())
    there, here = (e['device_name'] for e in (result['environment'], environment))
    if there != here: raise SystemExit(f"{file} was measured on {there}, and this is {here}: measure it anew")
    result['runs'] = [r for r in result['runs'] if r['variant'] not in variants]
    result.setdefault('later', []).append(dict(variants=list(variants), environment=environment))
    return result

def measure_round(result, i, plan, device, steps):
    "One process for each (optimizer, model, variant) of `plan`"
    for optim,model,variant in plan:
        try: got = measure(variant, optim, model, device, steps)
        except RuntimeError as e: got = failed(result, i, optim, model, variant, e)
        if got: result['runs'].append(dict(round=i, optim=optim, model=model, variant=variant, **got))

def print_tables(result, models, optims):
    "What was measured, and what could not be"
    from tabulate import tabulate
    for m in models:
        for o in optims:
            print(f'\n{o}, {m}:')
            print(tabulate(table(result, o, m), headers='keys', floatfmt='.2f'))
    print(*(f'no figure for {v}: {why}' for v,why in result['failures'].items()), sep='\n')

def main(rounds=7, steps=60, models=('resnet34', 'small'), optims=('adam', 'sgd', 'rmsprop'), growth=True,
         device=None, out=None, skip=(), again=()):
    import torch
    from imagenette_train.core.io import atomic_write_text
    from imagenette_train.experiments.results import environment_info
    device = device or ('cuda' if torch.cuda.is_available() else 'cpu')
    out = Path(out or Path(__file__).parent.parent/f'results/benchmarks/optimizer_step-{device}.json')
    settings = dict(rounds=rounds, steps=steps, bytes=BYTES, numbers=NUMBERS)
    result = dict(settings=settings, environment=environment_info(device), runs=[], failures={})
    if again:
        result, skip = without(out, again, result['environment']), VARIANTS.keys() - again
        rounds, steps = (result['settings'][k] for k in ('rounds', 'steps'))
    for i in range(rounds):
        measure_round(result, i, planned(models, optims, growth and i < GROWN, skip), device, steps)
        # what was there before stays whole until all is measured again
        if not again or i == rounds-1: atomic_write_text(out, json.dumps(result, indent=1))
        print(f'round {i+1} of {rounds} done', file=sys.stderr)
    print_tables(result, models, optims)
    print(f'\nraw results: {out}')
    sys.exit(bool(result['failures'].keys() - {'fastai'}))

if __name__ == '__main__':
    if sys.argv[1:2] == ['work']: print(json.dumps(work(*sys.argv[2:6], int(sys.argv[6]))))
    else:
        sys.path.insert(0, str(Path(__file__).parent))
        import argparse
        a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        a.add_argument('--rounds', type=int, default=7)
        a.add_argument('--steps', type=int, default=60)
        a.add_argument('--models', nargs='*', default=['resnet34', 'small'])
        a.add_argument('--optims', nargs='*', default=['adam', 'sgd', 'rmsprop'])
        a.add_argument('--skip', nargs='*', default=[])
        a.add_argument('--again', nargs='*', default=[], choices=list(VARIANTS))
        a.add_argument('--no-growth', dest='growth', action='store_false')
        a.add_argument('--device')
        a.add_argument('--out')
        main(**vars(a.parse_args()))
