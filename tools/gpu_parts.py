"The parts of tools/gpu.py: each says what it finds, line by line."
import opening
import json, os, re, statistics, subprocess, sys, tempfile, time, traceback, warnings
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from unittest.mock import patch
import torch
from torch import nn
from imagenette_train.optim import muon, schedule_free, variants as recipes
from imagenette_train.all import *
from imagenette_train.core import fused as fused_module
from imagenette_train.core.batches import _has_fast_bf16
from imagenette_train.baseline import chapter_runs, profile_learner, run_configs
from imagenette_train.experiments.runner import Profile, profile_data, profiles
from imagenette_train.vision.synthetic import generate_images
from imagenette_train.experiments.results import environment_info
from imagenette_train.experiments.reproduce import reproduce
from imagenette_train.course.toy_problems import tiny_net, tiny_images

root = Path(__file__).resolve().parent.parent

class Part:
    "What a part is given: where to work, how large, and `say(what, value)`"
    def __init__(self, a, say, results):
        self.say, self.results, self.seeds = say, results, a.seeds
        self.rehearse, self.pretend = a.rehearse, a.pretend
        self.device, self.tmp = torch.device(a.device), Path(tempfile.mkdtemp())
        self.cuda = self.device.type == 'cuda' and not a.pretend # is there really one?
        self.profile, self.data = 'chapter', a.data
        if a.rehearse:
            self.profile, self.seeds = 'rehearsal', 1
            profiles['rehearsal'] = Profile('rehearsal', 'resnet18', 40, 32, 8, n_epoch=1)
            self.data = generate_images(self.tmp/'pictures', 4, 1)
            torch.set_num_threads(1)

    def attempt(self, what, f, *args):
        "Say what `f` gives; a failure is said, too"
        try: value = f(*args)
        except Exception as e:
            traceback.print_exc(limit=-4)
            value = f'FAILED: {type(e).__name__}: {(str(e).splitlines() or [""])[0][:160]}'
        if value is not None: self.say(what, value)

    def dls(self):
        folder = find_imagenette(path=self.data, log=lambda s: None)
        return profile_data(profiles[self.profile], folder, self.device)

    def sync(self):
        if self.cuda: torch.cuda.synchronize()

    def seconds(self, f, n=20):
        "Median seconds of `f`, waited for"
        n, ts = 3 if self.rehearse else n, []
        for _ in range(n+2):
            self.sync(); t = time.perf_counter(); f(); self.sync()
            ts.append(time.perf_counter()-t)
        return statistics.median(ts[2:])

# --- env: the machine

def env(p):
    p.attempt('nvidia-smi', nvidia_smi) if p.cuda else p.say('nvidia-smi', 'only on a GPU')
    p.attempt('torch, CUDA, cuDNN', versions, p)
    p.attempt('copy on the device, GB/s read and written', copy_speed, p)
    for dtype in (torch.float16, torch.bfloat16):
        p.attempt(f'matrix product in {str(dtype)[6:]}, TFLOP/s', product_speed, p, dtype)
    p.attempt('one tiny launch from Python, µs', launch_cost, p)

def versions(p):
    cudnn = torch.backends.cudnn.version() if p.cuda else 'not asked'
    return f'{torch.__version__}, {torch.version.cuda}, {cudnn}'

def nvidia_smi():
    what = 'name,driver_version,clocks.sm,clocks.mem,power.limit,memory.total'
    cmd = ['nvidia-smi', f'--query-gpu={what}', '--format=csv,noheader']
    return subprocess.run(cmd, capture_output=True, text=True, check=True).stdout.strip()

def copy_speed(p):
    n = 2**31 if p.cuda else 2**24
    x,y = (torch.zeros(n, dtype=torch.uint8, device=p.device) for _ in range(2))
    return round(2*n/p.seconds(lambda: y.copy_(x))/1e9)

def product_speed(p, dtype):
    k = 8192 if p.cuda else 128
    m = torch.randn(k, k, device=p.device).to(dtype)
    return round(2*k**3/p.seconds(lambda: m @ m, 10)/1e12, 3)

def launch_cost(p):
    x = torch.zeros(1, device=p.device)
    def thousand():
        for _ in range(1000): x.add_(1)
    return round(p.seconds(thousand, 5)*1e3, 2)

# --- checks: does it work?

def checks(p):
    every = {k: getattr(m, k) for m in (recipes, schedule_free, muon) for k in m.__all__ if k[0].isupper()}
    del every['Lookahead']
    every.update(SGD=SGD, momentum=partial(SGD, mom=.9), RMSProp=partial(RMSProp, mom=.9), Adam=Adam)
    if p.rehearse: every = {k: every[k] for k in ('Adam', 'Lion', 'LAMB')}
    for k,make in every.items(): p.attempt(f'{k}: error eager, flat, compiled', optimizer_errors, p, make)
    p.attempt('kernels of one compiled sweep', kernels_of_sweep, p)
    p.attempt('get_preds while the GPU is behind', predictions, p)
    for prec in ('fp16', 'bf16', 'fp32'):
        p.attempt(f'{prec}: repeated, resumed, recorded; largest difference', twins, p, prec)
    for cb in (EMA(), GradientClip(1.), GradientAccumulation(64), MixUp(), CutMix(),
               TerminateOnNaNCallback()):
        p.attempt(f'loss with {cb.name}, recorded', trick, p, cb)
    p.attempt('lr_find', lambda: str(tiny(p, 'fp16').lr_find(show_plot=False, num_it=20)))
    for n in notebooks_with_cuda(): p.attempt(f'cells of {n}', cells, p, n)
    for prec in ('fp16', 'bf16'): p.attempt(f'waits a batch, {prec}', waits, p, prec)

def stepped(make, device, dtype, **kwargs):
    "Weights after eight steps from the same start with the same gradients, in float64 on the CPU"
    g = torch.Generator().manual_seed(0)
    shapes = [(64, 33), (7,), (16, 8, 3, 3), (32, 16, 1, 1), (1100, 1000)]
    ps = [torch.randn(s, generator=g).to(device, dtype) for s in shapes]
    ps = [nn.Parameter(q.to(memory_format=torch.channels_last) if q.ndim == 4 else q) for q in ps]
    opt = make(ps, lr=1e-2, **kwargs)
    for _ in range(8):
        for q in ps: q.grad = torch.empty_like(q).copy_(torch.randn(q.shape, generator=g))
        opt.step()
    why = getattr(getattr(opt, '_engine', None), 'why', None)
    return [q.detach().cpu().double() for q in ps], ' (per parameter)' if why else ''

def optimizer_errors(p, make):
    "Largest relative error of a tensor: per parameter, flat, compiled"
    with patch.object(muon, '_has_fast_bf16', lambda device: _has_fast_bf16(p.device)):
        want, _ = stepped(make, 'cpu', torch.float64)
    said = []
    for kwargs in ({}, dict(fused='flat'), dict(fused=True)):
        got, note = stepped(make, p.device, torch.float32, **kwargs)
        said.append((max(((a-b).norm()/b.norm()).item() for a,b in zip(got, want)), note))
    text = ', '.join(f'{e:.1e}{note}' for e,note in said)
    return text if max(e for e,_ in said) < 1e-3 else f'WRONG: {text}'

def profiled(p, f):
    "The kernels that `f` launches, as the profiler's events"
    from torch.profiler import ProfilerActivity, profile
    kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA]*p.cuda
    with profile(activities=kinds) as prof:
        f()
        p.sync()
    return [e for e in prof.events() if e.device_type == torch.autograd.DeviceType.CUDA]

def kernels_of_sweep(p):
    ps = [nn.Parameter(torch.randn(2**20, device=p.device))]
    opt = Adam(ps, lr=1e-3, wd=0.01, fused=True)
    ps[0].grad = torch.randn_like(ps[0])
    opt.step(); opt.step()
    names = [e.name for e in profiled(p, opt.step) if not e.name.startswith('Mem')]
    return ', '.join(sorted(set(names))) or 'none seen'

def tiny(p, prec, cbs=()):
    "A small Learner on small pictures, of which the last batch is smaller"
    n = 12 if p.rehearse else 20
    set_seed(0)
    x, y = tiny_images(32*n - 8)
    data = list(zip(x.split(32), y.split(32)))
    learn = Learner(DataLoaders(data, data[:5], c=4), tiny_net(), metrics=accuracy, device=p.device,
                    cbs=list(cbs), opt_func=partial(Adam, fused='flat'))
    learn.logger = None
    if prec == 'fp16': return learn.add_cbs(MixedPrecision(torch.float16))
    return learn.to_bf16() if prec == 'bf16' else learn

class Slow(nn.Module):
    "Passes on its input, after a rest of the GPU"
    def forward(self, x):
        if x.is_cuda and hasattr(torch._C, '_cuda_sleep'): torch.cuda._sleep(200_000_000)
        return x

def predictions(p):
    learn = tiny(p, 'fp32')
    learn.model.append(Slow() if p.cuda else nn.Identity())
    preds, _ = learn.get_preds()
    model = learn.model.eval()
    with torch.no_grad(): want = torch.cat([model(x.to(p.device)).cpu() for x,_ in learn.dls.valid])
    wrong = (preds - want).abs().amax(1) > 1e-3
    return f'WRONG: {wrong.sum().item()} of {len(want)} rows' if wrong.any() else 'as they should be'

class Stop(Callback):
    "A power failure in training batch `at`"
    order, saved_in_checkpoint = -1, False
    def __init__(self, at): self.at = at
    def after_loss(self):
        if self.training and self.train_iter == self.at: raise ConnectionAbortedError

def weights(p, prec, cbs=(), **kwargs):
    learn = tiny(p, prec, cbs)
    try: learn.fit_one_cycle(3, 1e-2, **kwargs)
    except ConnectionAbortedError: pass
    return [v.detach().cpu().double() for v in learn.model.state_dict().values()]

def farthest(a, b): return max((x-y).abs().max().item() for x,y in zip(a, b))

def twins(p, prec):
    "How far a training is from its repetition, from one that was resumed, and from a recorded one"
    kept = lambda: [Checkpoint(p.tmp/f'{prec}.ckpt', every=7)]
    whole, again = weights(p, prec, kept()), weights(p, prec, kept())
    weights(p, prec, [*kept(), Stop(20)])
    resumed = weights(p, prec, kept(), resume=True)
    return ', '.join(f'{farthest(whole, o):.1e}' for o in (again, resumed, weights(p, prec, [recorder(p)])))

def recorder(p): return CUDAGraphs() if p.cuda else CUDAGraphs(record=emulated_cuda_graph)

def trick(p, cb):
    learn = tiny(p, 'fp16', [cb, recorder(p)]).fit(3, 1e-2)
    first, last = learn.recorder.values[0][1], learn.recorder.values[-1][1]
    return f"{'' if last < first else 'WRONG: '}{first:.3f} -> {last:.3f}"

cuda_cell = r'^#\s*\|\s*cuda\s*$'
def code_of(name):
    nb = json.loads((root/'nbs'/f'{name}.ipynb').read_text(encoding='utf-8'))
    return [''.join(c['source']) for c in nb['cells'] if c['cell_type'] == 'code']

def notebooks_with_cuda():
    names = list(map(opening.name_of, opening.notebooks()))
    return [n for n in names if any(re.search(cuda_cell, s, re.M) for s in code_of(n))]

def cells(p, name):
    "Run the cells of a notebook up to the last that is flagged cuda, those among them"
    if not p.cuda and name != 'training/mixed_precision': return 'only on a GPU'
    sources = code_of(name)
    flagged = [i for i,s in enumerate(sources) if re.search(cuda_cell, s, re.M)]
    names = {'__name__': '__main__'}
    os.chdir((root/'nbs'/name).parent)
    for i,s in enumerate(sources[:flagged[-1]+1]):
        skipped = re.search(r'^#\s*\|\s*(slow|eval:\s*false)', s, re.M) or i in flagged and not p.cuda
        if not skipped: exec(compile(s, f'{name}, cell {i}', 'exec'), names)
    os.chdir(root)
    return f'ok, {len(flagged)} flagged cuda'

def quiet_learner(p, dls, prec, opt_func=Adam, cbs=()):
    "The chapter's Learner, as `reproduce` has it"
    set_seed(0)
    learn = profile_learner(profiles[p.profile], dls, opt_func=opt_func, cbs=list(cbs))
    learn.logger = None
    return learn.to_bf16() if prec == 'bf16' else learn

class Watch(Callback):
    order = 6000
    def begin_train(self): torch.cuda.set_sync_debug_mode('warn')
    def after_train(self): torch.cuda.set_sync_debug_mode('default')

def waits(p, prec):
    "Where a training batch waits for the device, as PyTorch sees it"
    if not p.cuda: return 'only on a GPU'
    dls = p.dls()
    learn = use_fastest_step(quiet_learner(p, dls, prec))
    learn.fit(1, 1e-4)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        learn.fit(1, 1e-4, cbs=Watch())
    lines = [f'{Path(w.filename).name}:{w.lineno}' for w in said if 'synchroniz' in str(w.message)]
    return ', '.join(f'{lines.count(l)/len(dls.train):.1f} at {l}' for l in sorted(set(lines))) or 'none'

# --- steps: where does the time go?

def steps(p):
    dls = p.dls()
    def batches():
        for _ in dls.train: pass
    p.attempt('loader alone, ms a batch', lambda: round(p.seconds(batches, 3)/len(dls.train)*1e3, 2))
    for name,prec,kwargs,cbs,sizes in variants(p):
        with patch.dict(fused_module.FusedStep.sizes, cuda=sizes):
            p.attempt(name, variant_config, p, dls, prec, kwargs, cbs)

def variants(p):
    "Name, precision, arguments of Adam, callbacks, and sizes of lots"
    one_lot, apart = fused_module.FusedStep.sizes['cuda'], (2**20, 2**22)
    flat, graphs = dict(fused='flat'), lambda: [recorder(p)]
    compiled = lambda: [CompileModel(mode='reduce-overhead', dynamic=False)]
    yield 'fp16, flat, recorded (reproduce)', 'fp16', flat, graphs, one_lot
    yield 'bf16, flat, recorded', 'bf16', flat, graphs, one_lot
    yield 'fp16, per parameter', 'fp16', {}, list, one_lot
    yield 'fp16, flat', 'fp16', flat, list, one_lot
    if p.rehearse: return
    yield 'fp16, flat, recorded, large tensors apart', 'fp16', flat, graphs, apart
    yield 'fp16, compiled sweep, recorded', 'fp16', dict(fused=True), graphs, one_lot
    yield 'fp16, compiled sweep, recorded, large apart', 'fp16', dict(fused=True), graphs, apart
    yield 'bf16, flat, model compiled', 'bf16', flat, compiled, one_lot

class Window(Callback):
    "Ten training batches under the profiler"
    order = 6000
    def __init__(self, p): self.p, self._prof = p, None
    def after_batch(self):
        if not self.training: return
        last = min(15, self.n_iter-1)
        if self.iter == max(0, last-10): self._start()
        elif self.iter == last and self._prof is not None: self._end(last - max(0, last-10))
    def _start(self):
        from torch.profiler import ProfilerActivity, profile
        self.p.sync()
        self._prof = profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA]*self.p.cuda)
        self._prof.__enter__()
    def _end(self, n):
        self.p.sync()
        self._prof.__exit__(None, None, None)
        self._n, self._events = n, [e for e in self._prof.events()
                                    if e.device_type == torch.autograd.DeviceType.CUDA]
        raise CancelFitException

def variant_config(p, dls, prec, kwargs, cbs):
    "Seconds of a first epoch and of three warm ones; kernels and busy milliseconds a step"
    learn = quiet_learner(p, dls, prec, partial(Adam, **kwargs), cbs())
    epochs = 1 if p.rehearse else 3
    t = time.perf_counter(); learn.fit(1, 1e-4); p.sync(); first = time.perf_counter()-t
    t = time.perf_counter(); learn.fit_one_cycle(epochs, 1e-3); p.sync(); three = time.perf_counter()-t
    window = Window(p)
    learn.fit(1, 1e-4, cbs=window)
    if not window._events: return f'first epoch {first:.1f} s, then {epochs} in {three:.2f} s'
    spent = {}
    for e in window._events:
        us = getattr(e, 'device_time_total', None) or getattr(e, 'cuda_time_total', 0)
        spent[e.name[:60]] = spent.get(e.name[:60], 0) + us/1e3/window._n
    for name,ms in sorted(spent.items(), key=lambda o: -o[1])[:8]: print(f'{ms:21.3f} ms  {name}')
    return (f'first epoch {first:.1f} s, then {epochs} in {three:.2f} s; a step: '
            f'{len(window._events)/window._n:.0f} kernels, {sum(spent.values()):.2f} ms busy')

# --- runs: the chapter's tables

def total(result): return sum(e['seconds'] for e in result['epochs'])

def the_runs(p):
    "The chapter's five with all their seeds, then the two that are ours; each run that ended is a file"
    beside = [r for r in run_configs if r not in chapter_runs]
    done = []
    for names in [['adam', 'sgd_cb']] if p.rehearse else [list(chapter_runs), beside]:
        done += trained(p, names)
    if not p.rehearse: how_fast(p, done)

def trained(p, names):
    out = p.results/f'chapter-{p.device.type}'
    done = reproduce(p.data, p.profile, p.device.type, p.seeds, names, out, retrain=True)
    for r in names:
        mine = [o for o in done if o['settings']['run'] == r]
        accs = [o['epochs'][-1]['accuracy'] for o in mine]
        p.say(f'{r}: seconds of all epochs; accuracy', f"{said(map(total, mine))}; {said(accs, 3)}")
    return done

def how_fast(p, done):
    longest = max(total(o) for o in done if o['settings']['run'] in chapter_runs)
    p.say('3 epochs with validation, warm: longest', f'{longest:.2f} s (the aim: under 3)')
    for k in ('warm_up', 'recording'): p.say(f'{k}, s', said(o[k] for o in done))

def said(values, digits=2): return ', '.join(f'{v:.{digits}f}' for v in values)

# --- fastai on the same pictures

def beside_fastai(p):
    try: import fastai
    except ImportError: return p.say('fastai', 'not installed here, so left out')
    p.say('fastai', fastai.__version__)
    found = {}
    for name,lr,kwargs in (('adam', 3e-3, {}), ('sgd', 3e-2, dict(moms=(0, 0, 0)))):
        def one(): return fastai_run(p, name, lr, kwargs, found)
        p.attempt(f'{name}: seconds of the epochs; accuracy', one)
    if found:
        text = json.dumps(dict(environment=environment_info(p.device), runs=found), indent=1)
        (p.results/'benchmarks'/f'fastai-{p.device.type}.json').write_text(text)

def fastai_dls(p, size):
    from fastai.vision.all import (CategoryBlock, DataBlock, GrandparentSplitter, ImageBlock, Normalize,
                                   Resize, aug_transforms, get_image_files, imagenet_stats, parent_label)
    tfms = [*aug_transforms(size=size.size, min_scale=0.5), Normalize.from_stats(*imagenet_stats)]
    block = DataBlock((ImageBlock, CategoryBlock), get_items=get_image_files, get_y=parent_label,
                      splitter=GrandparentSplitter(valid_name='val'), item_tfms=Resize(size.presize),
                      batch_tfms=tfms)
    return block.dataloaders(Path(p.data), bs=size.bs, num_workers=0 if p.rehearse else os.cpu_count(),
                             device=p.device)

def fastai_run(p, name, lr, kwargs, found):
    import torchvision
    from fastai.vision.all import SGD as FSGD, Adam as FAdam, accuracy as fastais, vision_learner
    size = profiles[p.profile]
    set_seed(0)
    learn = vision_learner(fastai_dls(p, size), getattr(torchvision.models, size.arch), pretrained=False,
                           metrics=fastais, opt_func=dict(adam=FAdam, sgd=FSGD)[name])
    if p.cuda: learn.to_fp16()
    with learn.no_bar():
        learn.fit(1, 0.) # warm
        p.sync(); t = time.perf_counter()
        learn.fit_one_cycle(size.n_epoch, lr, **kwargs)
        p.sync(); secs = time.perf_counter()-t
    accs = [float(v[-1]) for v in learn.recorder.values]
    found[name] = dict(seconds=secs, accuracy=accs)
    return f'{secs:.2f}; {said(accs, 3)}'

# --- optimizers, loop: the benchmarks

def benchmark(p, script, *more):
    "Run a benchmark; its raw results go where they belong"
    if p.pretend: return p.say(script, 'not on a pretended device')
    file = p.results/'benchmarks'/f'{script}-{p.device.type}.json'
    cmd = [sys.executable, f'benchmarks/{script}.py', '--device', p.device.type, '--out', file, *more]
    code = subprocess.run(list(map(str, cmd)), cwd=root).returncode
    p.say(script, 'ok' if code == 0 else f'FAILED ({code})')
    if file.exists():
        for k,why in json.loads(file.read_text())['failures'].items(): p.say(k, f'no figure: {why[:120]}')

def optimizers(p):
    few = ['--rounds', 1, '--steps', 2, '--optims', 'sgd', '--models', 'n=1e5', '--no-growth']
    most = ['--rounds', 2, '--models', 'resnet34', '--no-growth']
    benchmark(p, 'optimizer_step', *(few if p.rehearse else most), *_skip(dict(fastai=['fastai']), p))

def loop(p):
    others = dict(fastai=['fastai', 'fastai_torch'], lightning=['lightning', 'barebones'], ignite=['ignite'],
                  accelerate=['accelerate'])
    own = ['ten', 'wrapped', 'bare'] if p.rehearse else []
    benchmark(p, 'loop_overhead', '--rounds', 1, '--quick', *_skip(others, p, own))

def _skip(libraries, p, more=()):
    "Arguments that leave out what would need an environment, and so pip and a network"
    from envs import installed
    left = [v for name,vs in libraries.items() if not installed(name) for v in vs] + list(more)
    if left: p.say('left out', ', '.join(left))
    return ['--skip', *left] if left else []

# --- one of them

parts = dict(env=env, checks=checks, steps=steps, runs=the_runs, fastai=beside_fastai, optimizers=optimizers,
             loop=loop)

def pretended():
    "A pretended GPU around a part"
    import check_cuda, pretend
    from imagenette_train.training import checkpoint
    checkpoint._plain_types |= {pretend.Pretend}
    fused_module.compile_kernel = check_cuda.as_one_kernel
    torch.cuda.make_graphed_callables = emulated_cuda_graph
    return pretend.cuda()

def run(a, say, results):
    "The part that `a` names"
    with pretended() if a.pretend else nullcontext():
        p = Part(a, say, results)
        p.attempt('the part', parts[a.part], p)
