"""Is a fused step the same as a step per parameter? Trainings drawn at random by hypothesis: callbacks that
read this and that, layouts, groups, and what may happen between two steps.

    python tools/fused_fuzz.py --examples 10000     # 'flat', compared to the last bit
    python tools/fused_fuzz.py --examples 20 --compiled

A difference is reduced to its shortest form, and printed; part of `make soak`, and, with few examples, of
`make test` and `make check`."""
import argparse, copy, os, time, warnings
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
os.environ.setdefault('OMP_NUM_THREADS', '1')
import torch
from torch import nn
from hypothesis import HealthCheck, given, seed, settings, strategies as st
from imagenette_train.core.fused import FusedStep
from imagenette_train.optim.variants import *
from imagenette_train.all import *
torch.set_num_threads(1)
FusedStep.sizes = dict(cpu=(20, 30)) # so small that there are large tensors, lots, and more than one lot

# --- callbacks: ours, and those that read something outside themselves

def outside(env):
    "Callbacks by name; `env` is what some of them read, and what `changes` change"
    def closure(p, lr, **kwargs): p.data.add_(p.grad.data, alpha=-lr*env.factor)
    def table(p, lr, **kwargs): p.data.add_(p.grad.data, alpha=-lr*env.table['factor'])
    def counter(p, lr, **kwargs):
        env.count += 1
        p.data.mul_(1 - lr/(10 + env.count))
    def picks(p, lr, **kwargs): p.data.add_(p.grad.data, alpha=-lr*(2 if p is env.first else 1))
    def by_type(p, lr, **kwargs): p.data.sub_(p.grad.data*(lr if isinstance(p, nn.Parameter) else 1.))
    def random_rate(p, lr, **kwargs): p.data.add_(p.grad.data, alpha=-lr*torch.rand(()).item())
    fs = closure, table, counter, picks, by_type, random_rate
    return {f.__name__: f for f in fs}

def difficult():
    "Callbacks by name that do something else which is not easily recorded"
    def keeps_gradient(p, lr, prev=None, **kwargs):
        if prev is not None: p.data.add_(prev, alpha=-lr)
        return dict(prev=p.grad)
    def halves_gradient(p, **kwargs): p.grad.data.mul_(0.5)
    def branch(p, lr, wd=0., do_wd=True, **kwargs):
        if do_wd and wd > 0.05: p.data.mul_(1 - lr*wd)
    def centred(p, lr, **kwargs): p.data.sub_(lr*(p.grad.data - p.grad.data.mean()))
    def by_rows(p, lr, rows=None, **kwargs):
        new = p.grad.data.abs().mean(dim=-1, keepdim=True) if p.ndim > 1 else p.grad.data.norm()
        rows = new.clone() if rows is None else rows.lerp_(new, 0.5)
        p.data.sub_(p.grad.data*rows, alpha=lr)
        return dict(rows=rows)
    def shrinks(p, lr, grad_size=0., **kwargs): p.data.mul_(1 - lr*min(1., grad_size))
    def by_all(params, states, grad_size=0., lr=0., **kwargs):
        return dict(grad_size=0.5*grad_size + sum(p.grad.abs().sum() for p in params) + len(states))
    by_all.all_params = True
    fs = keeps_gradient, halves_gradient, branch, centred, by_rows, shrinks, by_all
    return {f.__name__: f for f in fs}

def extras(env): return {**outside(env), **difficult()}

def grad_norm(params, norm=None, **kwargs):
    return dict(norm=torch.stack([p.grad.norm() for p in params]).norm())
grad_norm.all_params = True
def clip_by_norm(p, norm, max_norm, **kwargs): p.grad.mul_(min(1., max_norm/(norm + 1e-6)))

l2 = dict(wd=0.1, decouple_wd=False)
recipes = dict(SGD=SGD, momentum=partial(SGD, mom=0.9, wd=0.1), SGD_l2=partial(SGD, mom=0.9, **l2),
               RMSProp=partial(RMSProp, mom=0.9), Adam=Adam, Adam_l2=partial(Adam, **l2), AMSGrad=AMSGrad,
               Lion=Lion, NAdam=NAdam, CautiousAdam=CautiousAdam, AdaBelief=AdaBelief, LAMB=LAMB, LARC=LARC,
               Adafactor=Adafactor, Prodigy=partial(Prodigy, d0=0.01), clipped=partial(
                   Optimizer, cbs=[grad_norm, clip_by_norm, average_grad, momentum_step], max_norm=1.))

# --- parameters: shapes, and how they lie in memory

layouts = dict(plain=lambda t: t, transposed=lambda t: t.mT.contiguous().mT,
               every_other=lambda t: torch.stack([t, t], -1)[..., 0],
               channels_last=lambda t: t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t)
shapes = [(), (1,), (5,), (31,), (3, 4), (1, 7), (6, 1, 2), (2, 3, 2, 2), (0,), (12,)]

def parameters(drawn, gen, dtype):
    "Parameters of the drawn shapes and layouts"
    def make(shape, layout):
        return layouts[layout if len(shape) > 1 else 'plain'](torch.randn(shape, generator=gen))
    return [nn.Parameter(make(*d).to(dtype)) for d in drawn]

# --- what may happen before a step: each is given the optimizer, its parameters, `env` and a number

def set_lr(opt, ps, env, k): opt.set_hypers(lr=[0.1, 0.02, 0.][k % 3])
def set_wd(opt, ps, env, k):
    if 'wd' in opt.hypers[0]: opt.set_hypers(wd=[0., 0.01, 0.2][k % 3])
def set_factor(opt, ps, env, k): env.factor = [0.5, 1., 2.][k % 3]
def set_table(opt, ps, env, k): env.table['factor'] = float(k)
def set_flag(opt, ps, env, k): opt.state[ps[k % len(ps)]]['do_wd'] = k % 2 == 0
def no_gradient(opt, ps, env, k): ps[k % len(ps)].grad = None
def new_memory(opt, ps, env, k): ps[k % len(ps)].data = ps[k % len(ps)].data.clone()
def new_layout(opt, ps, env, k):
    p = ps[k % len(ps)]
    if p.ndim > 1: p.data = layouts['transposed'](p.data.clone())
def one_memory(opt, ps, env, k):
    p, alike = ps[k % len(ps)], [q for q in ps if q.shape == ps[k % len(ps)].shape]
    alike[-1].data = p.data
def one_gradient(opt, ps, env, k):
    p, alike = ps[k % len(ps)], [q for q in ps if q.shape == ps[k % len(ps)].shape]
    alike[-1].grad = p.grad
def expanded_gradient(opt, ps, env, k):
    p = ps[k % len(ps)]
    p.grad = torch.ones((), dtype=p.dtype).expand(p.shape)
def turned_gradient(opt, ps, env, k):
    p = ps[k % len(ps)]
    if p.ndim > 1 and p.grad is not None: p.grad = layouts['transposed'](p.grad)
def one_state(opt, ps, env, k):
    p, alike = ps[k % len(ps)], [q for q in ps if q.shape == ps[k % len(ps)].shape]
    opt.state[alike[-1]] = opt.state[p]
def new_group(opt, ps, env, k):
    p = nn.Parameter(torch.full((3 + k,), 0.5, dtype=ps[0].dtype))
    ps.append(p)
    opt.add_param_group({'params': [p]})
def reload(opt, ps, env, k): opt.load_state_dict(copy.deepcopy(opt.state_dict()))
def forget(opt, ps, env, k): opt.clear_state()
changes = [set_lr, set_wd, set_factor, set_table, set_flag, no_gradient, new_memory, new_layout, one_memory,
           one_gradient, expanded_gradient, turned_gradient, one_state, new_group, reload, forget]

# --- a training, once in each mode

@dataclass
class Drawn:
    "A training: recipe, one of the `extras` and where it stands, parameters, changes before each step"
    recipe: str
    extra: str
    first: bool
    params: list
    double: bool
    steps: list
    in_place: bool

def trained(d, fused):
    "What optimizer, parameters and gradients hold after each step"
    env, gen = SimpleNamespace(factor=1., table=dict(factor=1.), count=0), torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    ps = parameters(d.params, gen, torch.float64 if d.double else torch.float32)
    env.first = ps[0]
    half = max(1, len(ps)//2)
    opt = recipes[d.recipe]([ps[:half], ps[half:]] if len(ps) > 1 else ps, lr=0.05)
    opt.fused = fused
    if d.extra: opt.cbs.insert(0 if d.first else len(opt.cbs), extras(env)[d.extra])
    for todo in d.steps:
        for p in ps: new_gradient(p, gen, d.in_place)
        for change,k in todo: change(opt, ps, env, k)
        opt.step()
        yield snapshot(opt, ps)

def new_gradient(p, gen, in_place):
    g = torch.randn(p.shape, generator=gen).to(p.dtype)
    if in_place and p.grad is not None and 0 not in p.grad.stride(): p.grad.copy_(g)
    else: p.grad = g

def snapshot(opt, ps):
    "Copies of everything that a step may change"
    keep = lambda v: v.detach().clone() if isinstance(v, torch.Tensor) else v
    each = [{'p': keep(p), 'grad': keep(p.grad), **{k: keep(v) for k,v in opt.state[p].items()}} for p in ps]
    return [*each, dict(opt.shared)]

def differ(a, b, tol):
    if type(a) is type(b) is float: a, b = map(torch.tensor, (a, b))
    if not isinstance(a, torch.Tensor): return a != b
    if a.shape != b.shape or a.dtype != b.dtype: return True
    return not torch.allclose(a, b, rtol=tol, atol=tol, equal_nan=True)

def until_error(steps):
    "The steps before one that fails, as writing to an expanded gradient does"
    try: yield from steps
    except RuntimeError: pass

def check(d, fused, tol):
    "An error if the training `d` goes another way in mode `fused`"
    with warnings.catch_warnings():
        warnings.simplefilter('ignore') # a fall-back says so, and is right
        both = [list(until_error(trained(d, mode))) for mode in (False, fused)]
        for i,(want,got) in enumerate(zip(*both, strict=True)): # both fail at the same step, or none
            for j,(a,b) in enumerate(zip(want, got, strict=True)):
                wrong = [k for k in a.keys() | b.keys() if differ(a.get(k), b.get(k), tol)]
                assert not wrong, f'step {i}, parameter {j}: fused={fused!r} gives another {wrong}'

# --- drawn

def trainings():
    "A strategy for `Drawn`"
    layout = st.tuples(st.sampled_from(shapes), st.sampled_from(sorted(layouts)))
    change = st.tuples(st.sampled_from(changes), st.integers(0, 5))
    some = lambda s, n: st.lists(s, max_size=n)
    return st.builds(Drawn, st.sampled_from(sorted(recipes)), st.sampled_from([None, *sorted(extras(None))]),
                     st.booleans(), st.lists(layout, min_size=1, max_size=6), st.booleans(),
                     st.lists(some(change, 3), min_size=2, max_size=6), st.booleans())

def fuzz(n, start=0, compiled=False):
    "Draw `n` trainings; gives how many were tried, or raises with the shortest that differs"
    tried = []
    @seed(start)
    @settings(max_examples=n, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(trainings())
    def run(d):
        tried.append(1)
        check(d, *((True, 1e-4) if compiled else ('flat', 0.)))
    run()
    return len(tried)

def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument('--examples', type=int, default=200)
    a.add_argument('--seed', type=int, default=0)
    a.add_argument('--compiled', action='store_true', help='fused=True; compiling takes seconds each time')
    a = a.parse_args()
    t = time.time()
    n = fuzz(a.examples, a.seed, a.compiled)
    print(f'{n} trainings drawn, none went another way ({time.time()-t:.0f} s)')

if __name__ == '__main__': main()
