"""The site, made from the notebooks: nbdev processes them, Sphinx lays them out.

    python tools/pages.py           # the site in _docs/
    python tools/pages.py --check   # nbdev's part alone: does each notebook still pass it?

Needs the requirements `docs` of settings.ini (`make docs` installs them). Notebook 00_optimizer becomes
optimizer.html, the name by which nbdev links to it. What nbdev has executed for a page is documentation, not
training: imports, exported cells, and `show_doc` for each public name."""
import contextlib, html, importlib, io, json, multiprocessing, os, posixpath, re, shutil, subprocess, sys
import traceback
import opening
from opening import cfg, directives, name_of, notebooks, root, source, tags

out, pages = root/cfg['doc_path'], root/'_proc'/'site'
blob = f"{cfg['git_url']}/blob/{cfg['branch']}"
host = re.escape(f"https://{cfg['user']}.github.io/{cfg['repo']}/")
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

def process_all():
    "Every notebook processed, in processes of their own"
    warm_up()
    os.chdir(root)
    kind = 'spawn' if sys.platform == 'darwin' else 'fork'
    with multiprocessing.get_context(kind).Pool(min(2, os.cpu_count()), maxtasksperchild=1) as pool:
        return pool.map(process, notebooks(), chunksize=1)

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
    return re.sub(r']\((?:\.\./)?((?:results|benchmarks|tools|nbs)\b[^)]*|LICENSE|README\.md)\)',
                  rf']({blob}/\1)', text)

def markdown(text): return dict(cell_type='markdown', metadata={}, source=text)

def front(cell, path):
    "Title, sentence, and where else the page can be opened"
    import yaml
    head = yaml.safe_load(source(cell).strip().strip('-'))
    notebook = f'{blob}/nbs/{name_of(path)}.ipynb'
    colab = re.search(r'[(](https://colab[^)]*ipynb)', opening.badge(name_of(path)))[1]
    links = [f'[Open in Colab]({colab})',
             f'[Notebook on GitHub]({notebook})']
    return markdown(f"# {head['title']}\n\n{{.lead}}\n{head.get('description', '')}\n\n"
                    f"{{.elsewhere}}\n{' · '.join(links)}")

def is_show_doc(cell): return cell['cell_type'] == 'code' and 'show_doc(' in source(cell)

def label(cell):
    "What marks a definition: its name, to which others link, and where its source is"
    text = ''.join(cell['outputs'][0]['data']['text/markdown'])
    name = re.search(r'^###+ (.*)$', text, re.M)[1].strip()
    link = re.search(r'\[source\]\(([^)]*)\)', text)
    shown = html.escape(name)
    if link: shown = f'<a href="{link[1]}" title="source">{shown}</a>'
    return f'<span id="{html.escape(name.lower())}">{shown}</span>'

def code(cell):
    "A code cell as MyST-NB wants it; None if nothing of it is shown"
    said, text = directives(source(cell))
    if said.get('include') is False or not text.strip(): return None
    hidden = 'remove-input' if said.get('echo') is False else 'hide-input'
    folded = cell['metadata'].get('jupyter', {}).get('source_hidden')
    marks = [hidden] if folded or hidden == 'remove-input' else []
    metadata = dict(tags=[*tags(cell), *marks])
    metadata['mystnb'] = shown = {}
    if 'fig-alt' in said: shown['image'] = dict(alt=said['fig-alt'])
    if 'code-summary' in said: shown['code_prompt_show'] = said['code-summary']
    outputs = [o for o in cell.get('outputs', []) if o.get('name') != 'stderr']
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

def page(path, nb, names):
    "A processed notebook as a page"
    cells, labels, here = [], [], names[name_of(path)]
    for c in reversed(nb['cells']): # a definition's labels stand behind it
        if 'setup' in tags(c) or 'WARNING: THIS FILE' in source(c): continue
        if c['cell_type'] == 'raw': cells.append(front(c, path))
        elif c['cell_type'] == 'markdown': cells.append(markdown(with_links(source(c), names, here)))
        elif is_show_doc(c): labels.append(label(c))
        elif shown := code(c):
            cells.append(linked_outputs(shown, names, here))
            if labels: cells.append(markdown(f"<div class=\"defines\">{' '.join(reversed(labels))}</div>"))
            labels = []
    return cells[::-1]

# --- pages that are no notebook

def toctrees(names):
    "The order of the pages, from the sidebar that nbdev uses"
    import yaml
    contents = yaml.safe_load((root/'nbs/sidebar.yml').read_text(encoding='utf-8'))
    sections = [s for s in contents['website']['sidebar']['contents'] if isinstance(s, dict)]
    trees = [(s['section'], [names[n.removesuffix('.ipynb')] for n in s['contents']]) for s in sections]
    trees.append(('Reference', ['names', *(t for t,f in texts.items() if (root/f).exists())]))
    form = '```{{toctree}}\n:hidden:\n:caption: {}\n\n{}\n```'
    return markdown('\n\n'.join(form.format(title, '\n'.join(docs)) for title,docs in trees))

def names_page():
    "Every public name in one table, with its line of documentation"
    from imagenette_train._modidx import d
    rows = []
    for module in sorted(d['syms']):
        for name in getattr(importlib.import_module(module), '__all__', []):
            where = d['syms'][module].get(f'{module}.{name}')
            if not where: continue
            says = getattr(getattr(sys.modules[module], name), '__doc__', None) or ''
            says = says.split('\n')[0].replace('|', r'\|').replace('<', '&lt;')
            rows.append(f"| [`{name}`]({where[0]}) | {says} | {module.partition('.')[2]} |")
    rows.sort(key=str.lower)
    return '\n'.join(['# Names\n', '{.lead}', 'Every public name, and where it is explained.\n',
                      '| name | what it is | module |', '| --- | --- | --- |', *rows])

# --- all of it

def mathjax():
    "Formulas without a third party: MathJax from npm into the site, if npm is here"
    to = root/'_proc'/'mathjax'
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

def write_pages(processed):
    "What Sphinx reads"
    names = page_names()
    shutil.rmtree(pages, ignore_errors=True)
    pages.mkdir(parents=True)
    language = dict(kernelspec=dict(name='python3', display_name='python3', language='python'))
    made = {}
    for path,nb,_ in processed:
        cells = page(path, nb, names)
        if name_of(path) == 'index': cells.append(toctrees(names))
        whole = dict(cells=cells, metadata=language, nbformat=4, nbformat_minor=4)
        made[names[name_of(path)]] = json.dumps(whole)
    for name,text in to_what_is_there(made).items():
        (pages/name).parent.mkdir(parents=True, exist_ok=True)
        (pages/f'{name}.ipynb').write_text(text, encoding='utf-8')
    (pages/'names.md').write_text(names_page(), encoding='utf-8')
    for name,file in texts.items():
        if not (root/file).exists(): continue
        text = with_links(unbroken((root/file).read_text(encoding='utf-8')), names)
        (pages/f'{name}.md').write_text(text, encoding='utf-8')

def main():
    processed = process_all()
    errors = [e for _,_,e in processed if e]
    print(*errors, f'{len(processed)-len(errors)} notebooks processed', sep='\n')
    if errors or '--check' in sys.argv: sys.exit(bool(errors))
    write_pages(processed)
    mathjax()
    made = root/'_proc'/'html' # MyST-NB puts notebooks of its own beside it
    for old in (made, out): shutil.rmtree(old, ignore_errors=True)
    build = [sys.executable, '-m', 'sphinx', '-q', '-W', '--keep-going', '-c', root/'tools/site',
             '-d', root/'_proc/doctrees', pages, made]
    done = subprocess.run(build, cwd=root)
    (made/'.nojekyll').touch()
    made.rename(out)
    print(f'{out.relative_to(root)}/index.html')
    sys.exit(done.returncode)

if __name__ == '__main__': main()
