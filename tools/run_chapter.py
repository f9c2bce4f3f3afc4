"""Runs every code cell printed in a copy of the chapter, just as printed, on `from imagenette_train.all import *`.

    python tools/run_chapter.py CHAPTER.md

The copy is the reader's own: the chapter is not part of this project. Cells that are whole run as they stand, in order, in one
namespace. Fragments of formulas get the names that they speak of; the batch loop is run as the body of a method of Learner.
Only the size is ours: generated pictures, and a narrow network under the name `resnet34`.
"""
import os, re, sys, tempfile, textwrap, warnings
from pathlib import Path

fragments = [ # what a fragment speaks of, made before it runs; found by a piece of its text
    ('weight.avg = beta',     'weight, lr, beta = scalar(), 0.1, 0.9; weight.avg = torch.zeros(())'),
    ('w.avg = beta1',         'w, lr, beta1, beta2, i, eps = scalar(), 0.1, 0.9, 0.99, 0, 1e-8; w.avg = w.sqr_avg = torch.zeros(())'),
    ('w.square_avg = alpha',  'w, lr, alpha, eps = scalar(), 0.1, 0.99, 1e-8; w.square_avg = torch.zeros(())'),
    ('w.avg = beta * w.avg',  'w, beta, i = scalar(), 0.9, 0; w.avg = torch.zeros(())'),
    ('weight.grad += wd',     'weight, wd = scalar(), 0.1'),
    ('new_weight = weight',   'weight, lr, wd = scalar(), 0.1, 0.1'),
    ('for xb,yb in dl:',      'model = nn.Linear(3, 2); dl = [(torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))]*2\n'
                              'loss_func, opt = F.cross_entropy, Adam(model.parameters(), 0.1)')]

setup = '''
from imagenette_train.all import *
import torchvision
def narrow(weights=None): return torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1])
def scalar():
    w = torch.tensor(2.)
    w.grad = torch.tensor(0.5)
    return w
'''

def prepare(src):
    "The cell's source, made runnable where it stands outside of its surroundings"
    for piece,names in fragments:
        if piece in src: return f'{names}\n{src}', 'fragment'
    if 'self._split(b)' in src: return 'def _printed_batch(self, b):\n' + textwrap.indent(src, '    ') + '\nloop_as_printed(_printed_batch)', 'batch loop'
    return src, 'as it stands'

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

def main():
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_file(): sys.exit(__doc__)
    warnings.filterwarnings('ignore', message='.*deprecated')
    blocks = re.findall(r'^```py\n(.*?)^```', Path(sys.argv[1]).read_text(encoding='utf-8'), re.M | re.S)
    if not blocks: sys.exit(f'{sys.argv[1]} holds no ```py cells')
    passed = failed = skipped = 0
    with tempfile.TemporaryDirectory() as tmp:
        os.environ['IMAGENETTE_TRAIN_CACHE'] = tmp
        from imagenette_train.pictures import generate_pictures
        os.environ['IMAGENETTE_TRAIN_DATA'] = str(generate_pictures(Path(tmp)/'pictures', 13, 2))
        ns = {}
        exec(setup, ns)
        ns['resnet34'] = ns['narrow']
        ns['loop_as_printed'] = loop_as_printed(ns)
        for i,src in enumerate(blocks):
            first = src.strip().splitlines()[0]
            if printed(src): skipped += 1; continue
            code, how = prepare(src)
            try: exec(compile(code, f'cell {i+1}', 'exec'), ns)
            except Exception as e:
                failed += 1
                print(f'FAILED cell {i+1} ({how}): {first}\n   {type(e).__name__}: {e}')
            else:
                passed += 1
                print(f'ok     cell {i+1:2} ({how}): {first}')
    print(f'{passed} passed, {failed} failed, {skipped} skipped')
    sys.exit(bool(failed))

if __name__ == '__main__': main()
