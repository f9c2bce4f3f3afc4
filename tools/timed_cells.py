"""nbdev_test on one notebook, with a clock in each cell.

    python tools/timed_cells.py NOTEBOOK FILE     # FILE gets the seconds of each cell, as JSON"""
import json, resource, sys, time
from pathlib import Path
from execnb.shell import CaptureShell
from nbdev.test import nbdev_test

def title(source):
    "The first line of a cell that says what it does"
    lines = [l.strip() for l in source.splitlines() if l.strip() and not l.lstrip().startswith(('#|', '%%'))]
    return next((l for l in lines if not l.startswith(('import ', 'from ', '@'))), lines[0] if lines else '')

def cpu_seconds():
    "What this process and the ended ones that it started have computed"
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(o.ru_utime + o.ru_stime for o in used)

def clocked(run_cell, seen):
    "`CaptureShell.cell`, which notes in `seen` how long each took"
    def cell(self, cell, *args, **kwargs):
        t = time.perf_counter()
        try: return run_cell(self, cell, *args, **kwargs)
        finally: seen.append([time.perf_counter()-t, title(cell.source)])
    return cell

def main():
    notebook, file = sys.argv[1:]
    seen, start = [], time.perf_counter()
    CaptureShell.cell = clocked(CaptureShell.cell, seen)
    try: nbdev_test.__wrapped__(path=notebook, n_workers=0) # without its command line
    finally:
        took = dict(seconds=time.perf_counter()-start, cpu=cpu_seconds(), cells=seen)
        Path(file).write_text(json.dumps(took), encoding='utf-8')

if __name__ == '__main__': main()
