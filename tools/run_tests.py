"""Runs nbdev_test over every notebook, checks that export and clean change nothing, and counts.

    python tools/run_tests.py                     # every notebook, and what is quickly checked (make test)
    python tools/run_tests.py --tools             # what takes longer: package, site, soak (make check)
    python tools/run_tests.py core/io 01_momentum # these notebooks
    python tools/run_tests.py --avx2              # the slowest notebooks as on a CPU without bfloat16

The slowest cells are listed at the end; `--slowest 30` lists so many."""
import argparse, builtins, contextlib, dis, importlib, io, json, os, queue, re, shutil, signal, subprocess
import sys, tarfile, tempfile, time, types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock
import browser_test, opening, style

root = Path(__file__).resolve().parent.parent
bin = Path(sys.executable).parent
flags = ('slow', 'cuda')
# Held to these, a newer CPU computes as one with AVX2 and without bfloat16: Muon's matrix products take 20
# times as long in bfloat16 as in float32. core/batches shows it.
avx2 = dict(ONEDNN_MAX_CPU_ISA='AVX2', ATEN_CPU_CAPABILITY='avx2')
slowest_on_avx2 = ['03_adam', 'core/fused', 'core/fused_checks', 'optim/muon', 'training/checkpoint',
                   'training/distributed', 'training/mixed_precision', 'vision/loaders', 'vision/models',
                   'experiments/leaderboard', 'experiments/reproduce', 'experiments/sweep']
most_seconds = 60 # of a notebook, there
most_seconds_of_a_check = 900 # what hangs is stopped, and says where it was; so in tools/timed_cells.py
# these first, so that no long one is left alone at the end
longest_first = ['training/checkpoint', 'optim/muon', '03_adam', 'core/fused', 'training/distributed',
                 'training/callback_checks', 'core/fused_checks', 'vision/inference', '02_rmsprop',
                 'course/noise_and_schedules', 'vision/models', 'vision/interpret', 'course/optimizer_race',
                 'vision/tasks', '01_momentum', 'experiments/reproduce', 'course/sliders',
                 'course/weight_decay', 'core/learner_base']

# --- notebooks

def code_cells(path):
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    return [c for c in cells if c['cell_type'] == 'code' and 'setup' not in c['metadata'].get('tags', ())]

def counts(path):
    "Number of code cells of a notebook that nbdev_test runs, and of those that a flag leaves out"
    code = [''.join(c['source']) for c in code_cells(path)]
    flagged = rf"^#\s*\|\s*({'|'.join(flags)}|eval:\s*false)\s*$"
    left_out = [c for c in code if re.search(flagged, c, re.M)]
    return len(code) - len(left_out), len(left_out)

class Tester:
    "A process that has imported PyTorch and runs notebooks, each in a copy of itself"
    def __init__(self, more_env):
        self.env = {**os.environ, 'MPLBACKEND': 'agg', 'OMP_NUM_THREADS': '1', **more_env}
        self.start()
    def start(self):
        self.process = subprocess.Popen([sys.executable, 'tools/timed_cells.py'], cwd=root, env=self.env,
                                        text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    def run(self, job):
        "Do `job`; gives its exit code"
        if self.process.poll() is not None: self.start() # somebody has killed it
        print(json.dumps(job), file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline() or -1)
    def __enter__(self): return self
    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()

def test(path, testers):
    "Run one notebook by nbdev_test; gives its name, what it took and the output of a failure"
    with tempfile.TemporaryDirectory() as tmp:
        file, said = Path(tmp)/'took.json', Path(tmp)/'said.txt'
        env = {'IMAGENETTE_TRAIN_CACHE': f'{tmp}/cache', 'IMAGENETTE_TRAIN_DATA': ''}
        tester = testers.get()
        status = tester.run(dict(notebook=str(path), file=str(file), said=str(said), env=env))
        testers.put(tester)
        killed = dict(seconds=float('nan'), cpu=float('nan'), cells=[]) # before it could write
        took = json.loads(file.read_text(encoding='utf-8')) if file.exists() else killed
        told = said.read_text(encoding='utf-8')[-6000:] if said.exists() else ''
    return path, took, '' if status == 0 else told or f'exit code {status}'

def at_a_time():
    "How many notebooks may run side by side: one a core (more take longer), and 2 GiB of memory for each"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    try: memory = os.sysconf('SC_PAGE_SIZE')*os.sysconf('SC_PHYS_PAGES')
    except (AttributeError, ValueError, OSError): memory = 4*2**30
    return max(1, min(cores, memory//2**31))

def slowest_cells(tooks, n):
    "The `n` cells that computed longest: seconds, and those that passed, notebook, cell, what it does"
    cells = sorted([(*cell, name) for name,took in tooks.items() for cell in took['cells']], reverse=True)
    return [f'{cpu:6.1f} s, {secs:5.1f} passed  {name:24} {id:8}  {what[:60]}'
            for cpu,secs,id,what,name in cells[:n]]

# --- checks: each gives a list of what is wrong

def stop(process):
    "End `process` and those that it has started; Python's say where they were"
    for sig in (signal.SIGABRT, signal.SIGKILL):
        with contextlib.suppress(OSError): os.killpg(process.pid, sig)
        with contextlib.suppress(subprocess.TimeoutExpired): process.wait(5)

def said_by(cmd, cwd=root, env=os.environ, most=most_seconds_of_a_check):
    "Run `cmd`, for `most` seconds at most; gives its exit code and what it said"
    # into a file: the end of a pipe does not come while a process that it left behind holds it
    with tempfile.TemporaryFile('w+') as f:
        p = subprocess.Popen([str(o) for o in cmd], cwd=cwd, env={**env, 'PYTHONFAULTHANDLER': '1'}, stdout=f,
                             stderr=subprocess.STDOUT, text=True, start_new_session=True)
        late = ''
        try: p.wait(most)
        except subprocess.TimeoutExpired: late = f'\nIt was stopped after {most} s.'
        finally: stop(p)
        f.seek(0)
        return p.returncode, re.sub('\n*Extension modules: .*', '', f.read()) + late

def told_by(tool, *args):
    "What a tool of ours says when it fails"
    code, said = said_by([bin/'python', f'tools/{tool}.py', *args])
    return [] if code == 0 else [said[-3000:]]

def unchanged(commands, *paths):
    "Files of `paths` that running `commands` changes; or what a command says that fails"
    def read():
        found = [f for p in paths for f in [root/p, *(root/p).rglob('*')]]
        return {f: f.read_bytes() for f in found if f.is_file() and f.suffix in ('.py', '.ipynb', '.md')}
    before = read()
    for c in commands:
        code, said = said_by([bin/c[0], *c[1:]])
        if code: return [f'{" ".join(c)}: {said[-3000:]}']
    after = read()
    changed = [f for f in before.keys() | after.keys() if before.get(f) != after.get(f)]
    return sorted(str(f.relative_to(root)) for f in changed)

def exported():
    "nbdev_export and nbdev_clean change nothing"
    return unchanged([['nbdev_export'], ['nbdev_clean']], 'nbs', 'imagenette_train')

def fused_same():
    "Some seconds of random trainings: fused, they go as without"
    return told_by('fused_fuzz', '--examples', '150')

def readme_filled():
    "The figures of README and BENCHMARKS are those of results/; README is short, and its links work on PyPI"
    return told_by('fill_readme', '--check')

def example_runs():
    "README's example for images of one's own runs, at a small size, on a folder of generated pictures"
    from imagenette_train.vision.synthetic import generate_images
    text = (root/'README.md').read_text(encoding='utf-8')
    code = re.search(r'## On your own images\s+```python\n(.*?)```', text, re.S)[1]
    smaller = {'resnet34, pretrained=True': 'resnet18, pretrained=False',
               'bs=32': 'bs=8, presize=40, resize=32'}
    for large,small in smaller.items():
        if large not in code: return [f'README has no {large!r} any more: say here what stands for it']
        code = code.replace(large, small)
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        generate_images(tmp/'made', n_train=10, n_valid=1)
        (tmp/'made/train').rename(tmp/'my_images')
        shutil.copy(next((tmp/'my_images').rglob('*.JPEG')), tmp/'new.jpg')
        code += '\nassert len(learn.recorder.values) == 3'
        env = {**os.environ, 'MPLBACKEND': 'agg', 'OMP_NUM_THREADS': '1', 'IMAGENETTE_TRAIN_CACHE': str(tmp)}
        status, said = said_by([bin/'python', '-c', code], tmp, env)
        made = (tmp/'my_model/predict.py').is_file()
    return [] if status == 0 and made else [said[-3000:]]

def results_drawn():
    "Tables and pictures in results/ are those of the raw files beside them"
    from fill_readme import stale
    return [f'{f.name}/{name}: make it anew (make readme)' for f,names in stale().items() for name in names]

def gpu_in_time():
    "tools/gpu.py keeps to its minutes: what fails or hangs is a line, and what comes after it is done"
    def rehearsed(minutes, *more):
        with tempfile.TemporaryDirectory() as tmp:
            cmd = [bin/'python', 'tools/gpu.py', '--rehearse', '--out', tmp, '--minutes', str(minutes),
                   '--parts', 'env', 'runs', 'fastai', *more]
            said_by(cmd)
            with tarfile.open(f'{tmp}/gpu-results.tar.gz') as tar:
                rows = map(json.loads, tar.extractfile('rows.jsonl'))
                return {part: value for part,what,value in rows if what == 'the whole part'}
    wanted = dict(env=r'FAILED \(stopped.*', runs=r'FAILED \(1\).*', fastai=r'\d+ s')
    for _ in range(2): # once more, if the machine was busy
        t = time.monotonic()
        found = rehearsed(1, '--spoil', 'env=hang', 'runs=fail')
        if (took := time.monotonic()-t) <= 75: break
    as_wanted = lambda part: re.fullmatch(wanted[part], str(found.get(part)))
    wrong = [f'{part}: {found.get(part)}' for part in wanted if not as_wanted(part)]
    if took > 75: wrong.append(f'one minute took {took:.0f} s')
    late = rehearsed(0)
    return wrong + [f'without time, {part}: {v}' for part,v in late.items() if 'time is up' not in v]

def packed():
    "Wheel and sdist install in an empty folder, and a notebook runs there"
    return told_by('check_package')

def globals_of(code):
    "The names that compiled `code`, and the code inside it, looks up globally"
    for i in dis.get_instructions(code):
        if i.opname == 'LOAD_GLOBAL': yield i.argval
    for c in code.co_consts:
        if isinstance(c, types.CodeType): yield from globals_of(c)

def names_known():
    "Every name that the package uses is known to it"
    # a notebook that imports a name for its tests would hide that the exported code lacks it
    wrong = []
    for name,path in style.modules().items():
        module = importlib.import_module(f'imagenette_train.{name}')
        code = compile(path.read_text(encoding='utf-8'), path, 'exec')
        unknown = {n for n in globals_of(code) if not hasattr(module, n) and not hasattr(builtins, n)}
        wrong += [f'{name}: {n}' for n in sorted(unknown)]
    return wrong

def pictures_there():
    "Every picture that is promised (`fig-alt`) is there"
    wrong = []
    for p in style.notebooks():
        for c in code_cells(p):
            promised = 'fig-alt' in ''.join(c['source'][:2])
            if promised and not any('image/png' in o.get('data', {}) for o in c['outputs']):
                wrong.append(f"{p.stem}: {c['source'][0].strip()[:60]}")
    return wrong

def safe_without_gpu():
    "Where there is no GPU, the cells for one only say what they would do"
    import torch
    wrong = []
    for path,source in style.gpu_cells():
        said, names = io.StringIO(), dict(torch=torch) # no other name: the cell may use nothing else here
        with mock.patch('torch.cuda.is_available', lambda: False), contextlib.redirect_stdout(said):
            try: exec(source, names)
            except Exception as e: said = io.StringIO(f'{type(e).__name__}: {e}')
        if not said.getvalue().startswith('No GPU here.'): wrong.append(f'{path.stem}: {said.getvalue()}')
    return wrong


def documented():
    "nbdev makes a page of every notebook"
    return told_by('pages', '--check')

def soaked():
    "Three kills, three poisoned losses, two threads, random calls: nothing is lost"
    return told_by('soak', '--quick', '--kills', '3')

def pretended():
    "On a pretended GPU nothing mixes devices or waits, and launches are few"
    return told_by('check_cuda')

def browsed():
    "In a browser, keys and sliders move the pictures that move, and their numbers are the library's"
    return told_by('browser_test')

def asked():
    "What the command line asks for"
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('names', nargs='*', help='notebooks, such as core/io; none: all of them, and the checks')
    p.add_argument('--avx2', action='store_true', help='as on a CPU with AVX2 and without bfloat16')
    p.add_argument('--slowest', type=int, default=10, help='how many of the slowest cells to list')
    p.add_argument('--tools', action='store_true', help='instead of notebooks, what takes longer')
    a = p.parse_args()
    a.everything = not a.names and not a.avx2
    a.names = a.names or (slowest_on_avx2 if a.avx2 else [])
    return a

class Count:
    passed = failed = skipped = 0

def run_notebooks(todo, a, count):
    "Test the notebooks `todo`, the longest first; gives what each took, by name"
    tooks, env = {}, avx2 if a.avx2 else {}
    longest = {name: i for i,name in enumerate(longest_first)}
    todo = sorted(todo, key=lambda p: longest.get(opening.name_of(p), len(longest)))
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(at_a_time()) as pool:
        testers = queue.SimpleQueue()
        for _ in range(min(at_a_time(), len(todo))): testers.put(stack.enter_context(Tester(env)))
        for path,took,error in pool.map(lambda p: test(p, testers), todo):
            name, (ran, left_out) = opening.name_of(path), counts(path)
            # while other jobs share the cores, the clock on the wall says nothing; so both must be over
            if a.avx2 and not error and min(took['seconds'], took['cpu']) > most_seconds:
                error = f'{name} takes more than {most_seconds} s: shorten its slowest cells'
            count.skipped += left_out
            count.failed += bool(error)
            if error: print(error)
            else: count.passed += ran
            what = f"{'FAILED' if error else 'ok':6}  {ran:3} cells, {left_out} skipped"
            said = f"{what}  {took['seconds']:5.1f} s"
            print(f"{name:>28}  {said}", flush=True)
            tooks[name] = took
    return tooks

def report_check(check, count, wrong=None):
    "Say what `check` finds, and count it; `wrong`: what it has found already"
    failed = style.report(check, wrong)
    count.passed, count.failed = count.passed + (not failed), count.failed + failed

def run_checks(count):
    "What is quickly checked; `exported` comes last, since it writes files, the same again"
    with ThreadPoolExecutor(1) as pool:
        # in processes of their own
        alone = {check: pool.submit(check) for check in (readme_filled, fused_same)}
        style.table()
        for check in (pictures_there, names_known, *style.checks, safe_without_gpu, results_drawn):
            report_check(check, count)
        for check,found in alone.items(): report_check(check, count, found.result())
    report_check(exported, count)

def timed(check):
    "What `check` finds, and the seconds that it takes"
    t = time.perf_counter()
    return check(), time.perf_counter() - t

def run_tools(count):
    "What takes longer, in processes of their own, which change nothing here: side by side"
    checks = [gpu_in_time, soaked, packed, documented, pretended, example_runs]
    why_not = browser_test.why_not()
    if why_not:
        print(f'skipped  {browsed.__doc__}: {why_not}')
        count.skipped += 1
    else: checks.insert(1, browsed)
    with ThreadPoolExecutor(at_a_time() + 1) as pool: # the first mostly waits
        for check,running in [(check, pool.submit(timed, check)) for check in checks]:
            wrong, seconds = running.result()
            report_check(check, count, wrong)
            print(f'         {seconds:.0f} s', flush=True)

def test_notebooks(a, count):
    "The notebooks that `a` asks for, or all of them and what is quickly checked"
    todo = [p for p in style.notebooks() if not a.names or opening.name_of(p) in a.names]
    unknown = set(a.names) - {opening.name_of(p) for p in todo}
    if unknown: sys.exit(f"no notebook {' '.join(sorted(unknown))} in nbs/")
    t = time.perf_counter()
    tooks = run_notebooks(todo, a, count)
    total = sum(o['cpu'] for o in tooks.values())
    print(f"\nThe slowest cells (notebooks: {time.perf_counter()-t:.0f} s, {total:.0f} s of computing)",
          *slowest_cells(tooks, a.slowest), '', sep='\n')
    if a.everything: run_checks(count)

def main():
    a, count, t = asked(), Count(), time.perf_counter()
    if a.tools: run_tools(count)
    else: test_notebooks(a, count)
    print(f'{time.perf_counter()-t:.0f} s in all')
    print(f'{count.passed} passed, {count.failed} failed, {count.skipped} skipped')
    sys.exit(bool(count.failed))

if __name__ == '__main__': main()
