"""Fills what README.md, results/README.md and BENCHMARKS.md say from the raw results, so that none of their
figures is typed, and draws what is stale in results/.

What stands between `<!-- table NAME -->` and `<!-- end -->` is made here; where there is no raw result for a
name yet, it says so."""
import filecmp, json, re, shutil, sys, tempfile
from pathlib import Path
from tabulate import tabulate
from imagenette_train.core.messages import pluralize
from imagenette_train.baseline import chapter_runs, run_configs
from imagenette_train.experiments.runner import (first_to_last, keep_same_settings, list_devices,
                                                 list_precisions, list_values, load_results,
                                                 newest_command)
from imagenette_train.experiments.ablation import write_ablation
from imagenette_train.training.progress import format_plain_row
from imagenette_train.experiments.leaderboard import (binomial_std, leaderboard, leaderboard_table, variants,
                                                      write_leaderboard)
from imagenette_train.experiments.results import format_mean_std
from imagenette_train.experiments.reproduce import compare_table, stale_files, write_report
from imagenette_train.experiments.sweep import contenders, sweep_report, write_sweep

root = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(root/'benchmarks'), str(root/'tools')]
from opening import cfg, notebooks, source # noqa: E402

files = [root/name for name in ('README.md', 'results/README.md', 'BENCHMARKS.md')]
site, blob = f"{cfg['doc_host']}{cfg['doc_baseurl']}", f"{cfg['git_url']}/blob/{cfg['branch']}"
most_words = 900 # of README
writers = dict(reproduce=write_report, ablation=write_ablation, leaderboard=write_leaderboard,
               sweep=write_sweep)

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
    s = found[0]['settings']
    p, data = s['profile'], s['data']
    size = f"{p['arch']}, {p['size']} px, batches of {p['bs']}, {p['n_epoch']} epochs"
    pictures = f"{data['n_train']} images to train on and {data['n_valid']} to validate ({data['copy']})"
    precision = list_precisions(found)
    said = f"`{p['name']}`: {size}, {pictures}, {precision}, {where(found)}.{took(found)}"
    return f'{said}\n\n{compare_table(found)}'

def where(found):
    "Device, version and day of all results: what they have in common, or each with its number of runs"
    envs = [o['environment'] for o in found]
    when = first_to_last(o['date'][:10] for o in envs)
    return f"{list_devices(found)}, torch {list_values(o['torch'] for o in envs)}, {when}"

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
    "A batch of a training loop, ours and others', beside one by hand; after an @, the folder of a later day"
    from loop_overhead import describe_run, facts, table
    file, _, day = name.partition('@')
    result = read(f'benchmarks/{day}/{file}.json')
    times = tabulate(table(result), headers='keys', tablefmt='pipe', disable_numparse=True)
    more = pipe(found, ['also measured', 'result']) if (found := facts(result)) else ''
    return f"{describe_run(result)}:\n\n{times}\n\n{more}".rstrip()

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
         f"{r['rules']['crossings']:,}, {r['rules']['differences']}"],
        *[row(r[part]) for part,row in soaked_rows.items() if part in r]], ['what was tried', 'result'])

soaked_rows = dict(
    folders=lambda o: ['writers of exports and of folders of images, killed: the old or the new one is whole',
                       held(o)],
    interrupts=lambda o: [f"Ctrl-C at random moments ({', '.join(o['held'])}): it comes out as such, files "
                          "are whole, and the next fit is as ever", held(o)],
    fused=lambda o: ['trainings drawn at random, fused and not, equal to the last bit',
                     f"{o['trainings']:,}"])

def held(counted):
    "How many of how many, over all kinds"
    n = counted['of_each_kind']*len(counted['held'])
    return f"{sum(counted['held'].values()):,} of {n:,}"

def recorded(folder):
    "What the record's recipe reached"
    found = results(folder, variants, 'variant')
    return f"{found[0]['settings']['data']['copy']}, {where(found)}:\n\n{leaderboard_table(found)}"

def finding(name):
    "What the detective story of notebook 05 is about, in figures, and without its end"
    at = lambda run: [o['epochs'][-1]['accuracy'] for o in results('quick-cpu', run_configs, 'run')
                      if o['settings']['run'] == run]
    book, mended, adam = (format_mean_std([100*a for a in at(run)], 1)
                          for run in ('rmsprop', 'rmsprop_damped', 'adam'))
    return ("**One of the book's five runs is slow for a reason that neither its call nor its table shows.** "
            f"Put right, the same call reaches {mended} % accuracy instead of {book} %, close to Adam's "
            f"{adam} % (three epochs at a smaller size than in the table below, {len(at('rmsprop'))} seeds). "
            f"What went wrong? [`05_baseline`]({site}/baseline.html) is the detective story.")

def best_config(folder):
    "The config in `folder` with the highest mean, as a line: by the leaderboard's rules, and beside its best"
    found = results(folder, variants, 'variant')
    after = {}
    for o in found: after.setdefault(o['settings']['variant'], []).append(100*o['epochs'][-1]['accuracy'])
    accs = max(after.values(), key=lambda vs: sum(vs)/len(vs))
    size, n_epoch = (found[0]['settings']['race'][k] for k in ('size', 'n_epoch'))
    of = f', the best of {pluralize(len(after), "config")}' if len(after) > 1 else ''
    # an accuracy of one seed, counted on so many images, may be higher or lower by that much: no lead
    n, share = found[0]['settings']['data']['n_valid'], accs[0]/100
    sure = f" ± {100*binomial_std(share, n):.2f} of counting {n:,} images" if len(accs) == 1 else ''
    return (f"{n_epoch} epochs: **{format_mean_std(accs, 2)} %** ({pluralize(len(accs), 'seed')}{of}{sure}); "
            f"the board's best is {leaderboard[size, n_epoch]} %.")

def best(name):
    "The best that the leaderboard's rules have given, with what must be said beside it"
    folders = sorted((root/'results').glob('record*-cpu'))
    lines = ' '.join(best_config(f.name) for f in folders)
    return (f"Trained as for Imagenette's leaderboard, at 128 pixels, {lines} But our images are a squashed "
            f"copy, so these are no entries. [All results]({blob}/results/README.md).")

def facts(name):
    "How much there is"
    cells = [source(c) for p in notebooks() for c in json.loads(p.read_text(encoding='utf-8'))['cells']]
    exercises = sum(t.startswith('<a id="exercise-') for t in cells)
    return (f"{len(notebooks())} notebooks, of which six are the course; {exercises} exercises that check "
            f"themselves; the chapter's {len(chapter_runs)} runs from one command.")

def index_cells():
    "The code cells of nbs/index.ipynb"
    cells = json.loads((root/'nbs/index.ipynb').read_text(encoding='utf-8'))['cells']
    return [c for c in cells if c['cell_type'] == 'code' and 'setup' not in c['metadata'].get('tags', ())]

def ten_lines(name):
    "The first training of nbs/index.ipynb and what it printed"
    code = index_cells()
    imports = next(c for c in code if source(c).startswith('from imagenette_train.all import *'))
    training = next(c for c in code if 'fit_one_cycle' in source(c))
    table = ''.join(training['outputs'][0]['data']['text/html'])
    cut = lambda tag, text: [c.strip() for c in re.findall(f'<{tag}>(.*?)</{tag}>', text, re.S)]
    rows = [cut('th', table), *(row for tr in cut('tr', table) if (row := cut('td', tr)))]
    text = f'{source(imports)}\n\n{source(training).rstrip(";")}' # a notebook's way to show no value
    said = [format_plain_row(row) for row in (*rows[:2], rows[-1])] # the first and the last epoch
    return f"```python\n{text}\n```\n\n```text\n" + '\n'.join(said) + '\n```'

def exercise(name):
    "The exercise of nbs/index.ipynb with a wrong answer, and the hint that it gets"
    cell = next(c for c in index_cells() if 'check_answer(' in source(c))
    said = ''.join(''.join(o.get('text', '')) for o in cell['outputs']).strip()
    return f"```python\n{source(cell)}\n```\n\n```text\n{said}\n```"

kinds = {'step': steps, 'loop': loop, 'soak': soak, 'record': recorded, 'finding': finding,
         'ten-lines': ten_lines, 'best': best, 'facts': facts, 'exercise': exercise}

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

def readme_faults():
    "README is short, its links lead on from PyPI as well, and install and run come in its first screen"
    text = files[0].read_text(encoding='utf-8')
    lines, n = text.splitlines(), len(re.findall(r'\S*\w\S*', re.sub(r'<!--.*?-->', '', text)))
    wrong = [f'{n} words; at most {most_words}'] if n > most_words else []
    wrong += [f'a link that is relative: {to}' for to in re.findall(r'\]\(([^)]*)\)', text)
              if not re.match(r'https://|#', to)]
    top = '\n'.join(lines[:30])
    wanted = ('pip install', 'make lab')
    return wrong + [f'{what!r} is not near the top' for what in wanted if what not in top]

def stale_sweep(folder):
    "Is the table of this sweep not that of its raw results?"
    found = keep_same_settings(results(folder.name, contenders, 'contender'), 'contender')
    return (folder/'tables.md').read_text(encoding='utf-8') != f'{sweep_report(found)}\n'

def stale_table(folder, write):
    "Would `write` put another text into the table of `folder`? (It writes into a copy.)"
    with tempfile.TemporaryDirectory() as d:
        shutil.copytree(folder, copy := Path(d)/folder.name)
        write(copy)
        return not filecmp.cmp(folder/'tables.md', copy/'tables.md', shallow=False)

def stale():
    "Folder -> its tables and figures that are not those of its raw results"
    found = {}
    for f in sorted(p.parent for p in (root/'results').glob('*/tables.md')):
        command = newest_command(f)
        if command == 'reproduce': found[f] = stale_files(f)
        elif command == 'sweep': found[f] = ['tables.md']*stale_sweep(f)
        else: found[f] = ['tables.md']*stale_table(f, writers[command])
    return {f: names for f,names in found.items() if names}

def faults():
    "What is wrong with README, and the files whose blocks `make readme` would make anew"
    texts = {path.name: path.read_text(encoding='utf-8') for path in files}
    wrong = [name for name,text in texts.items() if text != filled(text)]
    return readme_faults() + [f'{name}: not the figures of results/ (make readme)' for name in wrong]

def main():
    if '--check' in sys.argv: sys.exit('\n'.join(faults()) or 0)
    for folder in stale(): writers[newest_command(folder)](folder)
    for path in files: path.write_text(filled(path.read_text(encoding='utf-8')), encoding='utf-8')

if __name__ == '__main__': main()
