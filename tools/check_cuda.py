"""What can be known about CUDA without a GPU: the package on a pretended device, a part of `make check`.

    python tools/check_cuda.py     # says what it checked, and what a step costs there

Nothing mixes devices; no step waits, or once, for float16's scaler; a batch, its augmentation and a step of
the optimizer are a bounded number of launches; a resumed training is the same."""
import os, tempfile, warnings
os.environ.setdefault('OMP_NUM_THREADS', '1')
from functools import partial
from pathlib import Path
from unittest import mock
import torch
import pretend
from imagenette_train.core import fused
from imagenette_train.optim import muon, schedule_free, variants as recipes
from imagenette_train.training import checkpoint
from imagenette_train.all import *
from imagenette_train.baseline import profile_learner
from imagenette_train.experiments.runner import Profile, profile_data, timed_fit
from imagenette_train.vision.synthetic import generate_images
from imagenette_train.course.toy_problems import tiny_net, tiny_images

torch.set_num_threads(1)
tmp = Path(tempfile.mkdtemp())
os.environ['IMAGENETTE_TRAIN_CACHE'] = str(tmp/'cache')
size = Profile('tiny', arch='resnet18', presize=40, size=32, bs=8)
# at most: launches of a training batch; those of a step of each optimizer, flat and compiled
most_batch = 32
most_steps = dict(Adam=(46, 16), momentum=(24, 16), SGD=(16, 16), RMSProp=(32, 16))

def per(counter, n): return {k: v/n for k,v in counter.items()}
def launches(log): return sum(log.launches.values())

def batches(log):
    "Batches are those of the CPU; none waits, and each is few launches"
    folder = ImagenetteFolder(generate_images(tmp/'pictures', 5, 2), 'generated')
    dls = {}
    for device in ('cpu', 'cuda'):
        dls[device] = profile_data(size, folder, device)
        set_seed(0)
        first = [next(iter(dl)) for dl in (dls[device].train, dls[device].valid)]
        dls[device].first = [(x.cpu(), y.cpu()) for x,y in first]
    for (x,y),(x2,y2) in zip(dls['cpu'].first, dls['cuda'].first):
        # the CPU resizes bytes, a GPU floats: they differ by one of 255 levels at most
        assert torch.equal(y, y2) and (x - x2).abs().max() < 2/255/0.22
    log.reset()
    n = len(list(dls['cuda'].train))
    assert not log.waits, log
    assert launches(log)/n <= most_batch, log
    print(f'a training batch: {launches(log)/n:.0f} launches, no wait')
    return dls['cuda']

class Step(Callback):
    "What a training batch launches and waits for, after the first ones"
    order = 6000
    def __init__(self, log): self.log, self.batches = log, 0
    def begin_fit(self): self.seen = pretend.Log()
    def begin_train(self): self.log.reset()
    def after_batch(self):
        if self.training and self.train_iter > 2:
            self.batches += 1
            for k in vars(self.seen): getattr(self.seen, k).update(getattr(self.log, k))
        self.log.reset()

def steps(log, dls):
    "A step waits for nothing, or once for float16's scaler"
    for prec,most in (('fp16', 1), ('bf16', 0), ('fp32', 0)):
        learn = use_fastest_step(profile_learner(size, dls, opt_func=Adam))
        learn = dict(fp16=learn.to_fp16, bf16=learn.to_bf16, fp32=learn.to_fp32)[prec]()
        learn.logger, step = None, Step(log)
        learn.fit(1, 1e-3, cbs=step)
        waits = per(step.seen.waits, step.batches)
        assert sum(waits.values()) <= most, (prec, waits)
        said = ', '.join(f'{v:.0f} at {k}' for k,v in waits.items()) or 'none'
        print(f'a step in {prec}: {launches(step.seen)/step.batches:.0f} launches; waits: {said}')

def run_configs(dls):
    "A run of the chapter is warm before the clock starts, its model recorded, and leaves no trace of that"
    learn = profile_learner(size, dls, opt_func=SGD).to_bf16()
    learn.logger = None
    res = timed_fit(learn, lambda learn: learn.fit(1, 1e-3))
    assert res['warm_up'] > 0 and res['recording'] > 0 and len(res['epochs']) == 1
    assert learn.opt_func.keywords == dict(fused='flat') and 'forward' not in vars(learn.model)
    print('a run: warmed up, recorded, flat')

def as_one_kernel(prog, like, factors):
    "In the place of `compile_kernel`: what would be compiled is one launch"
    sweep = torch.fx.GraphModule({}, prog.tensors_graph).forward
    def f(*ts):
        with pretend.one_kernel(): sweep(*ts)
    return f

def sweeps(log, model):
    "A step of the optimizer is few launches, flat and compiled, for all of a ResNet's tensors"
    makes = dict(Adam=partial(Adam, wd=0.01), momentum=partial(SGD, mom=0.9), SGD=SGD, RMSProp=RMSProp)
    for name,make in makes.items():
        counted = []
        for mode,most in zip(('flat', True), most_steps[name]):
            opt = make(body_head_split(model), lr=1e-3, fused=mode)
            for p,_ in norm_and_bias_params(model): opt.state[p]['do_wd'] = False
            for p in model.parameters(): p.grad = torch.ones_like(p)
            opt.step(); opt.step(); log.reset(); opt.step()
            assert launches(log) <= most and not log.waits, (name, mode, log)
            counted.append(launches(log))
        print(f"a step of {name}: {counted[0]} launches flat, {counted[1]} compiled; no wait")

def stepped(make, device, **kwargs):
    g = torch.Generator().manual_seed(0)
    shapes = [(9, 5), (7,), (4, 3, 3, 3), (8, 4, 1, 1)]
    ps = [torch.nn.Parameter(torch.randn(s, generator=g).to(device)) for s in shapes]
    opt = make(ps, lr=1e-2, **kwargs)
    for _ in range(4):
        for p in ps: p.grad = torch.randn(p.shape, generator=g).to(device)
        opt.step()
    return [p.detach().cpu() for p in ps]

def optimizers(log):
    "Every optimizer, per parameter and flat, makes of the same gradients what it makes on the CPU"
    makes = {k: getattr(m, k) for m in (recipes, schedule_free, muon) for k in m.__all__ if k[0].isupper()}
    del makes['Lookahead']
    makes.update(SGD=partial(SGD, mom=0.9, wd=0.1), Adam=partial(Adam, wd=0.1), RMSProp=RMSProp)
    for name,make in makes.items():
        with mock.patch.object(muon, '_has_fast_bf16', lambda device: True): # Muon: on the CPU, too
            want = stepped(make, 'cpu')
        for kwargs in ({}, dict(fused='flat')):
            got = stepped(make, 'cuda', **kwargs)
            assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-7) for a,b in zip(want, got)), (name, kwargs)
    print(f'{len(makes)} optimizers, per parameter and flat: as on the CPU')

def tiny(cbs=(), prec='fp32'):
    set_seed(0)
    x, y = tiny_images(160)
    data = list(zip(x.split(16), y.split(16)))
    learn = Learner(DataLoaders(data, data[:3], c=4), tiny_net(), metrics=accuracy, device='cuda',
                    cbs=list(cbs), opt_func=partial(Adam, fused='flat'))
    learn.logger = None
    return dict(fp16=learn.to_fp16, bf16=learn.to_bf16, fp32=learn.to_fp32)[prec]()

class Stop(Callback):
    order, saved_in_checkpoint = -1, False
    def after_loss(self):
        if self.training and self.train_iter == 14: raise KeyboardInterrupt

def resumed():
    "A training that was interrupted and resumed is the one that was not"
    for prec,cbs in (('fp16', [MixUp]), ('bf16', [partial(EMA, 0.9), partial(GradientClip, 1.)])):
        kept = lambda: [cb() for cb in cbs] + [Checkpoint(tmp/f'{prec}.ckpt', every=4),
                                               CUDAGraphs(record=emulated_cuda_graph)]
        whole = tiny(kept(), prec).fit_one_cycle(2, 1e-2)
        try: tiny([*kept(), Stop()], prec).fit_one_cycle(2, 1e-2)
        except KeyboardInterrupt: pass
        again = tiny(kept(), prec).fit_one_cycle(2, 1e-2, resume=True)
        for a,b in zip(whole.model.state_dict().values(), again.model.state_dict().values()):
            assert torch.equal(a.cpu(), b.cpu()), prec
    print('resumed in fp16 and in bf16: the same weights')

def questions():
    "What a Learner can be asked, fresh and in between; tricks"
    fresh = tiny()
    loss, acc = fresh.validate()
    preds, targets = fresh.get_preds()
    assert preds.device.type == targets.device.type == 'cpu'
    assert abs((preds.argmax(1) == targets).float().mean() - acc) < 1e-6 and loss > 0
    with warnings.catch_warnings(): # five batches say nothing of a rate
        warnings.filterwarnings('ignore', message='nothing can be suggested')
        tiny(prec='fp16').lr_find(num_it=5, show_plot=False)
    for cb in (EMA(), GradientClip(1.), GradientAccumulation(40), MixUp(), CutMix(), TerminateOnNaNCallback(),
               LoopTimer()):
        learn = tiny([cb], 'fp16').fit(1, 1e-2)
        learn.save(tmp/'kept.pth')
        tiny([type(cb)()] if isinstance(cb, EMA) else []).load(tmp/'kept.pth', with_opt=False).validate()
    print('validate, get_preds, lr_find, save, load and seven callbacks: no mixed devices')

def main():
    warnings.simplefilter('error')
    warnings.filterwarnings('ignore', message='fused: ')
    fused.compile_kernel = as_one_kernel
    checkpoint._plain_types |= {pretend.Pretend} # plain data, as a tensor on a real device
    torch.cuda.make_graphed_callables = emulated_cuda_graph
    with pretend.cuda() as log:
        dls = batches(log)
        steps(log, dls)
        run_configs(dls)
        sweeps(log, profile_learner(Profile('whole'), dls, opt_func=SGD).model)
        optimizers(log)
        resumed()
        questions()

if __name__ == '__main__': main()
