"""How the notebooks read, in numbers, and what they must keep: `make style` prints the table and fails on
what is broken.

The spine is the six numbered notebooks. Words are those of prose; lines are lines of code that are neither
blank nor a directive (`#| ...`). Exercises, with their checks and solutions, are not counted: their cells
are tagged `exercise`. Nor are the badge and the cell that fetch a notebook in Colab, tagged `setup`: they are
the same in every notebook, written by tools/opening.py, and nobody reads them."""
import ast, importlib, io, json, re, statistics, subprocess, sys, tokenize, yaml
from collections import Counter
from pathlib import Path
import opening
from radon.complexity import cc_visit

root = Path(__file__).resolve().parent.parent
bin = Path(sys.executable).parent
spine = ['00_optimizer', '01_momentum', '02_rmsprop', '03_adam', '04_callbacks', '05_baseline']
most = dict(words=11000, lines=1000, width=110, exported_median=8, exported_p95=30, complexity=12, entries=18,
            names_in_all=300, column=48, piece=20)

# Who may import whom: for the modules of each folder, the folders and the modules of the spine that they may
# import. CONTRIBUTING has this table, too.
_course = ['optimizer', 'momentum', 'rmsprop', 'adam']
may_import = dict(
    core        = ['core'],
    optim       = ['core', *_course, 'optim'],
    training    = ['core', *_course, 'callbacks', 'optim', 'training'],
    vision      = ['core', *_course, 'callbacks', 'optim', 'training', 'vision'],
    course      = ['core', *_course, 'callbacks', 'optim', 'training', 'course'],
    experiments = ['core', *_course, 'callbacks', 'optim', 'training', 'vision', 'baseline', 'experiments'],
    optimizer   = ['core'],
    momentum    = ['core', 'optimizer'],
    rmsprop     = ['core', 'optimizer', 'momentum'],
    adam        = ['core', 'optimizer', 'momentum', 'rmsprop'],
    callbacks   = ['core', *_course],
    baseline    = ['core', *_course, 'callbacks', 'training', 'vision'],
    all         = ['core', *_course, 'callbacks', 'baseline', 'optim', 'training', 'vision'])

# The field's terms, and the notebook that introduces each: in bold, once. Whoever searches for one finds it.
terms = {
    '00_optimizer': ['learning rate', 'stochastic gradient descent', 'mini-batch', 'forward pass',
                     'backward pass', 'logits', 'cross entropy', 'condition number', 'oscillates',
                     'converges', 'diverges', 'schedule', 'optimizer callbacks', 'parameter groups',
                     'overfit', 'Weight decay', 'L2 regularization'],
    '01_momentum': ['momentum', 'exponentially weighted moving average', 'dampening', 'underdamped',
                    'phase diagram', 'local minimum', 'Nesterov'],
    '02_rmsprop': ['root mean square', 'AdaGrad', 'preconditioning'],
    '03_adam': ['bias correction', 'decoupled weight decay', 'AdamW'],
    '04_callbacks': ['event', 'callback'],
}

# --- reading

def cells(path, kind):
    "The sources of the cells of one kind that are neither exercise nor set-up"
    nb = json.loads(path.read_text(encoding='utf-8'))
    found = [c for c in nb['cells'] if c['cell_type'] == kind]
    uncounted = {'exercise', 'setup'}
    return [''.join(c['source']) for c in found if not uncounted & set(c['metadata'].get('tags', ()))]

notebooks = opening.notebooks
def is_exported(s): return re.match(r'#\s*\|\s*export', s) is not None
def code_lines(s): return [l for l in s.splitlines() if l.strip() and not re.match(r'\s*#\s*\|', l)]
def words(path): return sum(len(s.split()) for s in cells(path, 'markdown'))
def lines(path): return sum(len(code_lines(s)) for s in cells(path, 'code'))

def exported_sizes():
    "Number of exported cells; median, 95th percentile and largest number of their lines"
    sizes = [len(code_lines(s)) for p in notebooks() for s in cells(p, 'code') if is_exported(s)]
    return len(sizes), statistics.median(sizes), statistics.quantiles(sizes, n=20)[-1], max(sizes)

def spine_median():
    "Median number of lines of the exported cells of the six notebooks"
    paths = [root/f'nbs/{n}.ipynb' for n in spine]
    return statistics.median(len(code_lines(s)) for p in paths for s in cells(p, 'code') if is_exported(s))

def modules():
    "Name of each module of the package -> its path"
    lib = root/'imagenette_train'
    found = [p for p in sorted(lib.rglob('*.py')) if not p.stem.startswith('_')]
    return {'.'.join(p.relative_to(lib).with_suffix('').parts): p for p in found}

def imports(path):
    "The modules of ours that a module imports anywhere, inside functions as well"
    found = set()
    for n in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(n, ast.Import): names = [a.name for a in n.names]
        elif isinstance(n, ast.ImportFrom):
            up = path.relative_to(root).parts[:-n.level] if n.level else ()
            names = ['.'.join([*up, *filter(None, [n.module])])]
        else: continue
        found |= {name.partition('.')[2] for name in names if name.startswith('imagenette_train.')}
    return found & set(modules())

# --- checks: each gives a list of what is wrong

def too_long():
    "The spine is read in an evening"
    n_words, n_lines = (sum(f(root/f'nbs/{n}.ipynb') for n in spine) for f in (words, lines))
    wrong = []
    if n_words > most['words']: wrong.append(f"{n_words} words; at most {most['words']}")
    if n_lines > most['lines']: wrong.append(f"{n_lines} lines of code; at most {most['lines']}")
    return wrong

def too_large():
    "Exported cells are small: in the six by the median, and everywhere but for a few whole classes"
    _, _, p95, _ = exported_sizes()
    wrong = []
    if (median := spine_median()) > most['exported_median']:
        wrong.append(f"the six: median {median}; at most {most['exported_median']}")
    if p95 >= most['exported_p95']: wrong.append(f"95 % up to {p95:.0f}; under {most['exported_p95']}")
    return wrong

def functions(blocks):
    "Functions and methods, also those inside others, each once"
    found = {}
    for b in blocks:
        if hasattr(b, 'methods'): found |= functions(b.methods)
        else: found |= {b.lineno: b, **functions(b.closures)}
    return found

def too_complex():
    "No function has more than 12 branches, unless a comment above it (`# complex: ...`) says why"
    wrong = []
    scripts = [p for folder in ('tools', 'benchmarks') for p in sorted((root/folder).glob('*.py'))]
    paths = [*modules().values(), *scripts]
    for path in paths:
        text = path.read_text(encoding='utf-8')
        for f in functions(cc_visit(text)).values():
            above = text.splitlines()[max(0, f.lineno-4):f.lineno]
            explained = any(l.strip().startswith('# complex:') for l in above)
            if f.complexity > most['complexity'] and not explained:
                wrong.append(f'{path.stem}.{f.name}: {f.complexity}')
    return wrong

def too_wide():
    "Lines of code have at most 110 characters"
    found = [(p, l) for p in notebooks() for s in cells(p, 'code') for l in code_lines(s)]
    return [f'{p.stem}: {l.strip()[:70]}...' for p,l in found if len(l) > most['width']]

def circles():
    "Modules import downwards only"
    graph, done, wrong = {n: imports(p) for n,p in modules().items()}, set(), []
    def visit(n, path):
        if n in path: wrong.append(' -> '.join([*path[path.index(n):], n]))
        elif n not in done:
            for m in sorted(graph.get(n, ())): visit(m, [*path, n])
            done.add(n)
    for n in graph: visit(n, [])
    return wrong

# plumbing, the table of old names, and a harness for tests of one's own callbacks
not_in_all = ['core.fused', 'core.guards', 'core.io', 'core.messages', 'core.plots', 'core.renamed',
              'core.snapshot', 'core.tasks', 'core.symbolic_trace', 'training.callback_checks']

def folder_of(module):
    "The folder of a module, or its own name if it stands at the top"
    return module.partition('.')[0]

def arrows_up():
    "No folder imports from one above it (`may_import`), and nobody imports the course"
    return [f'{n} imports {m}' for n,p in modules().items() for m in sorted(imports(p))
            if folder_of(m) not in may_import[folder_of(n)]]

def star_imports(tree, path):
    "The modules of ours from which a module imports everything, by the name that it writes"
    for n in ast.walk(tree):
        if isinstance(n, ast.ImportFrom) and n.level and n.names[0].name == '*':
            up = path.relative_to(root).parts[:-n.level]
            yield '.'.join([*up, n.module])

def patched(node):
    "The classes onto which a statement puts a method: by `@patch`, or by assigning to an attribute"
    found = []
    if isinstance(node, ast.FunctionDef) and node.decorator_list:
        found = [a.annotation for a in node.args.args[:1]]
    if isinstance(node, ast.Assign): found = [t.value for t in node.targets if isinstance(t, ast.Attribute)]
    return {o.id for o in found if isinstance(o, ast.Name) and o.id[0].isupper()}

def patches(path):
    "The classes of others onto which a module puts methods"
    body = ast.parse(path.read_text(encoding='utf-8')).body
    return set().union(*map(patched, body)) - {c.name for c in body if isinstance(c, ast.ClassDef)}

def idle_stars():
    "A star import gives something: a name that the code uses, or methods patched onto a class"
    wrong, known = [], modules()
    for name,path in known.items():
        if name == 'all': continue
        tree = ast.parse(path.read_text(encoding='utf-8'))
        used = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
        for m in star_imports(tree, path):
            gives = set(importlib.import_module(m).__all__)
            if not gives & used and not patches(known[m.partition('.')[2]]):
                wrong.append(f'{name}: nothing of {m} is used')
    return wrong

def broken_strings():
    "No string is broken in mid-sentence, so that a piece of it stands alone on its line"
    wrong = []
    for p in notebooks():
        for s in cells(p, 'code'):
            try: toks = list(tokenize.generate_tokens(io.StringIO(s).readline))
            except (tokenize.TokenError, IndentationError): continue # a magic
            strings = [(a, b) for a,b in zip(toks, toks[1:] + toks[:1]) if a.type == tokenize.STRING]
            for i,(t,_) in enumerate(strings[1:-1], 1):
                before, after = strings[i-1], strings[i+1]
                alone = t.line.strip() == t.string
                joined = before[1].type == tokenize.NL and after[0].start[0] == t.start[0]+1
                if alone and joined and len(t.string) < most['piece'] and '\\n' not in t.string:
                    wrong.append(f'{opening.name_of(p)}: {t.string}')
    return wrong

def far_right():
    "No line continues far to the right, where two named values would read better"
    found = []
    for p in notebooks():
        for s in filter(is_exported, cells(p, 'code')):
            rows = code_lines(s)
            found += [f'{opening.name_of(p)}: {l.strip()[:60]}' for l in rows
                      if len(l) - len(l.lstrip()) >= most['column'] and not l.strip().startswith('#')]
    return found

def all_seen():
    "All tools see every notebook that git knows, and no module is without one"
    cmd = ['git', 'ls-files', '--cached', '--others', '--exclude-standard', 'nbs/*.ipynb']
    p = subprocess.run(cmd, cwd=root, capture_output=True, text=True)
    known = {o for o in p.stdout.split() if (root/o).exists()}
    seen = {o.relative_to(root).as_posix() for o in notebooks()}
    wrong = [f'not the same: {o}' for o in sorted(known ^ seen)] if p.returncode == 0 else []
    made = {m[1] for o in notebooks() for s in cells(o, 'code')
            if (m := re.search(r'^#\s*\|\s*default_exp ([\w.]+)', s, re.M))}
    unmatched = sorted(made ^ set(modules()))
    return wrong + [f'module without a notebook, or the other way round: {o}' for o in unmatched]

def top_entries(): return sorted(p.name for p in (root/'nbs').iterdir() if not p.name.startswith('.'))

def crowded():
    "The course is seen at one glance: few entries at the top of nbs/"
    found = top_entries()
    return [] if len(found) <= most['entries'] else [f"{len(found)}: {', '.join(found)}"]

def too_many_names():
    "`all` is the library, not everything: few names"
    n = len(importlib.import_module('imagenette_train.all').__all__)
    return [] if n <= most['names_in_all'] else [f"{n} names; at most {most['names_in_all']}"]

def twice():
    "A name has one meaning: no two modules define the same public name"
    owner, wrong = {}, []
    for n in modules():
        if n == 'all': continue
        for name in importlib.import_module(f'imagenette_train.{n}').__all__:
            if name in owner: wrong.append(f'{name}: in {owner[name]} and in {n}')
            owner.setdefault(name, n)
    return wrong

def disagree():
    "Sidebar, index, README and `all` know every notebook and every module"
    names = {opening.name_of(p) for p in notebooks()} - {'index'}
    read = lambda f: (root/f).read_text(encoding='utf-8')
    sidebar = set(re.findall(r'([\w/]+)\.ipynb', read('nbs/sidebar.yml'))) - {'index'}
    index = set(re.findall(r'\(([\w/]+)\.ipynb', ' '.join(cells(root/'nbs/index.ipynb', 'markdown'))))
    wrong = [f'sidebar.yml lacks or invents {n}' for n in sorted(names ^ sidebar)]
    wrong += [f'index lacks or invents {n}' for n in sorted(names ^ index)]
    wrong += [f'README lacks {n}' for n in spine if f'nbs/{n}.ipynb' not in read('README.md')]
    linked = set(re.findall(r'nbs/([\w/]+)\.ipynb', read('README.md'))) - {'index'}
    wrong += [f'README links to {n}, which is not there' for n in sorted(linked - names)]
    starred, apart = imports(modules()['all']) - {*not_in_all}, {'all', *not_in_all}
    library = {n for n in modules() if folder_of(n) not in ('course', 'experiments')} - apart
    return wrong + [f'all lacks or invents {n}' for n in sorted(library ^ starred)]

def gpu_cells():
    "The cells flagged `#| cuda`, as pairs of notebook and source"
    for p in notebooks():
        for c in json.loads(p.read_text(encoding='utf-8'))['cells']:
            source = ''.join(c['source'])
            if c['cell_type'] == 'code' and re.search(r'^#\s*\|\s*cuda\s*$', source, re.M): yield p, source

def gpu_guarded():
    "Run All is safe without a GPU: a cell for one is an `if torch.cuda.is_available()` with an `else`"
    wrong = []
    for p,source in gpu_cells():
        first, *others = ast.parse(source).body
        guarded = isinstance(first, ast.If) and ast.unparse(first.test) == 'torch.cuda.is_available()'
        if others or not guarded or not first.orelse: wrong.append(f'{opening.name_of(p)}: {source[:70]!r}')
    return wrong

def exercise_cells(path):
    "The exercises of a notebook: name, grade, question, and their cells after it"
    found = []
    for c in json.loads(path.read_text(encoding='utf-8'))['cells']:
        if 'exercise' not in c['metadata'].get('tags', ()): continue
        source = ''.join(c['source'])
        question = re.match(r'<a id="exercise-([\w-]+)"></a>\n\n### Exercise \((\w+)\): ', source)
        if question: found.append((question[1], question[2], source, []))
        elif found: found[-1][3].append((c, source))
        elif 'check_answer(' in source: found.append(('without a question', '', '', []))
    return found

def bound(source):
    "Names that the code binds at its top level"
    names = set()
    for node in ast.parse(source).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)): names.add(node.name)
        targets = getattr(node, 'targets', None) or [getattr(node, 'target', None)]
        names |= {n.id for t in targets if t for n in ast.walk(t) if isinstance(n, ast.Name)}
    return names

def used(source): return {n.id for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Name)}

def keys():
    "Name of each exercise that has a key -> the source of the key"
    found = {}
    for p in notebooks():
        for c in json.loads(p.read_text(encoding='utf-8'))['cells']:
            source = ''.join(c['source'])
            m = re.search(r"@answer_key\ndef _(\w+)\(.*?define_exercise\('([\w-]+)'", source, re.S)
            if m: found[m[2] if m[1] == m[2].replace('-', '_') else f'{m[1]} calls itself {m[2]}'] = source
    return found

def exercise_faults(name, grade, question, cells, known):
    "What an exercise lacks; `known`: the keys"
    from imagenette_train.course.exercises import exercise_grades
    if len(cells) < 3: return ['lacks a stub, a check or a solution']
    (stub, stub_text), (check, check_text), (solution, text) = cells[-3:]
    asked = re.fullmatch(rf"check_answer\('{name}', (.+)\)", check_text.strip())
    blocks = re.findall(r'```python\n(.*?)```', text, re.S)
    wrap = re.fullmatch(r'<details><summary>Solution</summary>\n\n.*\n\n</details>', text, re.S)
    answers = used(asked[1]) if asked else set()
    rules = {f"its grade is one of {', '.join(exercise_grades)}": grade in exercise_grades,
             "it has a key, @answer_key, in course/keys_...": name in known,
             "its check is one line": asked is not None,
             "the output of its check is not stored": not check.get('outputs'),
             "its stub is code": stub['cell_type'] == 'code' and 'solution' not in stub['metadata']['tags'],
             "its solution is one block of Python in Markdown that folds": wrap and len(blocks) == 1,
             "its solution has the tag": 'solution' in solution['metadata']['tags'],
             "its stub and its solution make the answer":
                 len(blocks) == 1 and answers <= bound(blocks[0]) and answers <= bound(stub_text)}
    return [f'not so: {rule}' for rule,kept in rules.items() if not kept]

def untested_solutions(paths):
    "For notebooks with exercises, but without the cell that tests their solutions, this cell"
    for p in paths:
        call = f"check_solutions('{opening.name_of(p)}', globals())"
        if exercise_cells(p) and not any(s.strip().endswith(call) for s in cells(p, 'code')): yield call

def exercises_whole():
    "Each exercise has a question with a grade, a stub, a key, a check and a folded solution"
    known, asking = keys(), [p for p in notebooks() if 'keys_' not in p.stem]
    found = [e for p in asking for e in exercise_cells(p)]
    wrong = [f'{name}: {w}' for name,*rest in found for w in exercise_faults(name, *rest, known)]
    wrong += [f'{call} is not called at its end' for call in untested_solutions(asking)]
    names = Counter(e[0] for e in found)
    wrong += [f'{name}: a key without an exercise' for name in sorted(known.keys() - names)]
    return wrong + [f'{n}: in two places' for n,k in names.items() if k > 1]

def terms_introduced():
    "Each term of the field stands in bold once, in the notebook that introduces it"
    texts = {n: '\n'.join(cells(root/f'nbs/{n}.ipynb', 'markdown')) for n in spine}
    bold = lambda term: [n for n,text in texts.items() for _ in range(text.count(f'**{term}**'))]
    return [f"{term}: once in bold in {n}, not in {', '.join(bold(term)) or 'none'}"
            for n,known in terms.items() for term in known if bold(term) != [n]]

def opened():
    "Every notebook opens alike, and imports in cells of their own, which its page needs"
    return [w for p in notebooks() for w in opening.wrong(p)]

def directive_faults(text):
    "What is wrong with the leading `#| ...` lines of a code cell"
    try: told, rest = opening.directives(text)
    except yaml.YAMLError as e: return [f'no YAML: put quotes around the value ({e.problem})']
    quartos = [k for k,v in told.items() if v is not None and k != 'eval']
    wrong = [f'exported, so a {k!r} would stand in the package' for k in quartos if is_exported(text)]
    later = re.search(r'^#\s*\|.*', rest, re.M)
    return wrong + ([f'not at the top of its cell: {later[0]}'] if later else [])

def directives_read():
    "Quarto can read each `#| key: value`, and none stands in the package"
    found = [(p, c) for p in notebooks() for c in json.loads(p.read_text(encoding='utf-8'))['cells']]
    wrong = [f'{opening.name_of(p)}: {w}: {opening.source(c)[:60]!r}' for p,c in found
             if c['cell_type'] == 'code' for w in directive_faults(opening.source(c))]
    in_package = [n for n,p in modules().items() if re.search(r'^#\|', p.read_text(encoding='utf-8'), re.M)]
    return wrong + [f'{n}: a directive in the generated module' for n in in_package]

def ruff():
    "Ruff: errors and unused names"
    cmd = [bin/'ruff', 'check', '--quiet', '--output-format', 'concise', root]
    p = subprocess.run(cmd, cwd=root, capture_output=True, text=True)
    return [l.replace(f'{root}/', '') for l in p.stdout.splitlines()]

checks = [all_seen, crowded, too_long, too_large, too_wide, far_right, broken_strings, too_complex, circles,
          arrows_up, idle_stars, twice, too_many_names, disagree, opened, directives_read, exercises_whole,
          terms_introduced, gpu_guarded, ruff]

def table():
    "Print how long the spine and how large its cells are"
    print(f"{'notebook':>18} {'words':>6} {'lines':>6}")
    rows = [(n, words(root/f'nbs/{n}.ipynb'), lines(root/f'nbs/{n}.ipynb')) for n in spine]
    together = ('together', sum(r[1] for r in rows), sum(r[2] for r in rows))
    for r in [*rows, together]: print(f'{r[0]:>18} {r[1]:6} {r[2]:6}')
    n, median, p95, largest = exported_sizes()
    print(f"\n{n} exported cells; lines: median {median}, 95 % up to {p95:.0f}, largest {largest}")
    print(f"exported cells of the six: median {spine_median()}")
    known = modules()
    arrows = [(n, m) for n,p in known.items() if n != 'all' for m in imports(p)]
    names = importlib.import_module('imagenette_train.all').__all__
    print(f"{len(notebooks())} notebooks, {len(top_entries())} entries at the top; {len(known)} modules, "
          f"{len(arrows)} imports; {len(names)} names in all\n", flush=True)

def report(check, wrong=None):
    "Print what `check` finds, or has found (`wrong`); was anything wrong?"
    if wrong is None: wrong = check()
    print(f"{'FAILED' if wrong else 'ok':>7}  {check.__doc__}", *wrong, sep='\n           ', flush=True)
    return bool(wrong)

def main():
    table()
    sys.exit(any([report(check) for check in checks]))

if __name__ == '__main__': main()
