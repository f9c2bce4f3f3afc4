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
    return f"`{p['name']}`: {size}, {pictures}, {where}.\n\n{compare_table(found)}"

def steps(name):
    "Milliseconds of a step, three optimizers side by side"
    from optimizer_step import VARIANTS, table
    result = read(f'benchmarks/optimizer_{name}.json')
    optims = ('adam', 'sgd', 'rmsprop')
    tables = [{r['variant']: r['ms a step'] for r in table(result, o, 'resnet34')} for o in optims]
    cell = lambda t, label: f"{t[label]:.1f}" if label in t else ''
    rows = [[label, *(cell(t, label) for t in tables)] for label in VARIANTS.values()]
    e = result['environment']
    where = f"{e['device_name']}, torch {e['torch']}, {e['date'][:10]}"
    head = f'Milliseconds a step, parameters of a ResNet-34, {where}:'
    return f"{head}\n\n{pipe(rows, ['', 'Adam', 'SGD with momentum', 'RMSProp'])}"

def loop(name):
    "Microseconds of a batch in a training loop"
    from loop_overhead import facts, table
    result = read(f'benchmarks/{name}.json')
    times = tabulate(table(result), headers='keys', tablefmt='pipe', floatfmt='.1f')
    return f"{times}\n\n{pipe(facts(result), ['', ''])}"

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
         f"{calls['steps_checked']} calls, {calls['broken']} broken"]], ['', ''])

def block(name):
    "What stands in the README between the marks of table `name`"
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
