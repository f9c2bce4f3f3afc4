"""The site, made from the notebooks: nbdev processes them, Sphinx lays them out.

    python tools/pages.py           # the site in _docs/
    python tools/pages.py index 04_callbacks # these pages alone, for a quick look
    python tools/pages.py --check   # nbdev's part alone: can it and Quarto read each notebook?

Needs the requirements `docs` of settings.ini (`make docs` installs them). Notebook 00_optimizer becomes
optimizer.html, the name by which nbdev links to it. What nbdev has executed for a page is documentation, not
training: imports, exported cells, and `show_doc` for each public name."""
import ast, base64, contextlib, html, importlib, io, json, multiprocessing, os, posixpath, re, shutil
import subprocess, sys, traceback, yaml
import opening, reference
from reference import page_of
from opening import cfg, directives, name_of, nbs, notebooks, root, source, tags

out, work = root/cfg['doc_path'], root/'build'/'site' # nbdev's own site is made in _proc/
pages = work/'pages'
blob = f"{cfg['git_url']}/blob/{cfg['branch']}"
address = f"https://{cfg['user']}.github.io/{cfg['repo']}/"
host = re.escape(address)
texts = dict(benchmarks='BENCHMARKS.md', contributing='CONTRIBUTING.md', changes='CHANGELOG.md')

# --- nbdev's part

def warm_up():
    "Import once what nearly every notebook imports, before processes are forked"
    os.environ.update(MPLBACKEND='agg', IN_TEST='1', TQDM_DISABLE='1')
    import torch, torchvision, matplotlib.pyplot, nbdev.showdoc # noqa: F401
    torch.set_num_threads(1)
    importlib.import_module('imagenette_train.all')

def process(path):
    "The notebook as nbdev hands it to a documentation tool, or why it could not: `(path, notebook, error)`"
    from execnb.nbio import nb2dict, read_nb
    from nbdev.processors import FilterDefaults
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            nb = read_nb(path)
            FilterDefaults()(nb)
        return path, nb2dict(nb), ''
    except BaseException as e:
        why = ''.join(traceback.format_exception_only(e.__cause__ or e)).strip()
        return path, None, f'{name_of(path)}: {e}\n{why}'

def process_all(paths):
    "The notebooks processed, in processes of their own"
    warm_up()
    os.chdir(root)
    kind = 'spawn' if sys.platform == 'darwin' else 'fork'
    with multiprocessing.get_context(kind).Pool(min(2, os.cpu_count()), maxtasksperchild=1) as pool:
        return pool.map(process, paths, chunksize=1)

# --- what Quarto would make of it, as far as that can be told without Quarto

def heading_ids(text):
    "The anchors of a page as Pandoc makes them from headings, and those written by hand"
    plain = (re.sub(r'[^\w\s.-]', '', h.lower()).strip() for h in re.findall(r'^#+ (.*)$', text, re.M))
    made = {re.sub(r'^[^a-z]+', '', re.sub(r'\s+', '-', h)) for h in plain}
    return made | {*re.findall(r'id="([^"]*)"', text)}

def options_fault(text):
    "Quarto reads the leading `#|` lines of a cell together, as one YAML mapping"
    lead = re.match(r'(?:#\|[^\n]*\n?)*', text)[0]
    try: read = yaml.safe_load(re.sub(r'^#\|', '', lead, flags=re.M))
    except yaml.YAMLError as e: return f'options that are no YAML ({e.problem}): {lead[:60]!r}'
    return '' if read is None or isinstance(read, dict) else f'options without `key: value`: {lead[:60]!r}'

def text_faults(text):
    "Markdown that Quarto takes for something else"
    found = {'a shortcode': r'\{\{<', 'a metadata block': r'^---\n(?=\S)', 'a div that is not closed': None}
    wrong = [what for what,pattern in found.items() if pattern and re.search(pattern, text, re.M)]
    return wrong + ['a div that is not closed']*(len(re.findall(r'^:::', text, re.M)) % 2)

def prose(cells): return [source(c) for c in cells if c['cell_type'] == 'markdown']

def dead_links(name, text, ids):
    "Links of notebook `name` to notebooks, or places in them, that are not there"
    for to,anchor in re.findall(r'\]\(([\w./]+)\.ipynb(?:#([^)]*))?\)', text):
        to = posixpath.normpath(posixpath.join(posixpath.dirname(name), to))
        there = (nbs/f'{to}.ipynb').is_file() and (not anchor or to not in ids or anchor in ids[to])
        if not there: yield f'a link that leads nowhere: {to}#{anchor}'

def notebook_faults(cells):
    "What would stop Quarto at the cells of a processed notebook"
    found = [options_fault(source(c)) for c in cells if c['cell_type'] == 'code']
    found += [f for text in prose(cells) for f in text_faults(text)]
    head = [yaml.safe_load(source(c).strip().strip('-')) for c in cells if c['cell_type'] == 'raw'][:1]
    if not head or not head[0].get('title'): found.append('no front matter with a title')
    return list(filter(None, found))

def quarto_faults(processed):
    "What would stop Quarto at the processed notebooks, or lead nowhere on its site"
    told = {name_of(p): nb['cells'] for p,nb,_ in processed if nb}
    texts = {name: '\n'.join(prose(cells)) for name,cells in told.items()}
    ids = {name: heading_ids(text) for name,text in texts.items()}
    return [f'{name}: {f}' for name,cells in told.items()
            for f in (*notebook_faults(cells), *dead_links(name, texts[name], ids))]

# --- from nbdev's cells to Sphinx's

def page_names():
    "Notebook -> name of its page: as nbdev has it, without the number"
    return {n: re.sub(r'(^|/)\d+[a-z]*_', r'\1', n) for n in map(name_of, notebooks())}

def seen_from(page, here):
    "The address of a page of the site, as seen from the page `here`"
    return posixpath.relpath(f'{page}.html', posixpath.dirname(here) or '.')

def with_links(text, names, here=''):
    "Markdown of page `here` whose links lead to pages of the site, or to the repository"
    def page(m):
        name = m[2] if m[1] else posixpath.normpath(posixpath.join(posixpath.dirname(here), m[2]))
        return f"]({seen_from(names[name], here)}{(m[3] or '').lower()})" if name in names else m[0]
    # private names have no anchor
    text = re.sub(rf']\({host}([\w/]+)\.html(#[^_)][^)]*)?(#_[^)]*)?\)',
                  lambda m: f"]({seen_from(m[1], here)}{m[2] or ''})", text)
    text = re.sub(r']\((nbs/)?([\w./]+)\.ipynb(#[^)]*)?\)', page, text)
    # in a narrow column of a table, the name of a notebook breaks after its folder
    text = re.sub(r'(?m)^\|.*', lambda row: re.sub(r'(\[\w+/)(\w+]\()', r'\1<wbr>\2', row[0]), text)
    return re.sub(r']\((?:\.\./)?((?:results|benchmarks|tools|nbs)\b[^)]*|LICENSE|README\.md)\)',
                  rf']({blob}/\1)', text)

def markdown(text): return dict(cell_type='markdown', metadata={}, source=text)

def colab(path): return re.search(r'[(](https://colab[^)]*ipynb)', opening.badge(name_of(path)))[1]

def front(cell, path):
    "Title, sentence, and where else the page can be opened"
    head = yaml.safe_load(source(cell).strip().strip('-'))
    notebook = f'{blob}/nbs/{name_of(path)}.ipynb'
    links = [f'[Open in Colab]({colab(path)})', f'[Notebook on GitHub]({notebook})']
    return markdown(f"# {head['title']}\n\n{{.lead}}\n{head.get('description', '')}\n\n"
                    f"{{.elsewhere}}\n{' · '.join(links)}")

def is_show_doc(cell): return cell['cell_type'] == 'code' and 'show_doc(' in source(cell)

def label(cell, refs, here):
    "What marks a definition: its name, to which others link; its entry in the reference; its source"
    text = ''.join(cell['outputs'][0]['data']['text/markdown'])
    name = re.search(r'^###+ (.*)$', text, re.M)[1].strip()
    link, entry = re.search(r'\[source\]\(([^)]*)\)', text), refs.named(name, here)
    if entry: name = entry.name
    shown = f'<b>{html.escape(name)}</b>'
    if entry: shown += f' · <a href="{seen_from(page_of(entry.module), here)}#{entry.anchor}">reference</a>'
    if link: shown += f' · <a href="{link[1]}">source</a>'
    return f'<span id="{html.escape(name.lower())}">{shown}</span>'

def only_imports(text):
    "Does a cell import, or try to, and nothing else?"
    try: body = ast.parse(text).body
    except SyntaxError: return False
    tried = [b for o in body for b in (o.body if isinstance(o, ast.Try) else [o])]
    return bool(tried) and all(isinstance(b, (ast.Import, ast.ImportFrom)) for b in tried)

def marks(cell, said, text):
    "Tags that tell MyST-NB what of a cell is hidden, or folded"
    if said.get('echo') is False: return ['remove-input']
    folded = cell['metadata'].get('jupyter', {}).get('source_hidden') or only_imports(text)
    return ['hide-input'] if folded else []

def is_wide(output):
    "Does an output hold a figure too wide for a phone?"
    head = base64.b64decode(''.join(output.get('data', {}).get('image/png', ''))[:32])
    return int.from_bytes(head[16:20], 'big') > 800 # where a PNG says how many pixels wide it is

def code(cell):
    "A code cell as MyST-NB wants it; None if nothing of it is shown"
    said, text = directives(source(cell))
    if said.get('include') is False or not text.strip(): return None
    shown = dict(image=dict(alt=said['fig-alt'])) if 'fig-alt' in said else {}
    summary = said.get('code-summary', 'Imports' if only_imports(text) else None)
    if summary: shown |= dict(code_prompt_show=summary, code_prompt_hide=summary)
    outputs = [o for o in cell.get('outputs', []) if o.get('name') != 'stderr']
    if any(map(is_wide, outputs)): shown.setdefault('image', {})['classes'] = 'wide'
    metadata = dict(tags=[*tags(cell), *marks(cell, said, text)], mystnb=shown)
    return dict(cell_type='code', metadata=metadata, source=text, outputs=outputs, execution_count=None)

def unbroken(text):
    "`text` where a figure and its spread stay on one line"
    spread = r'(?<=[\d)]) (±) (?=\d)|(?<=\d) (to) (?=-?[\d.]+\))'
    return re.sub(spread, lambda m: f'\xa0{m[1] or m[2]}\xa0', text)

def linked_outputs(cell, names, here):
    "The tables that a cell prints link to pages, too"
    for o in cell['outputs']:
        data = o.get('data', {})
        if 'text/markdown' not in data: continue
        data['text/markdown'] = with_links(unbroken(''.join(data['text/markdown'])), names, here)
    return cell

def told_where_to_answer(cells, path):
    "The cells of a page; above the first that waits for an answer stands where to give it"
    where = markdown(f'{{.answer-it}}\nA page runs no code. To answer, open it [in Colab]({colab(path)}) '
                     'or in JupyterLab (`make lab`).')
    waits = lambda c: c['cell_type'] == 'code' and 'exercise' in tags(c) and '@answer_key' not in source(c)
    waiting = [i for i,c in enumerate(cells) if waits(c)]
    return [*cells[:waiting[0]], where, *cells[waiting[0]:]] if waiting else cells

def page(path, nb, names, refs):
    "A processed notebook as a page"
    cells, labels, here = [], [], names[name_of(path)]
    for c in reversed(nb['cells']): # a definition's labels stand behind it
        if 'setup' in tags(c) or 'WARNING: THIS FILE' in source(c): continue
        if c['cell_type'] == 'raw': cells.append(front(c, path))
        elif c['cell_type'] == 'markdown': cells.append(markdown(with_links(source(c), names, here)))
        elif is_show_doc(c): labels.append(label(c, refs, here))
        elif shown := code(c):
            cells.append(linked_outputs(shown, names, here))
            if labels: cells.append(markdown(f"<div class=\"defines\">{' '.join(labels)}</div>"))
            labels = []
    return told_where_to_answer(cells[::-1], path)

# --- pages that are no notebook

def sections(names):
    "Title of each section of the sidebar that nbdev uses -> its pages"
    contents = yaml.safe_load((nbs/'sidebar.yml').read_text(encoding='utf-8'))
    found = [s for s in contents['website']['sidebar']['contents'] if isinstance(s, dict)]
    listed = {s['section']: [o.removesuffix('.ipynb') for o in s['contents']] for s in found}
    return {title: [names[n] for n in notebooks if n in names] for title,notebooks in listed.items()}

def toctrees(names):
    "The order of the pages"
    more = [t for t,f in texts.items() if (root/f).exists()]
    form = '```{{toctree}}\n:hidden:\n:caption: {}\n\n{}\n```'
    trees = {**sections(names), 'Reference': ['reference/index', *more]}
    return markdown('\n\n'.join(form.format(title, '\n'.join(docs)) for title,docs in trees.items()))

not_found = """# Nothing here

{.lead}
This page has moved, or it never was.

Begin with [the course](index.html), or look the word up in [the reference](reference/index.html)."""

# --- all of it

def mathjax():
    "Formulas without a third party: MathJax from npm into the site, if npm is here"
    to = work/'mathjax'
    if (to/'mathjax.js').exists() or not shutil.which('npm'): return
    to.mkdir(parents=True, exist_ok=True)
    got = subprocess.run(['npm', 'pack', '--silent', 'mathjax@3.2.2'], cwd=to, capture_output=True, text=True)
    if got.returncode: return print('no MathJax from npm; the site will fetch it from its network')
    shutil.unpack_archive(to/got.stdout.strip(), to)
    shutil.copytree(to/'package/es5/output/chtml', to/'output/chtml', dirs_exist_ok=True)
    shutil.copy(to/'package/es5/tex-mml-chtml.js', to/'mathjax.js')
    shutil.rmtree(to/'package')
    (to/got.stdout.strip()).unlink()

def to_what_is_there(texts):
    "Page -> text, with links to a method without a place of its own going to its class"
    places = {name: set(re.findall(r'<span id=\\?"([^"\\]*)\\?"', text)) for name,text in texts.items()}
    def mend(here, text):
        def mended(m):
            page = posixpath.normpath(posixpath.join(posixpath.dirname(here), m[1]))
            there, owner = places.get(page, ()), m[2].partition('.')[0]
            return m[0] if m[2] in there or owner not in there else f']({m[1]}.html#{owner})'
        return re.sub(r'\]\(([\w./]+)\.html#([\w.]+)\)', mended, text)
    return {name: mend(name, text) for name,text in texts.items()}

def descriptions(processed, names):
    "Page -> the sentence that stands for it where it is shared"
    found = {}
    for path,nb,_ in processed:
        raw = next(source(c) for c in nb['cells'] if c['cell_type'] == 'raw')
        found[names[name_of(path)]] = yaml.safe_load(raw.strip().strip('-')).get('description', '')
    return found

def write_pages(processed, names):
    "What Sphinx reads"
    shutil.rmtree(pages, ignore_errors=True)
    pages.mkdir(parents=True)
    refs = reference.Reference()
    language = dict(kernelspec=dict(name='python3', display_name='python3', language='python'))
    made = {}
    for path,nb,_ in processed:
        cells = page(path, nb, names, refs)
        if name_of(path) == 'index': cells.append(toctrees(names))
        whole = dict(cells=cells, metadata=language, nbformat=4, nbformat_minor=4)
        made[names[name_of(path)]] = json.dumps(whole)
    order = [p for found in sections(names).values() for p in found]
    mended = to_what_is_there({**made, **refs.pages(order)})
    made = {f"{name}.{'ipynb' if name in made else 'md'}": text for name,text in mended.items()}
    for name,file in texts.items():
        if (root/file).exists():
            made[f'{name}.md'] = with_links(unbroken((root/file).read_text(encoding='utf-8')), names)
    made['404.md'] = f'---\norphan: true\n---\n\n{not_found}'
    for name,text in made.items():
        (pages/name).parent.mkdir(parents=True, exist_ok=True)
        (pages/name).write_text(text, encoding='utf-8')
    (work/'descriptions.json').write_text(json.dumps(descriptions(processed, names)), encoding='utf-8')

def finish(made):
    "What GitHub's server and search engines ask for"
    (made/'.nojekyll').touch()
    found = sorted(p.relative_to(made).as_posix() for p in made.rglob('*.html') if '_static' not in p.parts)
    places = [f'<url><loc>{address}{n}</loc></url>' for n in found if n not in ('404.html', 'search.html')]
    kind = '<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">'
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', kind, *places, '</urlset>', '']
    (made/'sitemap.xml').write_text('\n'.join(lines), encoding='utf-8')
    (made/'robots.txt').write_text(f'User-agent: *\nSitemap: {address}sitemap.xml\n', encoding='utf-8')
    lost = made/'404.html' # served at any depth, so its links start from the top of the site
    text = lost.read_text(encoding='utf-8').replace('<head>', f'<head><base href="/{cfg["repo"]}/">', 1)
    lost.write_text(text, encoding='utf-8')

def lay_out(strict):
    "Sphinx makes the site of the pages; gives its exit code"
    made = work/'html' # MyST-NB puts notebooks of its own beside it
    for old in (made, out): shutil.rmtree(old, ignore_errors=True)
    options = ['-W', '--keep-going'] if strict else []
    build = [sys.executable, '-m', 'sphinx', '-q', *options, '-c', root/'tools/site',
             '-d', work/'doctrees', pages, made]
    done = subprocess.run(build, cwd=root)
    finish(made)
    made.rename(out)
    print(f'{out.relative_to(root)}/index.html: made by Sphinx (`nbdev_docs` puts its own site there)')
    return done.returncode

def faults(processed):
    "What nbdev could not process, and what Quarto could not read"
    return [e for _,_,e in processed if e] + quarto_faults(processed)

def main():
    asked = [a for a in sys.argv[1:] if not a.startswith('--')]
    names = {n: p for n,p in page_names().items() if not asked or n in (*asked, 'index')}
    if set(asked) - set(names): sys.exit(f"no notebook {', '.join(set(asked) - set(names))} in nbs/")
    processed = process_all([p for p in notebooks() if name_of(p) in names])
    errors = faults(processed)
    print(*errors, f'{len(processed)} notebooks processed, {len(errors)} things wrong', sep='\n')
    if '--check' in sys.argv or any(nb is None for _,nb,_ in processed): sys.exit(bool(errors))
    write_pages(processed, names)
    mathjax()
    sys.exit(max(lay_out(strict=not asked), bool(errors)))

if __name__ == '__main__': main()
