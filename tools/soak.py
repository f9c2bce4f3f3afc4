"""Try to break training, many times.

    python tools/soak.py --kills 50   # the whole (make soak); writes results/soak.json
    python tools/soak.py --kills 3 --quick   # a short version, part of make check

Kills: a training with a checkpoint every few batches is killed (SIGKILL) at random moments and resumed by a
new process, until it is done; then its weights are compared with those of the training that nobody
disturbed. Interrupts: Ctrl-C at random moments of everything that a Learner does. NaN: a loss that becomes
NaN in a random batch. Threads: two Learners at the same time. Folders: exports, generated images and decoded
images, killed while they are written.
Sequences: random calls of a Learner's methods (hypothesis). Rules: every callback, alone and in pairs, with
every question that a Learner can be asked (a quarter of an hour). Fused: trainings with a fused optimizer and
without (tools/fused_fuzz.py), ten minutes."""
import argparse, contextlib, copy, io, json, os, random, shutil, signal, sys, tempfile, threading, time
import warnings
from pathlib import Path
os.environ.setdefault('OMP_NUM_THREADS', '1')
import torch
import torch.nn as nn
import torchvision
from functools import partial
from hypothesis import HealthCheck, settings, strategies as st
from tqdm.auto import tqdm # the class that our bars have; its lock is its own, not that of tqdm's others
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from fused_fuzz import fuzz
from imagenette_train.all import *
from imagenette_train.core.io import *
from imagenette_train.experiments.results import *
from imagenette_train.course.toy_problems import *
from imagenette_train.training.callback_checks import (Asks, copies, cross, crossings, events_asked,
                                                      questions, refused, shipped)
questions['interpret'] = lambda learn: learn.interpret() # from vision, above the rooms of training
torch.set_num_threads(1)

class Noisy(torch.utils.data.Dataset):
    "Tiny pictures, shifted at random each time that they are asked for"
    def __init__(self, n, seed): self.x, self.y = tiny_images(n, seed=seed)
    def __len__(self): return len(self.x)
    def __getitem__(self, i):
        shift = tuple(torch.randint(-1, 2, (2,)).tolist())
        return torch.roll(self.x[i], shift, (1, 2)), self.y[i]

def silent(learn):
    "`learn` without bar and table"
    learn.remove_cbs(ProgressCallback)
    learn.logger = None
    return learn

def new_learner(workers):
    def loader(n, seed, bs):
        return torch.utils.data.DataLoader(Noisy(n, seed), bs, shuffle=seed == 0, num_workers=workers)
    net = tiny_net()
    net.insert(5, nn.Dropout(0.2))
    cbs = [EMA(0.9), GradientClip(max_norm=1.), MixUp()]
    dls = DataLoaders(loader(320, 0, 16), loader(64, 1, 32), c=4)
    return silent(Learner(dls, net, metrics=accuracy, opt_func=partial(SGD, mom=0.9), cbs=cbs))

# --- kills

class Slow(Callback):
    "Gives the killer time"
    def after_batch(self): time.sleep(0.004)

def training(folder, workers, seed):
    "One training from start or checkpoint to end; its weights in `final.pt`"
    set_seed(seed)
    learn = new_learner(workers)
    learn.fit_one_cycle(2, 0.1, cbs=[Slow(), Checkpoint(folder/'run.ckpt', every=3)], resume=True)
    torch.save([v.double() for v in learn.model.state_dict().values()], folder/'final.pt')

def child(f, *args):
    "Run `f` in a process of its own; returns its number"
    pid = os.fork()
    if pid: return pid
    try:
        os.setpgid(0, 0)
        f(*args)
        os._exit(0)
    except BaseException as e:
        print(f'child failed: {type(e).__name__}: {e}', file=sys.stderr, flush=True)
        os._exit(1)

def wait(pid, deadline):
    "Wait for process `pid` until `deadline`; True if it ended by itself"
    while (got := os.waitpid(pid, os.WNOHANG))[0] == 0 and time.time() < deadline: time.sleep(0.002)
    assert not got[0] or got[1] == 0, 'a resumed training failed'
    return got[0] != 0

def trained_batches(file): return safe_load(file)['train_iter'] if file.exists() else None

def killed_until_done(folder, workers, rng, length, left):
    "Kill a training, at most `left` times, until it is done; gives kills, checkpoints loaded, resumptions"
    file, done, loaded, resumed = folder/'run.ckpt', 0, 0, 0
    while True:
        before = trained_batches(file)
        pid = child(training, folder, workers, 1)
        deadline = time.time() + rng.uniform(0.1, 0.7)*length if done < left else float('inf')
        if wait(pid, deadline): return done, loaded, resumed
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        done += 1
        after = trained_batches(file) # loads the checkpoint, or fails
        loaded += 1
        # killed before the first checkpoint, it starts anew; later it must never fall back
        resumed += before is None or after >= before

def largest_difference(a, b): return max((x-y).abs().max().item() for x,y in zip(a, b))

def kills(n, workers, rng, tmp):
    "Kill trainings `n` times in all; figures of what was found"
    folder = tmp/f'undisturbed{workers}'
    folder.mkdir()
    t = time.time()
    assert os.waitpid(child(training, folder, workers, 1), 0)[1] == 0
    length, base = time.time()-t, torch.load(folder/'final.pt')
    done = loaded = resumed = left = rounds = 0
    worst = 0.
    while done < n:
        rounds += 1
        folder = tmp/f'killed{workers}-{rounds}'
        folder.mkdir()
        k, l, r = killed_until_done(folder, workers, rng, length, n-done)
        done, loaded, resumed = done+k, loaded+l, resumed+r
        worst = max(worst, largest_difference(base, torch.load(folder/'final.pt')))
        left += len(list(folder.glob('*.part')))
    return dict(workers=workers, kills=done, trainings=rounds, checkpoints_loaded=loaded, resumed=resumed,
                temporary_files_left=left, largest_difference=worst)

# --- losses that are not numbers

class Poison(Callback):
    "Makes the loss of batch `at` bad"
    run_valid = False
    def __init__(self, at, bad): self.at, self.bad = at, bad
    def after_loss(self):
        if self.train_iter == self.at: self.learn.loss = self.loss*self.bad

def finite(learn):
    vs = [v for v in learn.model.state_dict().values() if v.is_floating_point()]
    return all(torch.isfinite(v).all() for v in vs)

def nans(n, rng, tmp):
    "NaN or infinite losses at random batches"
    good = 0
    for i in range(n):
        at, bad = rng.randrange(40), rng.choice([float('nan'), float('inf')])
        learn, file = new_learner(0), tmp/f'best{i}.pth'
        learn.fit(2, 0.02, cbs=[Poison(at, bad), TerminateOnNaNCallback(), SaveBestModel(file)])
        fine = learn.train_iter <= at+1 and finite(learn)
        if file.exists(): fine = fine and finite(new_learner(0).load(file))
        learn.fit(1, 0.02) # and it can be used
        good += fine
    return dict(trainings=n, stopped_in_time_with_finite_weights=good)

# --- interrupts

def interrupted(kind, f, seconds, rng):
    "Interrupt `f` somewhere in its `seconds`; 'late' if it was done before, else what came out that is wrong"
    found = 'late'
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, max(1e-6, rng.uniform(0, 1.05)*seconds))
            f()
        except KeyboardInterrupt: found = None
        except BaseException as e: found = f'{kind}: a {type(e).__name__} instead of a KeyboardInterrupt: {e}'
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt: found = 'late' # it came between the end of `f` and this line
    return found

class Interrupted:
    "A Learner with callbacks that borrow something, and what can be interrupted in it"
    def __init__(self, folder):
        self.file, self.other, self.checkpoint = (folder/n for n in ('saved.pth', 'other.pth', 'run.ckpt'))
        self.learn = self.fresh()
        self.learn.save(self.file)
        self.begin = copy.deepcopy(self.learn.model.state_dict())
        self.learn.fit(1, 0.05)
        self.learn.save(self.other)
        self.wanted = self.next_fit(self.fresh())
        self.kinds = dict(fit=lambda: self.learn.fit_one_cycle(1, 0.05, wd=0.1, cbs=GradientClip(1.)),
                          get_preds=self.learn.get_preds, validate=self.learn.validate,
                          lr_find=lambda: self.learn.lr_find(num_it=6, show_plot=False),
                          save=lambda: self.learn.save(self.file), load=lambda: self.learn.load(self.other),
                          checkpoint=lambda: self.learn.fit(1, cbs=Checkpoint(self.checkpoint, every=1)))

    def fresh(self):
        set_seed(0)
        x, y = tiny_images(64)
        batches = list(zip(x.split(16), y.split(16)))
        net = tiny_net()
        net.insert(5, nn.Dropout(0.2))
        dls = DataLoaders(batches, batches[:2], c=4)
        learn = Learner(dls, net, metrics=accuracy, cbs=[EMA(0.9), MixUp()])
        learn.logger = None
        return learn

    def next_fit(self, learn):
        "The weights after one more fit of `learn`, from the weights of the beginning"
        learn.model.load_state_dict(getattr(self, 'begin', learn.model.state_dict()))
        set_seed(1)
        learn.fit(1, 0.02, reset_opt=True)
        return [v.clone() for v in learn.model.state_dict().values()]

    def interrupt(self, kind, rng):
        "Interrupt `kind` somewhere; 'late' if it was done already, else what is wrong afterwards, or None"
        f, before = self.kinds[kind], copy.deepcopy(self.learn.model.state_dict())
        t = time.perf_counter()
        f() # how long does it take today?
        seconds = time.perf_counter() - t
        self.learn.model.load_state_dict(before)
        return interrupted(kind, f, seconds, rng) or self.wrong(kind, before)

    def wrong(self, kind, before):
        "What an interrupt has left behind, in words; None if nothing"
        for file in (self.file, self.other, self.checkpoint):
            if file.exists(): safe_load(file) # whole, or an error
        now, new = self.learn.model.state_dict(), safe_load(self.other)['model']
        allowed = dict(fit=[now], checkpoint=[now], load=[before, new]).get(kind, [before])
        whole = any(all(torch.equal(now[k], o[k]) for k in now) for o in allowed)
        after = largest_difference(self.next_fit(self.learn), self.wanted)
        if not whole or after: return f'{kind}: weights whole {whole}, the next fit differs by {after}'

class InterruptedExport:
    "An export over an older one, and whether the folder is the old or the new one, whole"
    kinds = 'export',
    def __init__(self, folder): self.folders = Folders(folder)
    def interrupt(self, kind, rng):
        f = self.folders
        t = time.perf_counter()
        f.export() # how long does it take today? It writes twice, first the one and then the other
        w = interrupted(kind, f.export, time.perf_counter() - t, rng)
        if w is not None: return w
        whole = f.whole_export()
        f.export()
        if not whole or f.left(): return f'export: whole {whole}, left {f.left()}'

def interrupts(n, rng, tmp):
    "Ctrl-C at random moments, `n` of each kind: how many did come out as such, and left nothing behind"
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    folder, held = tmp/'interrupts', {}
    folder.mkdir()
    for subject in (Interrupted(folder), InterruptedExport(folder)):
        for kind in subject.kinds:
            found = []
            while len(found) < n:
                if (w := subject.interrupt(kind, rng)) != 'late': found.append(w)
            for w in {*found} - {None}: print(w)
            held[kind] = found.count(None)
    return dict(of_each_kind=n, held=held)

# --- folders

class Folders:
    "Writers of folders, and whether what they have written is the old folder or the new one, whole"
    def __init__(self, tmp):
        self.tmp, self.to = tmp, tmp/'written'/'folder'
        self.to.parent.mkdir(parents=True)
        images = ImagenetteFolder(generate_images(tmp/'images', 2, 1, size=32), 'given', check=False)
        self.files = images.files()[0]
        self.learners = [self.learner(images, k) for k in (0, 1)]
        self.kinds = dict(
            export=(self.export, self.whole_export), new_export=(self.new_export, self.whole_export),
            generated=(self.generate, self.whole_images), decoded=(self.decode, self.whole_pixels))

    def learner(self, images, k):
        "One whose weights are all `k`, and whose classes say so"
        os.environ['IMAGENETTE_TRAIN_CACHE'] = str(self.tmp/'cache')
        dls = get_data(path=images, presize=32, resize=32, bs=4, device='cpu')
        dls.vocab = [f'{c} {k}' for c in dls.vocab]
        learn = cnn_learner(dls, torchvision.models.squeezenet1_1, pretrained=False)
        for p in learn.model.parameters(): p.data.fill_(k)
        return learn

    def export(self):
        for learn in self.learners: learn.export(self.to)
    def new_export(self): self.learners[0].export(self.to)
    def whole_export(self):
        if not self.to.exists(): return True
        predictor = load_predictor(self.to) # compares checksums
        k, = {int(v) for p in predictor.model.parameters() for v in (p.min(), p.max())}
        return all(c.endswith(f' {k}') for c in predictor.vocab) and (self.to/'predict.py').is_file()

    def generate(self): generate_images(self.to, 3, 1, size=32)
    def whole_images(self): return not self.to.exists() or ImagenetteFolder(self.to, 'given').generated

    def decode(self):
        os.environ['IMAGENETTE_TRAIN_CACHE'] = str(self.to)
        return cache_images(self.files, 32)
    def whole_pixels(self): # what is not whole is decoded anew
        want = [torch.tensor(decode_image(f, 32)) for f,_ in self.files]
        return all(map(torch.equal, self.decode(), want))

    def left(self):
        "Temporary files and folders"
        return [*self.to.parent.rglob('*.part'), *self.to.rglob('*.new')]

def folders(n, rng, tmp):
    "Kill `n` writers of each kind of folder: how many left the old or the new one, and no rubbish for good"
    subject, held = Folders(tmp/'folders'), {}
    for kind,(write, whole) in subject.kinds.items():
        held[kind] = 0
        t = time.time()
        write()
        length = time.time() - t
        for _ in range(n):
            if kind != 'export': shutil.rmtree(subject.to) # else the older one stays
            pid = child(write)
            time.sleep(rng.uniform(0, length))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            good = whole()
            write()
            if not good or subject.left(): print(f'{kind}: whole: {good}, left: {subject.left()}')
            else: held[kind] += 1
        shutil.rmtree(subject.to)
    return dict(of_each_kind=n, held=held)

# --- threads

def ready_learner(seed):
    "A Learner whose batches are ready and that draws no random numbers, since threads share those"
    x, y = tiny_images(seed=seed)
    batches = list(zip(x.split(32), y.split(32)))
    return silent(Learner(DataLoaders(batches, batches[:2]), tiny_net(seed), lr=0.01))

def threads():
    "Two Learners one after the other, and at the same time"
    def train(learn, out, seed):
        learn.fit_one_cycle(4, 0.02)
        out[seed] = [p.detach() for p in learn.model.parameters()]
    alone, together = {}, {}
    for s in (0, 1): train(ready_learner(s), alone, s)
    ts = [threading.Thread(target=train, args=(ready_learner(s), together, s)) for s in (0, 1)]
    for t in ts: t.start()
    for t in ts: t.join()
    return dict(largest_difference=max(largest_difference(alone[s], together[s]) for s in (0, 1)))

# --- random calls

class Fails(Callback):
    "Raises `exc` at event `ev`"
    def __init__(self, ev, exc):
        self.exc = exc
        setattr(self, ev, self._fail)
    def _fail(self): raise self.exc

breaks = ('begin_fit', 'begin_batch', 'after_pred', 'after_backward', 'after_step', 'after_validate',
          'after_epoch', 'after_fit')
exceptions = [ValueError('x'), KeyboardInterrupt(), CancelBatchException(), CancelTrainException(),
              CancelEpochException(), CancelFitException()]

# callbacks that need nothing special of model, optimizer or data, and no minute to compile
special = {'ScheduleFreeEval', 'CompileModel', 'RNNRegularizer', 'ModelResetter', 'ProgressCallback', 'MixUp',
           'CutMix'}
usable = sorted({*shipped} - special)

def two_groups(m): return [list(m[:2].parameters()), list(m[2:].parameters())]

class Machine(RuleBasedStateMachine):
    "A Learner on which random calls are made; after each, it must still be whole"
    steps = 0
    def __init__(self):
        super().__init__()
        set_seed(0)
        x, y = tiny_images(64)
        batches = list(zip(x.split(16), y.split(16)))
        self.folder = Path(tempfile.mkdtemp())
        dls = DataLoaders(batches, batches[:1])
        self.learn = silent(Learner(dls, tiny_net(), metrics=accuracy, splitter=two_groups))
        self.cbs = [type(cb) for cb in self.learn.cbs]
    def weights(self): return [p.detach().clone() for p in self.learn.model.parameters()]
    def same(self, before): return all(map(torch.equal, before, self.learn.model.parameters()))
    @rule(n=st.integers(0, 2), lr=st.sampled_from([0.001, 0.01]))
    def fit(self, n, lr): self.learn.fit(n, lr)
    @rule()
    def one_cycle(self): self.learn.fit_one_cycle(1, 0.01)
    @rule(ev=st.sampled_from(breaks), exc=st.sampled_from(exceptions))
    def broken_fit(self, ev, exc):
        try: self.learn.fit(1, 0.01, cbs=Fails(ev, exc))
        except tuple(map(type, exceptions)): pass
        except RuntimeError as e: # it cannot be cancelled there, and the message says where it can
            if not isinstance(exc, CancelException): raise
            assert type(exc).__name__ in str(e) and ev in str(e), e
    @rule(ev=st.sampled_from(events_asked), q=st.sampled_from(sorted({*questions} - {*copies})))
    def asked_while_training(self, ev, q): self.learn.fit(1, 0.01, cbs=Asks(questions[q], ev))
    @rule(do=st.sampled_from(sorted(refused)), ev=st.sampled_from(events_asked))
    def refused_while_training(self, do, ev):
        try: self.learn.fit(1, 0.01, cbs=Asks(refused[do], ev))
        except RuntimeError as e: assert 'is running' in str(e) or 'one is running' in str(e), e
        else: raise AssertionError(f'{do} was done in {ev}')
    @rule(name=st.sampled_from(usable))
    def with_callback(self, name): self.learn.fit(1, 0.01, cbs=shipped[name](self.folder))
    @rule()
    def bad_fit(self):
        fit = self.learn.fit
        bad = [lambda: fit(-1), lambda: fit(1, float('nan')), lambda: fit(1, cbs='no callback'),
               lambda: fit(1, resume=True)]
        for f in bad:
            try: f()
            except (ValueError, TypeError): pass
            else: raise AssertionError('bad input was taken')
    @rule()
    def find(self):
        before = self.weights()
        self.learn.lr_find(num_it=5, show_plot=False)
        assert self.same(before)
    @rule(k=st.sampled_from(['freeze', 'unfreeze']))
    def freeze(self, k):
        if self.learn.opt is None: self.learn.create_opt()
        getattr(self.learn.opt, k)()
    @rule()
    def save_and_load(self):
        self.learn.save(self.folder/'a.pth')
        before = self.weights()
        self.learn.fit(1, 0.01)
        self.learn.load(self.folder/'a.pth')
        assert self.same(before)
    @rule()
    def checkpointed(self): self.learn.fit(1, 0.01, cbs=Checkpoint(self.folder/'c.ckpt', every=2))
    @rule()
    def judge(self):
        self.learn.validate()
        self.learn.get_preds()
    @rule(fused=st.booleans())
    def new_opt(self, fused):
        self.learn.opt_func = partial(Adam, fused=fused)
        self.learn.create_opt()
    @invariant()
    def whole(self):
        Machine.steps += 1
        assert [type(cb) for cb in self.learn.cbs] == self.cbs, self.learn.cbs
        assert all(torch.isfinite(p).all() for p in self.learn.model.parameters())
        assert not torch.is_autocast_enabled('cpu') and torch.is_grad_enabled()
        assert not any(m._forward_hooks for m in self.learn.model.modules())
        assert not list(self.folder.glob('*.part'))
def sequences(n_examples, n_steps):
    "Random sequences of a Learner's calls"
    how = settings(max_examples=n_examples, stateful_step_count=n_steps, deadline=None, derandomize=True,
                   database=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(Machine, settings=how)
    return dict(sequences=n_examples, steps_checked=Machine.steps, broken=0)

# --- callbacks crossed with questions

def rules(n, tmp):
    "Callbacks, alone and in pairs, crossed with questions (`n` crossings, or all): how many differences"
    def half(k):
        with contextlib.redirect_stdout(io.StringIO()): found = cross(n, part=(k, 2)) # `cross` prints
        atomic_write_text(tmp/f'crossed{k}.json', json.dumps(found))
    for pid in [child(half, k) for k in (0, 1)]: assert os.waitpid(pid, 0)[1] == 0, 'the crossing failed'
    wrong = [w for k in (0, 1) for w in json.loads((tmp/f'crossed{k}.json').read_text())]
    for w in wrong: print(w)
    return dict(crossings=n or sum(1 for _ in crossings()), differences=len(wrong))

# --- all of it

def fine(res):
    "Was nothing lost, in the parts that are there?"
    killed = all(k['checkpoints_loaded'] == k['resumed'] == k['kills'] and not k['temporary_files_left']
                 and not k['largest_difference'] for k in res.get('kills', ()))
    counted = [res[o] for o in ('interrupts', 'folders') if o in res]
    out = all(k == o['of_each_kind'] for o in counted for k in o['held'].values())
    nans = res.get('nans', {})
    stopped = nans.get('stopped_in_time_with_finite_weights') == nans.get('trainings')
    rest = [res.get('rules', {}).get('differences'), res.get('threads', {}).get('largest_difference')]
    return killed and out and stopped and not any(rest)

def arguments():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument('--kills', type=int, default=50, help='per number of loader workers (0 and 2)')
    a.add_argument('--interrupts', type=int, default=60, help='of each kind')
    a.add_argument('--folders', type=int, default=200, help='killed writers of each kind of folder')
    a.add_argument('--seed', type=int, default=0)
    a.add_argument('--only', nargs='+', metavar='PART', help='these anew, beside what is in the file')
    a.add_argument('--quick', action='store_true', help='less of everything, and no file is written')
    a.add_argument('--out', default=str(Path(__file__).parent.parent/'results'/'soak.json'))
    return a.parse_args()

def parts_of(a, rng, tmp):
    "Name of each part -> the function that does it"
    quick = a.quick
    return dict(kills=lambda: [kills(a.kills, w, rng, tmp) for w in ((0,) if quick else (0, 2))],
                interrupts=lambda: interrupts(3 if quick else a.interrupts, rng, tmp),
                folders=lambda: folders(3 if quick else a.folders, rng, tmp),
                nans=lambda: nans(3 if quick else 30, rng, tmp),
                threads=threads,
                sequences=lambda: sequences(*((3, 6) if quick else (80, 20))),
                rules=lambda: rules(40 if quick else None, tmp),
                fused=lambda: dict(trainings=fuzz(60 if quick else 10_000, a.seed)))

def main():
    a = arguments()
    warnings.simplefilter('ignore')
    # the usual lock of progress bars is shared with the children, and a killed one never gives it back
    tqdm.set_lock(threading.RLock())
    rng, tmp = random.Random(a.seed), Path(tempfile.mkdtemp())
    out, parts = Path(a.out), parts_of(a, rng, tmp)
    res = json.loads(out.read_text()) if a.only and out.exists() else {}
    for name in a.only or parts:
        t = time.time()
        res[name] = parts[name]()
        seconds = round(time.time() - t)
        res.setdefault('made', {})[name] = dict(seconds=seconds, seed=a.seed, **environment_info('cpu'))
        print(f'{name}: {json.dumps(res[name])} ({seconds} s)', flush=True)
        if not a.quick: atomic_write_text(out, json.dumps(res, indent=1)) # a part that is done stays
    print('nothing was lost' if fine(res) else 'SOMETHING WAS LOST')
    sys.exit(not fine(res))

if __name__ == '__main__': main()
