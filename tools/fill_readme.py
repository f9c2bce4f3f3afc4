"""Fills what README.md and BENCHMARKS.md say from the raw results, so that none of their figures is typed.

What stands between `<!-- table NAME -->` and `<!-- end -->` is made here; where there is no raw result for a
name yet, it says so."""
import json, re, sys
from pathlib import Path
from tabulate import tabulate
from imagenette_train.baseline import run_configs
from imagenette_train.experiments.runner import load_results
from imagenette_train.training.progress import format_plain_row
from imagenette_train.experiments.leaderboard import leaderboard_table, variants
from imagenette_train.experiments.results import format_mean_std
from imagenette_train.experiments.reproduce import compare_table

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root/'benchmarks'))

def read(path): return json.loads((root/'results'/path).read_text(encoding='utf-8'))

def pipe(rows, headers): return tabulate(rows, headers, tablefmt='pipe', disable_numparse=True)

def results(folder, known, key):
    "The raw results of a folder; FileNotFoundError if there are none"
    found = load_results(root/'results'/folder, known, key)
    if not found: raise FileNotFoundError(folder)
    return found

def trained(profile):
    "What stands in the README for a profile: a line about the conditions, and the table"
    found = results(profile, run_configs, 'run')
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
    from loop_overhead import describe_run, facts, table
    result = read(f'benchmarks/{name}.json')
    times = tabulate(table(result), headers='keys', tablefmt='pipe', disable_numparse=True)
    return f"{describe_run(result)}:\n\n{times}\n\n{pipe(facts(result), ['also measured', 'result'])}"

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
         f"{r['rules']['crossings']:,}, {r['rules']['differences']}"]], ['what was tried', 'result'])

def recorded(folder):
    "What the record's recipe reached"
    found = results(folder, variants, 'variant')
    env, data = found[0]['environment'], found[0]['settings']['data']
    days = sorted({o['environment']['date'][:10] for o in found})
    where = f"{data['copy']}, {env['device_name']}, torch {env['torch']}, {' and '.join(days)}"
    return f"{where}:\n\n{leaderboard_table(found)}"

def finding(name):
    "What the detective story of notebook 05 ends with, in figures"
    at = lambda run: [o['epochs'][-1]['accuracy'] for o in results('quick-cpu', run_configs, 'run')
                      if o['settings']['run'] == run]
    book, mended, adam = (format_mean_std([100*a for a in at(run)], 1).split(' ')[0]
                          for run in ('rmsprop', 'rmsprop_damped', 'adam'))
    beta = float(re.search(r'sqr_mom=([\d.]+)', run_configs['rmsprop'].opt)[1])
    factor = f'{(1-beta)**-0.5:.0f}'
    return (f"**The book's RMSProp ran at 1/{factor} of a good learning rate.** Its code adds squared "
            "gradients up where its formula averages them, so each step is divided by a number "
            f"{factor} times too large. Averaged, the same call reaches {mended} % accuracy instead of "
            f"{book} %, beside Adam's {adam} % (`quick` below, three epochs, mean of "
            f"{len(at('rmsprop'))} seeds). "
            "[`05_baseline`](nbs/05_baseline.ipynb) tells how that was found.")

def ten_lines(name):
    "The first training of nbs/index.ipynb and what it printed"
    cells = json.loads((root/'nbs/index.ipynb').read_text(encoding='utf-8'))['cells']
    code = [c for c in cells if c['cell_type'] == 'code' and 'setup' not in c['metadata'].get('tags', ())]
    imports, training = code[:2]
    table = ''.join(training['outputs'][0]['data']['text/html'])
    cut = lambda tag, text: [c.strip() for c in re.findall(f'<{tag}>(.*?)</{tag}>', text, re.S)]
    rows = [cut('th', table), *(row for tr in cut('tr', table) if (row := cut('td', tr)))]
    source = '\n\n'.join(''.join(c['source']) for c in (imports, training))
    return f"```python\n{source}\n```\n\n```text\n" + '\n'.join(map(format_plain_row, rows)) + '\n```'

kinds = {'step': steps, 'loop': loop, 'soak': soak, 'record': recorded, 'finding': finding,
         'ten-lines': ten_lines}

def block(name):
    "What stands between the marks of `name`; a name is a kind and, after a dash, a device"
    make = next((f for kind,f in kinds.items() if name.startswith(kind)), trained)
    try: return make(name)
    except FileNotFoundError:
        on_gpu = name.endswith('-cuda')
        how = '`make gpu` measures it, on a machine with a GPU' if on_gpu else 'nobody has trained it'
        return f'*Not measured yet: {how}.*'

def filled(text):
    "`text` with all its blocks made anew"
    for name in re.findall(r'<!-- table (\S+) -->', text):
        marked = rf'(<!-- table {name} -->\n).*?(<!-- end -->)'
        text = re.sub(marked, lambda m: f'{m[1]}{block(name)}\n{m[2]}', text, flags=re.S)
    return text

def main():
    for path in (root/'README.md', root/'BENCHMARKS.md'):
        path.write_text(filled(path.read_text(encoding='utf-8')), encoding='utf-8')

if __name__ == '__main__': main()
