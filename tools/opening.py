"""How every notebook opens and ends: a title, a badge that opens it in Colab, links to the notebooks before
and after it, and a cell that fetches the project in Colab and does nothing anywhere else.

    python tools/opening.py        # adds what is missing, takes the address from settings.ini

The title cell holds the title and the sentence after `>` alone: nbdev reads a page's front matter from it,
and drops whatever else it holds."""
import ast, copy, hashlib, json, os, re, yaml
from configparser import ConfigParser
from pathlib import Path

root = Path(__file__).resolve().parent.parent
config = ConfigParser(delimiters=['='])
config.read(root/'settings.ini', encoding='utf-8')
cfg = config['DEFAULT']
github = cfg['git_url'].removeprefix('https://github.com/')
nbs = root/cfg['nbs_path']

def notebooks():
    "All notebooks, the course first"
    hidden = lambda p: any(o.startswith(('.', '_')) for o in p.relative_to(nbs).parts)
    found = [p for p in nbs.rglob('*.ipynb') if not hidden(p)]
    return sorted(found, key=lambda p: (len(p.relative_to(nbs).parts), p))

def name_of(path):
    "How a notebook is called: its path seen from nbs/, without the suffix"
    return path.relative_to(nbs).with_suffix('').as_posix()

def badge(name):
    "Markdown that opens notebook `name` in Colab"
    page = f"https://colab.research.google.com/github/{github}/blob/{cfg['branch']}/nbs/{name}.ipynb"
    return f'[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({page})'

def in_order():
    "Names of the notebooks in the order of the sidebar, the index first"
    sidebar = yaml.safe_load((nbs/'sidebar.yml').read_text(encoding='utf-8'))['website']['sidebar']
    flat = [n for o in sidebar['contents'] for n in (o['contents'] if isinstance(o, dict) else [o])]
    return [n.removesuffix('.ipynb') for n in flat]

def neighbours(name):
    "Markdown that leads from notebook `name` to the one before it, to the index, and to the next"
    order = in_order()
    if name not in order[1:]: return ''
    i = order.index(name)
    here = os.path.dirname(name) or '.'
    link = lambda text, to: f'[{text}]({os.path.relpath(to, here)}.ipynb)'
    before = [link(f'← {order[i-1]}', order[i-1])] if i > 1 else []
    after = [link(f'{o} →', o) for o in order[i+1:i+2]]
    return ' · '.join([*before, link('index', 'index'), *after])

def reading_minutes(cells):
    "Minutes that a notebook takes to read: 200 words or 12 lines of code a minute, two figures a minute"
    skipped = {'exercise', 'setup'}
    read = [c for c in cells if not skipped & set(tags(c)) and not source(c).startswith('#| hide')]
    n_words = sum(len(source(c).split()) for c in read if c['cell_type'] == 'markdown')
    code = [source(c) for c in read if c['cell_type'] == 'code']
    n_lines = sum(bool(l.strip()) and not l.startswith('#|') for text in code for l in text.splitlines())
    return n_words/200 + n_lines/12 + sum('fig-alt' in text for text in code)/2

def head(name, cells):
    "The badge and the neighbours; below them, in the numbered notebooks, the minutes that reading takes"
    links = ' · '.join(filter(None, [badge(name), neighbours(name)]))
    if not re.match(r'\d', name): return links
    minutes = max(10, 10*round(reading_minutes(cells)/10))
    return f'{links}\n\nReading time: about {minutes} minutes, without the exercises.'

def fetch(name):
    "The cell that fetches the project in Colab"
    folder = Path(name).parent.as_posix()
    return f"""#| hide
#| eval: false
#@title Run me first on Colab: it fetches and installs the project (anywhere else it does nothing)
if 'google.colab' in str(get_ipython()):
    !git clone --quiet --depth 1 {cfg['git_url']}
    !pip install --quiet ./{cfg['repo']}
    %cd -q {cfg['repo']}/nbs{'' if folder == '.' else '/' + folder}"""

def source(cell): return ''.join(cell['source'])
def tags(cell): return cell['metadata'].get('tags', ())

def directives(text):
    "The leading `#| ...` lines of a code cell and the rest: `key: value` is YAML, as Quarto reads it"
    found, lines = {}, text.splitlines(True)
    while lines and (m := re.match(r'#\s*\|\s*(.*)$', lines[0])):
        told = yaml.safe_load(m[1]) if ': ' in m[1] else {m[1].strip(): None}
        found.update(told if isinstance(told, dict) else {m[1].strip(): None})
        lines.pop(0)
    return found, ''.join(lines)

def new_cell(kind, text, seed, **metadata):
    "A cell with an id that depends on what it is"
    cell_id = hashlib.sha1(seed.encode()).hexdigest()[:8]
    cell = dict(cell_type=kind, id=cell_id, metadata=metadata, source=text.splitlines(True))
    return cell if kind == 'markdown' else {**cell, 'execution_count': None, 'outputs': []}

def title_and_rest(text):
    "A title cell's title and `>` line, and what comes after them"
    head = re.match(r'#\s[^\n]*\n\s*(>[^\n]*\n?)?', text + '\n')
    return head[0].strip(), text[head.end():].strip()

def is_plumbing(cell):
    "Does a cell only name the module, or import for tests? In Lab it is folded"
    if cell['cell_type'] != 'code': return False
    said, rest = directives(source(cell))
    if any(k.startswith('default_exp') for k in said) and not rest.strip(): return True
    lines = [l for l in rest.splitlines() if l.strip()]
    return 'hide' in said and bool(lines) and all(re.match(r'(import|from) ', l) for l in lines)

def folded(cell):
    "The cell, folded in JupyterLab"
    jupyter = {**cell['metadata'].get('jupyter', {}), 'source_hidden': True}
    return {**cell, 'metadata': {**cell['metadata'], 'jupyter': jupyter}}

def open_notebook(nb, name):
    "Give `nb` its opening and its end where they are missing"
    cells = [c for c in nb['cells'] if 'setup' not in tags(c)]
    title, rest = title_and_rest(source(cells[0]))
    cells[0]['source'] = title.splitlines(True)
    if rest: cells.insert(1, new_cell('markdown', rest, f'{name} introduction'))
    first = next(i for i,c in enumerate(cells) if c['cell_type'] == 'code')
    cells = [folded(c) if is_plumbing(c) else c for c in cells]
    how = dict(cellView='form', jupyter=dict(source_hidden=True), tags=['setup'])
    cells.insert(first, new_cell('code', fetch(name), f'{name} fetch', **how))
    cells.insert(1, new_cell('markdown', head(name, cells), f'{name} badge', tags=['setup']))
    links = neighbours(name)
    if links: cells.append(new_cell('markdown', links, f'{name} end', tags=['setup']))
    nb['cells'] = cells
    return nb

def mixes(text):
    "Does code that is not exported import something and do something else, too?"
    if re.search(r'^#\s*\|\s*(export|eval:\s*false)', text, re.M): return False
    try: body = ast.parse(text).body
    except SyntaxError: return False # a magic: nbdev leaves it alone, too
    imports = lambda n: isinstance(n, (ast.Import, ast.ImportFrom))
    return any(imports(n) for b in body for n in ast.walk(b)) and not all(map(imports, body))

def wrong(path):
    "What is wrong with how a notebook opens, and with where it imports"
    nb, name = json.loads(path.read_text(encoding='utf-8')), name_of(path)
    code = [source(c) for c in nb['cells'] if c['cell_type'] == 'code']
    found = [f'{name}: import in a cell of its own: {t[:50]!r}' for t in code if mixes(t)]
    if open_notebook(copy.deepcopy(nb), name) != nb:
        found.append(f'{name}: title, badge or set-up is not as `python tools/opening.py` writes it')
    return found

def main():
    for path in notebooks():
        nb = open_notebook(json.loads(path.read_text(encoding='utf-8')), name_of(path))
        path.write_text(json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True) + '\n', encoding='utf-8')

if __name__ == '__main__': main()
