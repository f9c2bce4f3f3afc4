"Runs notebooks from top to bottom in a real kernel and saves their outputs, clean of machine noise."
import os, re, subprocess, sys, time
from pathlib import Path
import nbformat
from nbclient import NotebookClient
from opening import name_of, notebooks

root = Path(__file__).resolve().parent.parent
bin = Path(sys.executable).parent
kept_metadata = ('tags', 'jupyter', 'cellView')

def without_paths(text): return text.replace(str(root), '.').replace(str(Path.home()), '~')

def is_noise(o):
    "Is output `o` a warning, a progress bar, or the mere name of an object?"
    if o.output_type == 'stream': return o.name == 'stderr'
    data = o.get('data', {})
    if any('widget' in k for k in data): return True
    nameless = r'<[^>]* at 0x[0-9a-f]+>|Text\(.*\)|\[?<matplotlib.*'
    return len(data) == 1 and re.fullmatch(nameless, data.get('text/plain', ''), re.S) is not None

def clean_output(o):
    "`o` without numbers and paths that differ from run to run"
    o.pop('execution_count', None)
    if 'metadata' in o: o.metadata = {}
    if o.output_type == 'execute_result': o.execution_count = None
    if o.output_type == 'stream': o.text = without_paths(o.text)
    for k in {'text/plain', 'text/html'} & set(o.get('data', {})): o.data[k] = without_paths(o.data[k])
    return o

def clean(nb):
    "Keep tables, figures and printed lines; drop what changes from run to run"
    for cell in nb.cells:
        cell.metadata = {k: v for k,v in cell.metadata.items() if k in kept_metadata}
        if cell.cell_type != 'code': continue
        cell.execution_count = None
        cell.outputs = [clean_output(o) for o in cell.outputs if not is_noise(o)]
        # what the check of an empty exercise says would often give the answer away
        if cell.source.startswith('check_answer('): cell.outputs = []
    nb.metadata = dict(kernelspec=dict(display_name='python3', language='python', name='python3'))

def run(path):
    nb, t = nbformat.read(path, 4), time.perf_counter()
    folder = {'metadata': {'path': str(path.parent)}}
    # lines that are printed one after the other are one output, however they arrive
    NotebookClient(nb, timeout=1200, kernel_name='python3', resources=folder, coalesce_streams=True).execute()
    clean(nb)
    nbformat.write(nb, path)
    subprocess.run([bin/'nbdev_clean', '--fname', path], check=True)
    print(f'{name_of(path):>28} {time.perf_counter()-t:6.1f} s', flush=True)

def main():
    os.environ['PATH'] = f"{bin}{os.pathsep}{os.environ['PATH']}"
    names = sys.argv[1:]
    todo = [p for p in notebooks() if not names or name_of(p) in names]
    missing = set(names) - {name_of(p) for p in todo}
    if missing: sys.exit(f"no notebook {', '.join(sorted(missing))} in nbs/")
    for p in todo: run(p)

if __name__ == '__main__': main()
