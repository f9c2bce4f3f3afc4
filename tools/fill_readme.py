"Fills the README's tables from the raw results, so that none of its figures is typed."
import json, re, sys
from pathlib import Path
from tabulate import tabulate
from imagenette_train.baseline import compare_table, load_results

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root/'benchmarks'))

def trained(profile):
    "What stands in the README for a profile: a line about the conditions, and the table"
    found = load_results(root/'results'/profile)
    s, env = found[0]['settings'], found[0]['environment']
    p = s['profile']
    return (f"`{p['name']}`: {p['arch']}, {p['size']} px, batches of {p['bs']}, {p['n_epoch']} epochs, {s['data']['n_train']} pictures to train on and "
            f"{s['data']['n_valid']} to validate ({s['data']['copy']}), {found[0]['precision']}, {env['device_name']}, torch {env['torch']}, {env['date'][:10]}.\n\n{compare_table(found)}")

def steps(name):
    "Milliseconds of a step, three optimizers side by side"
    from optimizer_step import VARIANTS, table
    result = json.loads((root/'results/benchmarks'/f'optimizer_{name}.json').read_text())
    tables = {o: {r['variant']: r['ms a step'] for r in table(result, o, 'resnet34')} for o in ('adam', 'sgd', 'rmsprop')}
    rows = [[label, *(f"{t[label]:.1f}" if label in t else '' for t in tables.values())] for label in VARIANTS.values()]
    e = result['environment']
    return f"Milliseconds a step, parameters of a ResNet-34, {e['device_name']}, torch {e['torch']}, {e['date'][:10]}:\n\n" + tabulate(rows, ['', 'Adam', 'SGD with momentum', 'RMSProp'], tablefmt='pipe', disable_numparse=True)

def loop(name):
    "Microseconds of a batch in a training loop"
    from loop_overhead import facts, table
    result = json.loads((root/'results/benchmarks'/f'{name}.json').read_text())
    return tabulate(table(result), headers='keys', tablefmt='pipe', floatfmt='.1f') + '\n\n' + tabulate(facts(result), ['', ''], tablefmt='pipe', disable_numparse=True)

def soak(name):
    "What was tried to break training"
    r = json.loads((root/'results/soak.json').read_text())
    k = r['kills']
    total = lambda f: sum(o[f] for o in k)
    rows = [['kills (SIGKILL) at random moments, with 0 and with 2 loader workers', total('kills')], ['checkpoints that loaded afterwards, trainings that went on', f"{total('checkpoints_loaded')}, {total('resumed')}"],
            ['temporary files left', total('temporary_files_left')], ['largest difference of any weight from the undisturbed training', f"{max(o['largest_difference'] for o in k):g}"],
            ['NaN or infinite losses stopped with finite weights', f"{r['nans']['stopped_in_time_with_finite_weights']} of {r['nans']['trainings']}"],
            ['two Learners in two threads, largest difference from one after the other', f"{r['threads']['largest_difference']:g}"],
            ['random calls of a Learner, checked after each', f"{r['sequences']['steps_checked']} calls, {r['sequences']['broken']} broken"]]
    return tabulate(rows, ['', ''], tablefmt='pipe', disable_numparse=True)

def block(name): return (steps if name.startswith('step') else loop if name.startswith('loop') else soak if name == 'soak' else trained)(name)

def main():
    path = root/'README.md'
    text = path.read_text(encoding='utf-8')
    for name in re.findall(r'<!-- table (\S+) -->', text):
        text = re.sub(rf'(<!-- table {name} -->\n).*?(<!-- end -->)', lambda m: f'{m[1]}{block(name)}\n{m[2]}', text, flags=re.S)
    path.write_text(text, encoding='utf-8')

if __name__ == '__main__': main()
