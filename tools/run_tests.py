"Runs nbdev_test over every notebook, checks that export and clean change nothing, and counts."
import builtins, dis, importlib, json, os, re, subprocess, sys, tempfile, time, types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

root = Path(__file__).resolve().parent.parent
bin = Path(sys.executable).parent
flags = ('slow', 'cuda')

def cells(path):
    "Number of code cells of a notebook that nbdev_test runs, and of those that a flag leaves out"
    code = [''.join(c['source']) for c in json.loads(path.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'code']
    flagged = [c for c in code if re.search(rf"^#\s*\|\s*({'|'.join(flags)})\s*$", c, re.M)]
    unrun = [c for c in code if re.search(r'^#\s*\|\s*eval:\s*false', c, re.M)]
    return len(code) - len(flagged) - len(unrun), len(flagged) + len(unrun)

def test(path):
    "Run one notebook by nbdev_test; gives its name, seconds and the output of a failure"
    t = time.perf_counter()
    with tempfile.TemporaryDirectory() as cache:
        env = {**os.environ, 'MPLBACKEND': 'agg', 'OMP_NUM_THREADS': '1', 'IMAGENETTE_TRAIN_CACHE': cache, 'IMAGENETTE_TRAIN_DATA': ''}
        p = subprocess.run([bin/'nbdev_test', '--path', path, '--n_workers', '0'], cwd=root, env=env, capture_output=True, text=True)
    return path, time.perf_counter()-t, '' if p.returncode == 0 else (p.stdout + p.stderr)[-6000:] or f'exit code {p.returncode}'

def unchanged(commands, *paths):
    "Does running `commands` leave the files of `paths` as they were?"
    read = lambda: {f: f.read_bytes() for p in paths for f in sorted((root/p).rglob('*')) if f.is_file() and f.suffix in ('.py', '.ipynb', '.md')}
    before = read()
    for c in commands: subprocess.run([bin/c[0], *c[1:]], cwd=root, check=True, capture_output=True)
    after = read()
    return sorted(str(f.relative_to(root)) for f in before.keys() | after.keys() if before.get(f) != after.get(f))

def unknown_names():
    "Names that a module of the package uses and neither defines nor imports; a notebook that imports them for its tests hides it"
    def used(code):
        for i in dis.get_instructions(code):
            if i.opname == 'LOAD_GLOBAL': yield i.argval
        for c in code.co_consts:
            if isinstance(c, types.CodeType): yield from used(c)
    res = []
    for path in sorted((root/'imagenette_train').glob('*.py')):
        module = importlib.import_module(f'imagenette_train.{path.stem}')
        code = compile(path.read_text(encoding='utf-8'), path, 'exec')
        res += [f'{path.name}: {n}' for n in used(code) if not hasattr(module, n) and not hasattr(builtins, n)]
    return res

def main():
    passed = failed = skipped = 0
    todo = [p for p in sorted((root/'nbs').glob('*.ipynb')) if not sys.argv[1:] or p.stem in sys.argv[1:]]
    if not todo: sys.exit(f"no notebook {' '.join(sys.argv[1:])} in nbs/")
    with ThreadPoolExecutor(min(2, os.cpu_count())) as pool:
        for path,secs,error in pool.map(test, todo):
            ran, left_out = cells(path)
            skipped += left_out
            if error: failed += 1; print(error)
            else: passed += ran
            print(f"{path.stem:>16}  {'FAILED' if error else 'ok':6}  {ran:3} cells, {left_out} skipped  {secs:5.1f} s", flush=True)
    def pictures():
        "Cells that promise a picture (`fig-alt`) and have none saved"
        return [f"{p.stem}: {c['source'][0].strip()[:60]}" for p in todo for c in json.loads(p.read_text(encoding='utf-8'))['cells']
                if c['cell_type'] == 'code' and 'fig-alt' in ''.join(c['source'][:2]) and not any('image/png' in o.get('data', {}) for o in c['outputs'])]
    def soak():
        "A short version of `make soak`"
        p = subprocess.run([bin/'python', 'tools/soak.py', '--quick', '--kills', '3'], cwd=root, capture_output=True, text=True)
        return [] if p.returncode == 0 else [(p.stdout + p.stderr)[-3000:]]
    checks = {'every picture that is promised is there': pictures, 'every name that the package uses is known to it': unknown_names}
    if not sys.argv[1:]: checks['three kills, three poisoned losses, two threads, random calls: nothing is lost'] = soak
    checks |= {'nbdev_export and nbdev_clean change nothing': lambda: unchanged([['nbdev_export'], ['nbdev_clean']], 'nbs', 'imagenette_train')}
    if (root/'tools/fill_readme.py').exists(): checks['the tables of the README are those of results/'] = lambda: unchanged([['python', 'tools/fill_readme.py']], 'README.md')
    for what,check in checks.items():
        changed = check()
        passed, failed = passed + (not changed), failed + bool(changed)
        print(f"{'FAILED' if changed else 'ok':>7}  {what}" + (f": {', '.join(changed)}" if changed else ''))
    print(f'{passed} passed, {failed} failed, {skipped} skipped')
    sys.exit(bool(failed))

if __name__ == '__main__': main()
