"""The reference: every public function, class and method with its signature, its parameters from the
docments, their defaults and its source. tools/pages.py writes it, a page for each module and one index.

Each is an object of Sphinx's Python domain, so that search puts the definition first, and other projects
can link to it through objects.inv."""
import ast, functools, importlib, inspect, re, reprlib, textwrap, types
from dataclasses import dataclass
from fastcore.docments import docments
from opening import cfg

lib, blob = cfg['lib_name'], f"{cfg['git_url']}/blob/{cfg['branch']}"

@dataclass
class Entry:
    "A public name: `name` is as one would say it (`Learner.fit`), `module` where it is written"
    module: str
    name: str
    obj: object
    page: str # where the notebooks explain it: page and anchor
    @property
    def bare(self): return self.name.rpartition('.')[2]
    @functools.cached_property
    def home(self): # a patched method belongs to its class, wherever it is written
        owner = getattr(importlib.import_module(self.module), self.name.partition('.')[0], None)
        return owner.__module__ if '.' in self.name else self.module
    @property
    def anchor(self): return f'{self.home}.{self.name}'
    @property
    def at(self): return f'{page_of(self.module)}.html#{self.anchor}'
    @functools.cached_property
    def unwrapped(self): return inspect.unwrap(getattr(self.obj, '__func__', self.obj))
    @property
    def kind(self):
        if isinstance(self.obj, type): return 'exception' if issubclass(self.obj, Exception) else 'class'
        if isinstance(self.obj, (property, functools.cached_property)): return 'property'
        if '.' in self.name:
            return {classmethod: 'classmethod', staticmethod: 'staticmethod'}.get(type(self.obj), 'method')
        return 'function' if callable(self.obj) else 'data'
    @functools.cached_property
    def doc(self):
        "Its docstring, and what a section `Parameters` there says of each parameter"
        text, _, said = (getattr(self.obj, '__doc__', None) or '').partition('\nParameters\n----------\n')
        text = re.sub(r'^\w+\([\w, ]*\)$', '', text.strip()) # a named tuple's own repeats its signature
        return text, dict(re.findall(r'^(\w+)\n +(.*)$', said, re.M))
    @property
    def says(self):
        "Its documentation; of a constant, what it holds"
        if self.kind != 'data': return self.doc[0]
        kind, holds = type(self.obj).__name__, []
        if isinstance(self.obj, types.SimpleNamespace): kind, holds = 'namespace', list(vars(self.obj))
        if isinstance(self.obj, (dict, list, tuple)): holds = list(self.obj)
        if not holds or not all(isinstance(o, (str, int, float)) for o in holds):
            return f'A {kind}: `{reprlib.repr(self.obj)}`'
        items = [f'`{o}`' if isinstance(o, str) else f'`{o:.3g}`' for o in holds]
        return f"A {kind}: {', '.join(items[:12])}{' ...' if len(items) > 12 else ''}"

def page_of(module):
    "The page of the reference that lists a module"
    return f"reference/{module.partition('.')[2].replace('.', '/')}"

def is_public(name): return not any(part.startswith('_') for part in name.split('.'))

def is_foreign(obj): return callable(obj) and not getattr(obj, '__module__', lib).startswith(lib)

def found_at(module, name):
    "What `name` (a class's attribute, too) is, as it is stored: a class method stays one"
    obj, *rest = name.split('.')
    obj = getattr(module, obj)
    for part in rest: obj = inspect.getattr_static(obj, part)
    return obj

def entries():
    "Every public name of the package, module by module"
    from imagenette_train._modidx import d
    events = importlib.import_module(f'{lib}.core.events').event_docs
    found = []
    for module,syms in d['syms'].items():
        loaded = importlib.import_module(module)
        pages = {full.removeprefix(f'{module}.'): where for full,(where,_) in syms.items()}
        notebook = next(iter(pages.values()), f'{module}.html').partition('#')[0]
        if module == f'{lib}.all': continue
        constants = {n: notebook for n in getattr(loaded, '__all__', ()) if n not in pages}
        for name,page in {**pages, **constants}.items():
            obj, (top, _, part) = found_at(loaded, name), name.partition('.')
            internal = top in pages and top not in getattr(loaded, '__all__', ())
            # an event that a callback hears is told with its class
            if is_public(name) and not (is_foreign(obj) or internal or part in events):
                found.append(Entry(module, name, obj, page))
    return found

class Shown(str):
    "A default as the reference shows it"
    def __repr__(self): return str(self)

def shown(default):
    "A default in a few characters"
    if isinstance(default, functools.partial): return Shown(f'partial({default.func.__name__}, ...)')
    if callable(default) and hasattr(default, '__name__'):
        return Shown('...' if default.__name__ == '<lambda>' else default.__name__)
    text = repr(default)
    return Shown('...' if len(text) > 40 or text.startswith('<') else text)

def parameters(entry):
    "The parameters of a callable, without `self`, with defaults to be read"
    if entry.kind in ('data', 'property'): return []
    try: found = list(inspect.signature(getattr(entry.obj, '__func__', entry.obj)).parameters.values())
    except (TypeError, ValueError): return []
    if entry.kind in ('method', 'classmethod'): found = found[1:]
    read = lambda p: p.default if p.default is p.empty else shown(p.default)
    return [p.replace(annotation=p.empty, default=read(p)) for p in found]

def signature(entry):
    "`name(parameters)`, as it is called"
    if entry.kind in ('data', 'property'): return entry.name
    return f'{entry.name}{inspect.Signature(parameters(entry))}'

def in_cell(text): return str(text).replace('|', r'\|').replace('\n', ' ')

def lines_of_parameters(entry):
    "Parameter -> the line of its source on which it stands"
    try: tree = ast.parse(textwrap.dedent(inspect.getsource(entry.unwrapped)))
    except (OSError, TypeError, SyntaxError): return {}
    fields = [(o.target, o.target.id) for o in ast.walk(tree) if isinstance(o, ast.AnnAssign)
              and isinstance(o.target, ast.Name)]
    args = [(o, o.arg) for o in ast.walk(tree) if isinstance(o, ast.arg)] # outermost first
    return {name: o.lineno for o,name in reversed([*args, *fields])}

def rows_of_parameters(entry):
    "Name, default and what is said about it, of each parameter; those on one line of the source share a row"
    params, lines = parameters(entry), lines_of_parameters(entry)
    try: said = docments(entry.unwrapped, full=True)
    except Exception: said = {}
    rows, names, defaults = [], [], []
    for p,after in zip(params, [*params[1:], None]):
        star = {p.VAR_POSITIONAL: '*', p.VAR_KEYWORD: '**'}.get(p.kind, '')
        names.append(f'`{star}{p.name}`')
        if p.default is not p.empty: defaults.append(f'`{p.default}`')
        what = entry.doc[1].get(p.name) or (said.get(p.name) or {}).get('docment')
        if not what and after and lines.get(p.name) == lines.get(after.name): continue
        rows.append([', '.join(names), in_cell(', '.join(defaults)), in_cell(what or '')])
        names, defaults = [], []
    return rows

def table(entry):
    "What is said about each parameter; nothing, where that is no more than the signature says"
    rows = rows_of_parameters(entry)
    if not any(what for *_,what in rows): return ''
    shown = [['parameter', 'default', ''], ['---']*3, *rows]
    if not any(default for _,default,_ in rows): shown = [[name, what] for name,_,what in shown]
    return '\n'.join(f"| {' | '.join(row)} |" for row in shown)

def hears(entry):
    "The events that a callback's class has methods for"
    if entry.kind != 'class': return ''
    events = importlib.import_module(f'{lib}.core.events').event_docs
    own = [e for e in events if e in vars(entry.obj)]
    return f"Hears {', '.join(f'`{e}`' for e in own)}." if own else ''

def line_of(entry):
    "The line of its module where it begins; 0: none that Python knows"
    is_property = isinstance(entry.obj, property)
    target = entry.obj.fget if is_property else getattr(entry.obj, 'func', entry.unwrapped)
    try: return inspect.getsourcelines(target)[1]
    except (OSError, TypeError): return 0

def source_link(entry):
    "Where it is written, on GitHub"
    line = line_of(entry)
    return f"{blob}/{entry.module.replace('.', '/')}.py{f'#L{line}' if line else ''}"

class Reference:
    "All entries, and what links to them"
    def __init__(self):
        self.entries = entries()
        self.known = {e.name: e for e in self.entries}
    def named(self, name, page):
        "The entry that page `page` calls `name`: of a method that is a context manager, nbdev says no class"
        same = (e for e in self.entries if e.bare == name and e.page.startswith(f'{page}.html'))
        return self.known.get(name) or next(same, None)
    def modules(self, order):
        "Modules and their entries, in the order of the pages of their notebooks"
        by = {}
        as_written = sorted(self.entries, key=lambda e: line_of(e) or 10**6)
        for e in as_written: by.setdefault(e.module, []).append(e)
        place = {page: i for i,page in enumerate(order)}
        return sorted(by.items(), key=lambda o: place.get(o[1][0].page.partition('.html')[0], len(place)))
    def linked(self, text, up, own=''):
        "Names between backticks lead to their entries; `up` leads from here to the top of the site"
        def link(m):
            e = self.known.get(m[1])
            return f'[{m[0]}]({up}{e.at})' if e and m[1] != own else m[0]
        text = re.sub(r'(`[^`]*`)|\$', lambda m: m[1] or r'\$', text) # a dollar sign begins no formula
        return re.sub(r'`([A-Za-z][\w.]*)`', link, text)
    def entry(self, e, up):
        "One entry as Markdown"
        links = f'[explained in its notebook]({up}{e.page}) · [source]({source_link(e)})'
        # a table's own column of names stays as it is
        said = re.sub(r'(?m)^(\|[^|]*\|)|`([A-Za-z][\w.]*)`',
                      lambda m: m[1] or self.linked(m[0], up, e.name), table(e))
        body = [self.linked(e.says, up, e.name), hears(e), said, f'{{.elsewhere}}\n{links}']
        flag = {'classmethod': ('method', ':classmethod:\n'), 'staticmethod': ('method', ':staticmethod:\n')}
        kind, option = flag.get(e.kind, (e.kind, ''))
        text = '\n\n'.join(filter(None, body))
        return f'````{{py:{kind}}} {signature(e)}\n:module: {e.home}\n{option}\n{text}\n````'
    def module_page(self, module, found):
        "The page of one module"
        page, name = page_of(module), module.partition('.')[2]
        up, notebook = '../'*page.count('/'), found[0].page.partition('#')[0]
        head = [f'# Reference: {name}', f'{{.lead}}\n`from {module} import *`',
                f'{{.elsewhere}}\n[The notebook that explains it]({up}{notebook})']
        return page, '\n\n'.join([*head, *(self.entry(e, up) for e in found)]) + '\n'
    def index(self, order):
        "One alphabetical index, below the modules in the course's order"
        modules = [f"- [{m.partition('.')[2]}](../{page_of(m)}.html): "
                   + ', '.join(f'[`{e.name}`](../{e.at})' for e in found if '.' not in e.name)
                   for m,found in self.modules(order)]
        rows = sorted(self.entries, key=lambda e: (e.bare.lower(), e.name))
        line = lambda e: in_cell(e.says.split('\n')[0].replace('<', '&lt;'))
        what = lambda e: f'`{e.name}`' if '.' in e.name else e.kind
        table = [f"| [`{e.bare}`](../{e.at}) | {what(e)} | {line(e)} | {e.module.partition('.')[2]} |"
                 for e in rows]
        says = 'Every public function, class and method: its signature, its parameters, its source.'
        ways = '[A to Z](#a-to-z) · [by module](#by-module)'
        head = ['# Reference', f'{{.lead}}\n{says}', ways, '## A to Z']
        columns = '| name | | what it does | module |\n| --- | --- | --- | --- |'
        return '\n\n'.join([*head, '\n'.join([columns, *table]), '## By module', '\n'.join(modules)])
    def toctree(self, order):
        name = lambda m: m.partition('.')[2]
        docs = '\n'.join(f"{name(m)} <{name(m).replace('.', '/')}>" for m,_ in self.modules(order))
        return f'```{{toctree}}\n:hidden:\n\n{docs}\n```\n'
    def pages(self, order):
        "Name of each page of the reference -> its Markdown"
        made = dict(self.module_page(m, found) for m,found in self.modules(order))
        return {'reference/index': self.index(order) + '\n\n' + self.toctree(order), **made}
