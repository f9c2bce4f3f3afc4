"""Eight minutes on one GPU, as one can rent or borrow it: what matters most comes first.

    python tools/gpu.py --data DIR                # in 8 minutes; raw results in results/, and one archive
    python tools/gpu.py --data DIR --minutes 30   # every part in peace
    python tools/gpu.py --data DIR --parts checks # some of: env runs fastai optimizers loop checks steps
    python tools/gpu.py --rehearse                # the way there, tiny and on a CPU: nothing is kept
    python tools/gpu.py --rehearse --pretend      # the same on a pretended GPU (tools/pretend.py)

DIR is Imagenette's folder, with train/ and val/ in it. Neither make nor pip nor a network is needed, only
PyTorch, torchvision, matplotlib, NumPy, Pillow and fastcore.

The chapter's five runs with three seeds come first, then fastai's beside them, optimizer steps, the loop,
checks, and where a step's time goes. Each part runs in a process of its own and has its share of the time
that is left; what it does not use goes to the parts after it. What fails or takes too long is a line of the
report, and the others go on. After each part, report and archive are complete: if the machine is taken away,
only what would have come later is lost."""
import argparse, importlib.util, json, os, signal, subprocess, sys, tarfile, time
from pathlib import Path

root = Path(__file__).resolve().parent.parent
# part: its weight when the time that is left is shared out, in the order of what matters most
shares = dict(env=1, runs=10, fastai=4, optimizers=4, loop=2, checks=4, steps=3)
needed = dict(torch='torch', torchvision='torchvision', matplotlib='matplotlib', numpy='numpy', PIL='pillow',
              fastcore='fastcore')

def there(module): return importlib.util.find_spec(module) is not None

def search_path():
    "What the parts' Python finds: the package, the tools, and stand-ins for what is not installed"
    places = [root, root/'tools', root/'benchmarks']
    if not (there('tabulate') and there('tqdm')): places.append(_stand_ins())
    return [str(p) for p in places] + [p for p in [os.environ.get('PYTHONPATH')] if p]

def _stand_ins():
    "A folder with those stand-ins that are needed"
    import shutil, tempfile
    folder = Path(tempfile.mkdtemp())
    source = root/'tools'/'stand_ins'
    if not there('tabulate'): shutil.copy(source/'tabulate.py', folder)
    if not there('tqdm'): shutil.copytree(source/'tqdm', folder/'tqdm')
    return folder

# --- the report

def rows_of(out):
    "What was found so far: a list of (part, what, value)"
    file = out/'rows.jsonl'
    return [json.loads(l) for l in file.read_text(encoding='utf-8').splitlines()] if file.exists() else []

def say(out, part, what, value):
    "One more line of the report"
    with open(out/'rows.jsonl', 'a', encoding='utf-8') as f:
        f.write(json.dumps([part, what, value]) + '\n')
    print(f'{part:10} {what:52} {value}', flush=True)

def run_part(name, a, seconds, env):
    "Run a part in a process of its own; if it dies or takes too long, that is a line of the report"
    cmd = [sys.executable, __file__, '--part', name, '--out', a.out, '--seeds', a.seeds, '--device', a.device]
    cmd += ['--data', a.data] if a.data else []
    cmd += [f for f,on in (('--rehearse', a.rehearse), ('--pretend', a.pretend)) if on]
    cmd += ['--spoil', *a.spoil] if a.spoil else []
    t = time.perf_counter()
    code = run_within(list(map(str, cmd)), seconds, env)
    spent = f'{time.perf_counter()-t:.0f} s'
    say(a.out, name, 'the whole part', spent if code == 0 else f'FAILED ({code}), {spent}')

def run_within(cmd, seconds, env):
    "The exit code of `cmd`, which is ended after `seconds`, and with it all processes that it started"
    p = subprocess.Popen(cmd, cwd=root, env=env, start_new_session=True)
    try: return p.wait(seconds)
    except subprocess.TimeoutExpired: return f'stopped after {seconds:.0f} s'
    finally:
        # loader processes and benchmarks would go on, and hold the GPU
        try: os.killpg(p.pid, signal.SIGKILL)
        except ProcessLookupError: pass
        p.wait()

def share(name, parts, left):
    "Seconds for part `name`, if `left` seconds are shared out among it and those after it"
    rest = parts[parts.index(name):]
    return left*shares[name]/sum(shares[o] for o in rest)

def archive(a, results):
    "Everything that was found so far, in one file, which is whole at any time"
    file, part = a.out/'gpu-results.tar.gz', a.out/'gpu-results.part'
    benchmarks = results.glob(f'benchmarks/*-{a.device}.json')
    with tarfile.open(part, 'w:gz') as tar:
        for p in (results/f'chapter-{a.device}', *benchmarks, results/'gpu.json'):
            if p.exists(): tar.add(p, arcname=str(Path('results')/p.relative_to(results)))
        tar.add(a.out/'rows.jsonl', arcname='rows.jsonl')
    part.replace(file)
    return file

def keep(a, results):
    "Write the raw report and the archive of what was found so far"
    (results/'gpu.json').write_text(json.dumps(dict(rows=rows_of(a.out)), indent=1), encoding='utf-8')
    return archive(a, results)

def report(a, results):
    "Print all lines once more, and where the archive is"
    rows = rows_of(a.out)
    print('\n' + '\n'.join(f'{p:10} {w:52} {v}' for p,w,v in rows))
    bad = [(p, w) for p,w,v in rows if str(v).startswith(('FAILED', 'WRONG'))]
    print(f"\n{len(rows)} lines, {len(bad)} of them failures" + ''.join(f'\n  {p}: {w}' for p,w in bad))
    print(f'\nall raw results: {keep(a, results)}')
    if a.rehearse: return print('a rehearsal: nothing of it is a result')
    print('unpack it in the root of the project; `imagenette-train tables` draws, and\n'
          '`python tools/fill_readme.py` fills the tables')

def results_of(a): return a.out/'results' if a.rehearse else root/'results'

def asked():
    "What the command line asks for"
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', help="Imagenette's folder")
    p.add_argument('--out', type=Path)
    p.add_argument('--parts', nargs='*', default=list(shares), choices=list(shares))
    p.add_argument('--minutes', type=float, default=8., help='for everything; 8 by default')
    p.add_argument('--seeds', type=int, default=3)
    p.add_argument('--device')
    p.add_argument('--rehearse', action='store_true')
    p.add_argument('--pretend', action='store_true')
    p.add_argument('--part', choices=list(shares), help=argparse.SUPPRESS)
    p.add_argument('--spoil', nargs='*', default=[], help='in a rehearsal: PART=hang or PART=fail')
    return p.parse_args()

def main():
    a = asked()
    a.data = a.data and str(Path(a.data).expanduser().resolve())
    a.out = (a.out or root/'runs'/('gpu-rehearsal' if a.rehearse else 'gpu')).resolve()
    if a.part: return child(a)
    possible(a)
    a.device = a.device or ('cuda' if a.pretend or not a.rehearse else 'cpu')
    parent(a)

def possible(a):
    "End with a word of why, if what was asked for cannot be done here"
    if lacking := [name for module,name in needed.items() if not there(module)]:
        sys.exit(f"missing here: {', '.join(lacking)}. Install them, or put their wheels on PYTHONPATH")
    if a.spoil and not a.rehearse: sys.exit('--spoil needs --rehearse')
    if a.pretend and not a.rehearse: sys.exit('--pretend needs --rehearse: a pretended GPU has no figures')

def parent(a):
    "All parts in turn, as long as there is time"
    end = time.perf_counter() + 60*a.minutes
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join(search_path()), 'MPLBACKEND': 'agg'}
    if not a.rehearse: _needs_gpu(env)
    results = results_of(a)
    for folder in (a.out, results/'benchmarks'): folder.mkdir(parents=True, exist_ok=True)
    (a.out/'rows.jsonl').unlink(missing_ok=True)
    for m in ('tabulate', 'tqdm'):
        if not there(m): say(a.out, 'env', m, 'not installed: a stand-in of ours is used')
    parts = [name for name in shares if name in a.parts]
    for name in parts:
        left = end - time.perf_counter()
        if left < 5: say(a.out, name, 'the whole part', 'left out: the time is up')
        else: run_part(name, a, share(name, parts, left), env)
        keep(a, results)
    report(a, results)

def _needs_gpu(env):
    code = 'import torch, sys; sys.exit(not torch.cuda.is_available())'
    if subprocess.run([sys.executable, '-c', code], env=env).returncode:
        sys.exit('PyTorch finds no GPU here. `--rehearse` shows what would be done, tiny and on a CPU')

def child(a):
    "One part, in this process"
    spoilt = dict(o.split('=') for o in a.spoil).get(a.part)
    if spoilt == 'hang': time.sleep(3600)
    if spoilt == 'fail': sys.exit('this part was told to fail')
    import gpu_parts
    gpu_parts.run(a, lambda what, value: say(a.out, a.part, what, value), results_of(a))

if __name__ == '__main__': main()
