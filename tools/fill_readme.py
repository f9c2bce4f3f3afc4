"Fills the README's tables from the raw results, so that none of its figures is typed."
import json, re, sys
from pathlib import Path
from tabulate import tabulate
from imagenette_train.baseline import runs
from imagenette_train.experiment import load_results
from imagenette_train.tables import compare_table

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root/'benchmarks'))

def read(path): return json.loads((root/'results'/path).read_text(encoding='utf-8'))

def pipe(rows, headers): return tabulate(rows, headers, tablefmt='pipe', disable_numparse=True)

def trained(profile):
    "What stands in the README for a profile: a line about the conditions, and the table"
    found = load_results(root/'results'/profile, runs, 'run')
    s, env = found[0]['settings'], found[0]['environment']
    p, data = s['profile'], s['data']
    size = f"{p['arch']}, {p['size']} px, batches of {p['bs']}, {p['n_epoch']} epochs"
    pictures = f"{data['n_train']} pictures to train on and {data['n_valid']} to validate ({data['copy']})"
    where = f"{found[0]['precision']}, {env['device_name']}, torch {env['torch']}, {env['date'][:10]}"
    return f"`{p['name']}`: {size}, {pictures}, {where}.{took(found)}\n\n{compare_table(found)}"

def took(found):
    "Seconds of a run's epochs, where they were trained warm and so can be compared"
    if not all('warm_up' in o for o in found): return ''
    secs = [sum(e['seconds'] for e in o['epochs']) for o in found]
    warm = max(o['warm_up'] for o in found)
    return (f" All epochs of a run, validation included: {min(secs):.2f} to {max(secs):.2f} s, after a "
            f"warm-up (at most {warm:.1f} s, not counted).")

def steps(name):
    "Each variant's time over that of PyTorch's fastest, for three optimizers"
    from optimizer_step import VARIANTS, compared
    result = read(f'benchmarks/optimizer_{name}.json')
    rows = []
    for model,what in dict(resnet34='ResNet-34', small='1,000 tensors of 1,000').items():
        if not any(r['model'] == model for r in result['runs']): continue
        for optim,title in dict(adam='Adam', sgd='SGD with momentum', rmsprop='RMSProp').items():
            best, found = compared(result, optim, model)
            cell = lambda v: found[v][0] if v in found else ''
            rows.append([f'{title}, {what}', best, *map(cell, ('fused', 'ours', 'fastai', 'floor')),
                         f"{found['fused'][1]:.1f}"])
    e, n = result['environment'], result['settings']['rounds']
    where = f"{e['device_name']}, torch {e['torch']}, {e['date'][:10]}, {n} rounds"
    heads = ['', "PyTorch's fastest is", *(VARIANTS[v] for v in ('fused', 'ours', 'fastai', 'floor')),
             'first two steps of fused=True, s']
    return f'{where}:\n\n{pipe(rows, heads)}'

def loop(name):
    "A batch of a training loop, ours and others', beside one by hand"
    from loop_overhead import conditions, facts, table
    result = read(f'benchmarks/{name}.json')
    times = tabulate(table(result), headers='keys', tablefmt='pipe', disable_numparse=True)
    return f"{conditions(result)}:\n\n{times}\n\n{pipe(facts(result), ['', ''])}"

def soak(name):
    "What was tried to break training"
    r = read('soak.json')
    total = lambda f: sum(o[f] for o in r['kills'])
    worst, nans, calls = max(o['largest_difference'] for o in r['kills']), r['nans'], r['sequences']
    return pipe([
        ['kills (SIGKILL) at random moments, with 0 and with 2 loader workers', total('kills')],
        ['checkpoints that loaded afterwards, trainings that resumed',
         f"{total('checkpoints_loaded')}, {total('resumed')}"],
        ['temporary files left', total('temporary_files_left')],
        ['largest difference of any weight from the undisturbed training', f"{worst:g}"],
        ['NaN or infinite losses stopped with finite weights',
         f"{nans['stopped_in_time_with_finite_weights']} of {nans['trainings']}"],
        ['two Learners in two threads, largest difference from one after the other',
         f"{r['threads']['largest_difference']:g}"],
        ['random calls of a Learner, checked after each',
         f"{calls['steps_checked']} calls, {calls['broken']} broken"],
        ['callbacks, alone and in pairs, crossed with questions before, during and after a fit; what differs',
         f"{r['rules']['crossings']:,}, {r['rules']['differences']}"]], ['', ''])

needs_gpu = {'chapter-cuda': 'chapter-cuda', 'step-cuda': 'benchmarks/optimizer_step-cuda.json'}

def measured(name):
    "Are there raw results for table `name`? Those of a CPU always are"
    if name not in needs_gpu: return True
    path = root/'results'/needs_gpu[name]
    return any(path.glob('*-seed*.json')) if path.suffix == '' else path.exists()

def block(name):
    "What stands in the README between the marks of table `name`"
    if not measured(name): return 'Not measured yet: `make gpu` measures it, on a machine with a GPU.'
    if name.startswith('step'): return steps(name)
    if name.startswith('loop'): return loop(name)
    return soak(name) if name == 'soak' else trained(name)

def main():
    path = root/'README.md'
    text = path.read_text(encoding='utf-8')
    for name in re.findall(r'<!-- table (\S+) -->', text):
        marked = rf'(<!-- table {name} -->\n).*?(<!-- end -->)'
        text = re.sub(marked, lambda m: f'{m[1]}{block(name)}\n{m[2]}', text, flags=re.S)
    path.write_text(text, encoding='utf-8')

if __name__ == '__main__': main()
