"""nbdev_test on one notebook, with a clock in each cell.

    python tools/timed_cells.py NOTEBOOK FILE     # FILE gets the seconds of each cell, as JSON
    python tools/timed_cells.py                   # does such jobs as come on stdin, and imports PyTorch once

Of each cell: the seconds that it computed, those that passed, its id, what it does. On a machine with other
work the second figure says little."""
import faulthandler, json, os, resource, subprocess, sys, time
from pathlib import Path
from execnb.shell import CaptureShell
from nbdev.test import nbdev_test

most_seconds = 900 # of a notebook: one that hangs says where, and ends

def title(source):
    "The first line of a cell that says what it does"
    lines = [l.strip() for l in source.splitlines() if l.strip() and not l.lstrip().startswith(('#|', '%%'))]
    return next((l for l in lines if not l.startswith(('import ', 'from ', '@'))), lines[0] if lines else '')

def cpu_seconds():
    "What this process and the ended ones that it started have computed"
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(o.ru_utime + o.ru_stime for o in used)

def clocked(run_cell, seen):
    "`CaptureShell.cell`, which notes in `seen` how long each computed and took"
    def cell(self, cell, *args, **kwargs):
        t, cpu = time.perf_counter(), cpu_seconds()
        try: return run_cell(self, cell, *args, **kwargs)
        finally:
            spent = cpu_seconds() - cpu, time.perf_counter() - t
            seen.append([*spent, cell.get('id', ''), title(cell.source)])
    return cell

def run(notebook, file):
    "Test `notebook`; `file` gets what it took"
    seen, start = [], time.perf_counter()
    faulthandler.dump_traceback_later(most_seconds, exit=True, file=sys.__stderr__)
    CaptureShell.cell = clocked(CaptureShell.cell, seen)
    try: nbdev_test.__wrapped__(path=notebook, n_workers=0) # without its command line
    finally:
        took = dict(seconds=time.perf_counter()-start, cpu=cpu_seconds(), cells=seen)
        Path(file).write_text(json.dumps(took), encoding='utf-8')

def in_copy(job):
    "Do `job` in a copy of this process; gives its exit code"
    if pid := os.fork(): return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.environ.update(job['env'])
    with open(job['said'], 'w') as said, open(os.devnull) as nothing:
        for to,f in enumerate((nothing, said, said)): os.dup2(f.fileno(), to)
    run(job['notebook'], job['file'])
    sys.exit()

def anew(job):
    "Do `job` in a new process; gives its exit code"
    cmd = [sys.executable, __file__, job['notebook'], job['file']]
    with open(job['said'], 'w') as said:
        return subprocess.run(cmd, env={**os.environ, **job['env']}, stdout=said, stderr=said).returncode

def serve():
    "Do the job of each line of stdin, and print its exit code"
    if sys.platform == 'linux': # there a process with PyTorch in it can be copied, which saves seconds
        import matplotlib.pyplot, torchvision # noqa: F401
    for line in sys.stdin:
        do = in_copy if sys.platform == 'linux' else anew
        print(do(json.loads(line)), flush=True)

if __name__ == '__main__': run(*sys.argv[1:]) if sys.argv[1:] else serve()
