"""Which recipe trains best in five epochs? Tried on pictures taken away from the training set, so that the
validation set stays unseen until the table is made.

    python benchmarks/record_search.py --data DIR --size 96 base adam se_mish
"""
import argparse, json, time
from functools import partial
from pathlib import Path
import torch
from torch import nn
import torch.nn.functional as F
from imagenette_train.all import *

root = Path(__file__).resolve().parent.parent

# --- the network: a ResNet-18 with the changes of "Bag of Tricks" (He et al., 2019)

def conv_bn(i, o, k=3, stride=1, act=nn.ReLU):
    layers = [nn.Conv2d(i, o, k, stride, k//2, bias=False), nn.BatchNorm2d(o)]
    return nn.Sequential(*layers, *([act()] if act else []))

class Blur(nn.Module):
    "Smooth with [1, 2, 1] before taking every other pixel (Zhang, 2019)"
    def __init__(self, c):
        super().__init__()
        k = torch.tensor([1., 2., 1.])
        k = (k[:,None]*k)/16
        self.register_buffer('k', k.expand(c, 1, 3, 3).clone())
    def forward(self, x): return F.conv2d(x, self.k.to(x.dtype), stride=2, padding=1, groups=len(self.k))

class SE(nn.Module):
    "Weigh channels by what the whole picture says (Hu et al., 2018)"
    def __init__(self, c, r=8):
        super().__init__()
        self.f = nn.Sequential(nn.Conv2d(c, c//r, 1), nn.ReLU(), nn.Conv2d(c//r, c, 1), nn.Sigmoid())
    def forward(self, x): return x*self.f(x.mean((2, 3), keepdim=True))

class Block(nn.Module):
    def __init__(self, i, o, stride, act, se):
        super().__init__()
        self.convs = nn.Sequential(conv_bn(i, o, 3, stride, act), conv_bn(o, o, 3, 1, None))
        self.se = SE(o) if se else nn.Identity()
        pool = [nn.AvgPool2d(2, ceil_mode=True)] if stride > 1 else []
        self.short = nn.Sequential(*pool, *([conv_bn(i, o, 1, 1, None)] if i != o else []))
        self.act = act()
        nn.init.zeros_(self.convs[1][1].weight) # the block begins as its shortcut
    def forward(self, x): return self.act(self.se(self.convs(x)) + self.short(x))

def record_net(n_out=10, widths=(64, 128, 256, 512), depths=(2, 2, 2, 2), act=nn.ReLU, se=False):
    w = widths[0]
    stem = [conv_bn(3, w//2, 3, 2, act), conv_bn(w//2, w//2, 3, 1, act), conv_bn(w//2, w, 3, 1, act)]
    stem += [nn.MaxPool2d(2, 1), Blur(w)]
    blocks, i = [], w
    for k,(o,n) in enumerate(zip(widths, depths)):
        for j in range(n):
            blocks.append(Block(i, o, 2 if k and not j else 1, act, se))
            i = o
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(i, n_out))

# --- schedules, as a share of the peak rate

def linear(lr, up=0.1): return combine_scheds([up, 1-up], [SchedLin(lr/10, lr), SchedLin(lr, lr/1000)])
def flat_cos(lr, flat=0.6): return combine_scheds([flat, 1-flat], [SchedNo(lr), SchedCos(lr, lr/1000)])

# --- variants: what differs from `base`

base = dict(opt='muon', lr=0.02, wd=0.01, sched='linear', bs=64, smooth=0.1, min_scale=0.35, act='relu',
            se=False, ema=None)
variants = dict(
    base={},
    adam=dict(opt='adam', lr=3e-3),
    adam_flat=dict(opt='adam', lr=3e-3, sched='flat_cos'),
    muon_flat=dict(sched='flat_cos'),
    se_mish=dict(se=True, act='mish'),
    se=dict(se=True), mish=dict(act='mish'),
    lr4=dict(lr=0.04), lr1=dict(lr=0.01),
    bs32=dict(bs=32, lr=0.014),
    ema=dict(ema=0.99),
    crop5=dict(min_scale=0.5), crop25=dict(min_scale=0.25),
    wd5=dict(wd=0.05),
    combo=dict(lr=0.04, se=True, act='mish'),
    combo32=dict(lr=0.03, se=True, act='mish', bs=32),
    combo8=dict(lr=0.08, se=True, act='mish'))

def opt_func(v):
    if v['opt'] == 'muon': return partial(Muon, wd=v['wd'])
    return partial(Adam, wd=v['wd'], mom=0.95, sqr_mom=0.99)

def split(files, every=10):
    "Every tenth picture of each class is kept for choosing"
    seen, train, valid = {}, [], []
    for f,k in files:
        seen[k] = seen.get(k, 0) + 1
        (valid if seen[k] % every == 0 else train).append((f, k))
    return train, valid

def loaders(folder, v, size, presize):
    train, valid = split(folder.files()[0])
    tfm = lambda: Augment(size, min_scale=v['min_scale'], rotate=0., zoom=1., warp=0., max_lighting=0.)
    tr, va = (decode_pictures(fs, presize) for fs in (train, valid))
    train = PictureLoader(tr, presize, tfm(), v['bs'], True)
    valid = PictureLoader(va, presize, tfm(), 128, False)
    return DataLoaders(train, valid, c=10)

def train(name, folder, n_epoch, size, presize, seed):
    v = {**base, **variants[name]}
    set_seed(seed)
    dls = loaders(folder, v, size, presize)
    act = dict(relu=partial(nn.ReLU, inplace=True), mish=partial(nn.Mish, inplace=True))[v['act']]
    model = record_net(act=act, se=v['se']).to(memory_format=torch.channels_last)
    cbs = [EMA(v['ema'])] if v['ema'] else []
    loss_func = nn.CrossEntropyLoss(label_smoothing=v['smooth'])
    learn = Learner(dls, model, loss_func, opt_func(v), metrics=accuracy, cbs=cbs).to_bf16()
    sched = dict(linear=linear, flat_cos=flat_cos)[v['sched']](v['lr'])
    t = time.perf_counter()
    learn.fit(n_epoch, v['lr'], cbs=ParamScheduler(dict(lr=sched)))
    values = enumerate(learn.recorder.values)
    rows = [dict(epoch=i, train_loss=a, valid_loss=b, accuracy=c) for i,(a,b,c) in values]
    settings = dict(variant=name, **v, size=size, presize=presize, n_epoch=n_epoch, seed=seed,
                    split='every tenth training picture')
    seconds = round(time.perf_counter()-t)
    return dict(settings=settings, environment=environment('cpu'), epochs=rows, seconds=seconds,
                larger=larger(learn, presize))

def larger(learn, size):
    "Validated once more, with pictures of `size` pixels: objects look larger in crops than in whole pictures"
    valid = learn.dls.valid
    valid.tfm = Augment(size)
    loss, acc = learn.validate(valid)
    return dict(size=size, valid_loss=loss, accuracy=acc)

def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument('names', nargs='*', default=list(variants), help=', '.join(variants))
    a.add_argument('--data')
    for name,default in dict(size=128, presize=160, epochs=5, seed=100).items():
        a.add_argument(f'--{name}', type=int, default=default)
    a.add_argument('--out', default=root/'results/record-search', type=Path)
    o = a.parse_args()
    folder = find_pictures(data=o.data)
    for name in o.names:
        file = o.out/f'{name}-{o.size}px-{o.epochs}ep-seed{o.seed}.json'
        if file.exists(): continue
        res = train(name, folder, o.epochs, o.size, o.presize, o.seed)
        write_whole(file, json.dumps(res, indent=1))
        print(name, [f"{e['accuracy']:.3f}" for e in res['epochs']], f"{res['seconds']} s", flush=True)

if __name__ == '__main__': main()
