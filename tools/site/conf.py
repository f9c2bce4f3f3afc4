"How Sphinx lays out the site; tools/pages.py calls it."
import html, json, re, sys
from pathlib import Path

here = Path(__file__).parent
sys.path.insert(0, str(here.parent))
from opening import cfg # noqa: E402

project, author, copyright = cfg['title'], cfg['author'], cfg['copyright']
html_title = cfg['title']
html_baseurl = f"https://{cfg['user']}.github.io/{cfg['repo']}/" # each page names its own address
extensions = ['myst_nb', 'sphinx_copybutton']
nb_execution_mode = 'off'
nb_code_prompt_show, nb_code_prompt_hide = 'Show the folded code', 'Fold the code'
nb_render_markdown_format = 'gfm'
myst_enable_extensions = ['dollarmath', 'amsmath', 'attrs_inline', 'attrs_block']
add_module_names = False
toc_object_entries_show_parents = 'hide'
python_maximum_signature_line_length = 88
html_search_scorer = str(here/'scorer.js') # a definition before whatever mentions it
myst_heading_anchors = 3
myst_all_links_external = True # tools/pages.py has made them; `make docs-test` follows each
suppress_warnings = ['myst.header'] # a notebook may go from its title to a third level

pygments_style, pygments_dark_style = 'default', 'github-dark'
html_theme = 'furo'
html_static_path = ['static', '../../results/race.gif'] # the race is what a shared link shows
html_favicon = 'static/favicon.svg'
html_css_files = ['site.css']
html_show_sphinx = False
html_copy_source = False
html_theme_options = dict(
    light_css_variables={'color-brand-primary': '#7a2f3d', 'color-brand-content': '#7a2f3d'},
    dark_css_variables={'color-brand-primary': '#f0a3b1', 'color-brand-content': '#f0a3b1'},
    footer_icons=[dict(name='GitHub', url=cfg['git_url'], html='GitHub', **{'class': ''})])

mathjax3_config = {'startup': {'typeset': True}}
mathjax = here.parent.parent/'build'/'site'/'mathjax'
if (mathjax/'mathjax.js').exists():
    html_static_path.append(str(mathjax))
    mathjax_path = 'mathjax.js'
else: mathjax_path = 'https://cdn.jsdelivr.net/npm/mathjax@3/es5/tex-mml-chtml.js'

described = json.loads((here.parent.parent/'build'/'site'/'descriptions.json').read_text(encoding='utf-8'))

def add_meta(app, page, template, context, doctree):
    "What a page shows where its link is shared"
    title = context.get('title') or project
    of_module = f'Signatures, parameters and source: {title}.' if page.startswith('reference') else ''
    says = described.get(page) or of_module or cfg['description']
    told = {'og:title': title, 'og:type': 'website', 'og:description': says,
            'og:url': f'{html_baseurl}{page}.html', 'og:image': f'{html_baseurl}_static/race.gif'}
    lines = [f'<meta name="description" content="{html.escape(says)}">',
             *(f'<meta property="{k}" content="{html.escape(v)}">' for k,v in told.items())]
    context['metatags'] = context.get('metatags', '') + '\n'.join(lines)

def break_well(app, page, template, context, doctree):
    "A formula and the punctuation beside it stay on one line; a title such as core.events breaks at the dot"
    formula = r'\(?<span class="math[^>]*>\\\([^<]*</span>(?:[,.;:?!)]|’s)+'
    body = re.sub(formula, r'<span class="together">\g<0></span>', context.get('body', ''))
    context['body'] = re.sub(r'(<h1>Reference: \w+\.)', r'\1<wbr>', body)

def setup(app):
    for add in (add_meta, break_well): app.connect('html-page-context', add)
