"""Runs every code cell printed in a copy of the chapter, just as printed, on `from imagenette_train.all
import *`.

    python tools/run_chapter.py CHAPTER.md

The copy is the reader's own: the chapter is not part of this project. Cells that are whole run as they
stand, in order, in one namespace. Fragments of formulas get the names that they speak of; the batch loop is
run as the body of a method of Learner. Only the size is ours: generated pictures, and a narrow network
under the name `resnet34`."""
import os, re, sys, tempfile, textwrap, warnings
from pathlib import Path

fragments = [ # what a fragment speaks of, made before it runs; found by a piece of its text
    ('weight.avg = beta',     'weight, lr, beta = scalar(), 0.1, 0.9; weight.avg = torch.zeros(())'),
    ('w.avg = beta1',         'w, lr, beta1, beta2, i, eps = scalar(), 0.1, 0.9, 0.99, 0, 1e-8\n'
                              'w.avg = w.sqr_avg = torch.zeros(())'),
    ('w.square_avg = alpha',  'w, lr, alpha, eps = scalar(), 0.1, 0.99, 1e-8\n'
                              'w.square_avg = torch.zeros(())'),
    ('w.avg = beta * w.avg',  'w, beta, i = scalar(), 0.9, 0; w.avg = torch.zeros(())'),
    ('weight.grad += wd',     'weight, wd = scalar(), 0.1'),
    ('new_weight = weight',   'weight, lr, wd = scalar(), 0.1, 0.1'),
    ('for xb,yb in dl:',      'model = nn.Linear(3, 2)\n'
                              'dl = [(torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))]*2\n'
                              'loss_func, opt = F.cross_entropy, Adam(model.parameters(), 0.1)')]

uses = [ # what a cell defines is also used, on something small
    ('def zero_grad(self)', """
_p = torch.tensor([1.], requires_grad=True); _p.grad = torch.tensor([2.])
_opt = Optimizer([_p], [sgd_cb], lr=0.1)
step(_opt); zero_grad(_opt)
assert abs(_p.item() - 0.8) < 1e-6 and _p.grad.item() == 0"""),
    ('def sgd_cb', """
_p = torch.tensor([1.]); _p.grad = torch.tensor([2.])
sgd_cb(_p, lr=0.1, mom=0.9)
assert abs(_p.item() - 0.8) < 1e-6"""),
    ('class ModelResetter', """
class _Net(nn.Linear):
    n = 0
    def reset(self): self.n += 1
_data = [(torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))]
_learn = Learner(DataLoaders(_data, _data), _Net(3, 2), cbs=ModelResetter())
with _learn.no_logging(): _learn.fit(2)
assert _learn.model.n == 4"""),
    ('class RNNRegularizer', """
class _Net(nn.Linear):
    def forward(self, x): return super().forward(x).mean(1), [x*self.weight[0]], [x*self.weight[0]]
_data = [(torch.randn(4, 5, 3), torch.tensor([0, 1, 0, 1]))]
_seen = []
for _a,_b in ((0., 0.), (2., 1.)):
    torch.manual_seed(0)
    _learn = Learner(DataLoaders(_data, _data), _Net(3, 2), lr=0.1, cbs=RNNRegularizer(alpha=_a, beta=_b))
    with _learn.no_logging(): _learn.fit(3)
    _seen.append(_learn.model.weight[0].abs().sum().item())
assert _seen[1] < _seen[0] # the penalty did train"""),
    ('class TerminateOnNaNCallback', """
class _Poison(Callback):
    def after_pred(self):
        if self.training and self.train_iter == 2: self.learn.pred = self.pred*float('nan')
_data = [(torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))]*4
_learn = Learner(DataLoaders(_data, _data), nn.Linear(3, 2), cbs=[_Poison(), TerminateOnNaNCallback()])
with _learn.no_logging(): _learn.fit(2)
assert len(_learn.recorder.losses) == 2, _learn.recorder.losses""")]

setup = '''
from imagenette_train.all import *
def narrow(weights=None):
    # stands in for the ResNet-34, to end in seconds; like one it ends in pooling and a linear layer
    return nn.Sequential(nn.Conv2d(3, 16, 3, stride=4), nn.BatchNorm2d(16), nn.ReLU(),
                         nn.Conv2d(16, 32, 3, stride=4), nn.BatchNorm2d(32), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Linear(32, 10))
def scalar():
    w = torch.tensor(2.)
    w.grad = torch.tensor(0.5)
    return w
'''

def prepare(src):
    "The cell's source, made runnable where it stands outside of its surroundings"
    for piece,names in fragments:
        if piece in src: return f'{names}\n{src}', 'fragment'
    if 'self._split(b)' in src:
        method = 'def _printed_batch(self, b):\n' + textwrap.indent(src, '    ')
        return f'{method}\nloop_as_printed(_printed_batch)', 'batch loop'
    return '\n'.join([src, *(use for piece,use in uses if piece in src)]), 'as it stands'

def loop_as_printed(namespace):
    "Trains a small Learner with the printed batch loop in place of ours; the loss must fall"
    def check(loop):
        ns = namespace
        torch, nn, F = ns['torch'], ns['nn'], ns['F']
        torch.manual_seed(0)
        x = torch.randn(64, 5); y = (x[:,0] > 0).long()
        data = [(x[i:i+16], y[i:i+16]) for i in range(0, 64, 16)]
        class Printed(ns['Learner']): one_batch = loop
        learn = Printed(ns['DataLoaders'](data, data), nn.Linear(5, 2), F.cross_entropy, lr=0.1)
        with learn.no_logging(): learn.fit(3)
        assert learn.recorder.values[-1][1] < learn.recorder.values[0][1]
    return check

def printed(src):
    "Lines of a cell that are output, not code: a tuple of numbers alone"
    return re.fullmatch(r'\(?[\d., e+-]+\)?', src.strip()) is not None

def run(src, name, ns):
    "Run one printed cell in namespace `ns`; True if it went well"
    first = src.strip().splitlines()[0]
    code, how = prepare(src)
    try: exec(compile(code, name, 'exec'), ns)
    except Exception as e:
        print(f'FAILED {name} ({how}): {first}\n   {type(e).__name__}: {e}')
        return False
    print(f'ok     {name} ({how}): {first}')
    return True

def namespace(folder):
    "What the cells run in: every name of the library, generated pictures, a narrow network"
    os.environ['IMAGENETTE_TRAIN_CACHE'] = str(folder)
    from imagenette_train.all import generate_images
    os.environ['IMAGENETTE_TRAIN_DATA'] = str(generate_images(folder/'pictures', 13, 2))
    ns = {}
    exec(setup, ns)
    ns['resnet34'] = ns['narrow']
    ns['loop_as_printed'] = loop_as_printed(ns)
    return ns

def main():
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_file(): sys.exit(__doc__)
    os.environ.setdefault('MPLBACKEND', 'agg')
    warnings.filterwarnings('ignore', message='.*deprecated')
    text = Path(sys.argv[1]).read_text(encoding='utf-8')
    blocks = re.findall(r'^```py\n(.*?)^```', text, re.M | re.S)
    if not blocks: sys.exit(f'{sys.argv[1]} holds no ```py cells')
    cells = {f'cell {i+1:2}': src for i,src in enumerate(blocks) if not printed(src)}
    with tempfile.TemporaryDirectory() as tmp:
        ns = namespace(Path(tmp))
        passed = sum([run(src, name, ns) for name,src in cells.items()])
    failed = len(cells) - passed
    print(f'{passed} passed, {failed} failed, {len(blocks)-len(cells)} skipped')
    sys.exit(bool(failed))

if __name__ == '__main__': main()
