"Runs notebooks from top to bottom in a real kernel and saves their outputs, clean of machine noise."
import os, re, subprocess, sys, time
from pathlib import Path
import nbformat
from nbclient import NotebookClient

root = Path(__file__).resolve().parent.parent
bin = Path(sys.executable).parent

def clean(nb):
    "Keep tables, figures and printed lines; drop warnings, progress bars and everything that changes from run to run"
    for cell in nb.cells:
        cell.metadata = {}
        if cell.cell_type != 'code': continue
        cell.execution_count = None
        keep = []
        for o in cell.outputs:
            if o.output_type == 'stream' and o.name == 'stderr': continue
            if any('widget' in k for k in o.get('data', {})): continue
            o.pop('execution_count', None)
            if 'metadata' in o: o.metadata = {}
            if o.output_type == 'execute_result': o.execution_count = None
            if re.fullmatch(r'<[^>]* at 0x[0-9a-f]+>|Text\(.*\)|\[?<matplotlib.*', o.get('data', {}).get('text/plain', ''), re.S) and len(o.data) == 1: continue
            for k in ('text/plain', 'text/html'):
                if k in o.get('data', {}): o.data[k] = o.data[k].replace(str(root), '.').replace(str(Path.home()), '~')
            if o.output_type == 'stream': o.text = o.text.replace(str(root), '.').replace(str(Path.home()), '~')
            keep.append(o)
        cell.outputs = keep
    nb.metadata = dict(kernelspec=dict(display_name='python3', language='python', name='python3'))

def set_aside(nb):
    "Empty the cells that need CUDA where there is none; gives their sources"
    import torch
    if torch.cuda.is_available(): return {}
    kept = {i: c.source for i,c in enumerate(nb.cells) if c.cell_type == 'code' and re.search(r'^#\s*\|\s*cuda\s*$', c.source, re.M)}
    for i in kept: nb.cells[i].source = ''
    return kept

def run(path):
    nb, t = nbformat.read(path, 4), time.perf_counter()
    kept = set_aside(nb)
    NotebookClient(nb, timeout=1200, kernel_name='python3', resources={'metadata': {'path': str(path.parent)}}).execute()
    for i,source in kept.items(): nb.cells[i].source = source
    clean(nb)
    nbformat.write(nb, path)
    subprocess.run([bin/'nbdev_clean', '--fname', path], check=True)
    print(f'{path.stem:>16} {time.perf_counter()-t:6.1f} s', flush=True)

def main():
    os.environ['PATH'] = f"{bin}{os.pathsep}{os.environ['PATH']}"
    names = sys.argv[1:]
    todo = [p for p in sorted((root/'nbs').glob('*.ipynb')) if not names or p.stem in names]
    missing = set(names) - {p.stem for p in todo}
    if missing: sys.exit(f"no notebook {', '.join(sorted(missing))} in nbs/")
    for p in todo: run(p)

if __name__ == '__main__': main()
