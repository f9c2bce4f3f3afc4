"""Clicks through the site in a real browser: `make docs-test`, after `make docs`.

    python tools/test_site.py           # what is wrong
    python tools/test_site.py FOLDER    # instead: pictures of each page, wide and narrow, light and dark

Every page is there; no link or anchor leads nowhere; nothing is logged as an error; every picture says what
it shows; nothing is wider than a phone; search finds definitions first, folded answers open, formulas are
typeset; each page says what it is where it is shared; a reader finds the way from the first page. The browser
is Chromium: the system's, if there is one, else Playwright's own (`playwright install chromium`)."""
import functools, http.server, sys, threading
from pathlib import Path
from urllib.parse import urldefrag, urljoin
from browser_test import open_browser
from opening import cfg, root

site = root/cfg['doc_path']
wide, narrow = dict(width=1280, height=900), dict(width=390, height=844)

class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args): pass

def serve():
    "The site at an address of this machine"
    handler = functools.partial(Quiet, directory=str(site))
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f'http://127.0.0.1:{server.server_port}/'

class Visit:
    "A browser's page that remembers what went wrong"
    def __init__(self, browser, base, **how):
        self.base, self.wrong, self.where = base, [], ''
        self.page = browser.new_context(**how).new_page()
        self.page.on('console', lambda m: m.type in ('error', 'warning') and self.note(f'console: {m.text}'))
        self.page.on('pageerror', lambda e: self.note(f'script: {e}'))
        self.page.on('requestfailed', self.failed)
        self.page.on('response', lambda r: r.status >= 400 and self.note(f'{r.status}: {r.url}'))
    def failed(self, request):
        "A request that ended badly, unless by our going to the next page"
        if request.failure != 'net::ERR_ABORTED': self.note(f'{request.failure}: {request.url}')
    def note(self, what): self.wrong.append(f'{self.where}: {what}')
    def go(self, name):
        self.where = name
        self.page.goto(self.base + name, wait_until='load')
        return self.page
    def check(self, ok, what):
        if not ok: self.note(what)

facts = """() => ({
  ids: [...document.querySelectorAll('[id]')].map(e => e.id),
  links: [...document.querySelectorAll('a[href]')].map(e => e.href),
  mute: [...document.images].filter(e => !e.alt.trim() || e.alt.includes('/')).map(e => e.src),
  raw: [...document.querySelectorAll('article p, article li, article td')].map(e => e.textContent)
       .filter(t => /\\]\\([\\w.#/]+\\)/.test(t)).slice(0, 3),
  title: document.title})"""

too_wide = """() => { const w = document.documentElement; return w.scrollWidth > w.clientWidth + 1 ?
  [...document.querySelectorAll('article *')].filter(e => e.getBoundingClientRect().right > w.clientWidth + 1)
  .slice(0, 3).map(e => e.outerHTML.slice(0, 80)) : [] }"""

def links_lead_somewhere(visit, seen):
    "Every link to a page of the site, with its anchor"
    known = {urljoin(visit.base, n): set(f['ids']) for n,f in seen.items()}
    for name,f in seen.items():
        visit.where = name
        for link in {l for l in f['links'] if l.startswith(visit.base)}:
            url, anchor = urldefrag(link)
            if url == visit.base: url += 'index.html'
            file = site/url.removeprefix(visit.base)
            visit.check(file.is_file(), f'no page behind {link.removeprefix(visit.base)}')
            if anchor and url in known:
                visit.check(anchor in known[url], f'no anchor behind {link.removeprefix(visit.base)}')

searches = ['fit_one_cycle', 'lr_find', 'predict', 'export', 'Learner', 'mixup', 'Adam', 'Checkpoint',
            'accuracy', 'get_data', 'momentum_step', 'images_from_folder']

def search_works(visit):
    "Search puts the definition first: its entry in the reference"
    for name in searches:
        page = visit.go(f'search.html?q={name}')
        page.wait_for_selector('#search-results li a', timeout=20_000)
        first = page.locator('#search-results li a').first.get_attribute('href')
        anchor = urldefrag(first)[1].lower()
        visit.check(anchor.endswith(f'.{name.lower()}'), f'first is {first}')

def reference_whole(visit):
    "Every entry has a signature and a source; methods of patched classes are there, with their parameters"
    page = visit.go('reference/training/schedule.html')
    entry = page.locator('dl.py', has=page.locator('[id="imagenette_train.callbacks.Learner.fit_one_cycle"]'))
    text = entry.inner_text()
    visit.check('lr_max' in text and 'pct_start' in text and '0.25' in text, 'no signature of fit_one_cycle')
    visit.check('share of training before the peak' in text, 'no docments of fit_one_cycle')
    visit.check(entry.locator('a', has_text='source').count() == 1, 'no source of fit_one_cycle')
    page = visit.go('reference/optim/variants.html')
    visit.check(not page.locator('article h2').count(), 'a docstring that has become a heading')
    visit.check(b'Sphinx inventory' in (site/'objects.inv').read_bytes()[:40], 'no objects.inv')

# what a newcomer looks for -> links, one after the other, by what they say
ways = {'the course': ['00_optimizer'], 'own images': ['vision/datasets'], 'an exercise': ['a step of SGD'],
        'fit_one_cycle': ['Reference', 'fit_one_cycle'], 'the table': ['05_baseline']}

def ways_lead_on(visit):
    "From the first page to what a newcomer looks for"
    for what,links in ways.items():
        page = visit.go('index.html')
        for text in links:
            link = page.get_by_role('link', name=text, exact=True).first
            if not link.count(): visit.note(f'no link {text!r} on the way to {what}')
            else: page.goto(urljoin(page.url, link.get_attribute('href')))
    page = visit.go('index.html')
    text = page.locator('article').first.inner_text()
    visit.check('make lab' in text, 'how to install is not on the first page')
    visit.check(page.locator('figure.moving canvas').count() > 0, 'no moving figure on the first page')

def shared_well(visit, names):
    "Each page has a description and its own address; there is a map of the site, and a page for lost readers"
    for name in names:
        visit.where, text = name, (site/name).read_text(encoding='utf-8')
        for what in ('name="description"', 'property="og:title"', 'rel="canonical"'):
            visit.check(what in text, f'no {what}')
    listed = (site/'sitemap.xml').read_text(encoding='utf-8')
    for name in names: visit.check(f'/{name}</loc>' in listed, 'not in the sitemap')
    visit.check((site/'404.html').is_file(), 'no 404.html')

def answers_open(visit):
    page = visit.go('optimizer.html')
    answer = page.locator('details', has=page.locator('summary', has_text='Question')).first
    inside = answer.locator(':scope > p').first
    visit.check(not inside.is_visible(), 'the answer is open before it is asked for')
    answer.locator('summary').click()
    visit.check(inside.is_visible(), 'a folded answer does not open')

def formulas_typeset(visit):
    page = visit.go('adam.html')
    page.wait_for_selector('mjx-container', timeout=20_000)
    visit.check(page.locator('mjx-merror').count() == 0, 'a formula that MathJax cannot read')

def looked_at(browser, base, names, folder):
    "Pictures of every page, for a person"
    for scheme in ('light', 'dark'):
        for size,how in dict(wide=wide, narrow=narrow).items():
            visit = Visit(browser, base, viewport=how, color_scheme=scheme)
            for name in names:
                page = visit.go(name)
                page.wait_for_timeout(300)
                page.screenshot(path=folder/f'{Path(name).stem}-{size}-{scheme}.png', full_page=True)

def walk(browser, base, names):
    "What is wrong, over all pages"
    desk = Visit(browser, base, viewport=wide)
    seen = {name: desk.go(name).evaluate(facts) for name in names}
    for name,f in seen.items():
        desk.where = name
        desk.check(f['title'], 'no title')
        for src in f['mute']: desk.note(f'no alt text: {src[-60:]}')
        for text in f['raw']: desk.note(f'a link that is none: {text[:80]}')
    links_lead_somewhere(desk, seen)
    for check in (search_works, reference_whole, ways_lead_on, answers_open, formulas_typeset): check(desk)
    shared_well(desk, names)
    phone = Visit(browser, base, viewport=narrow, is_mobile=True, has_touch=True)
    for name in names:
        for what in phone.go(name).evaluate(too_wide): phone.note(f'wider than a phone: {what}')
    return desk.wrong + phone.wrong

def main():
    names = sorted(p.relative_to(site).as_posix() for p in site.rglob('*.html')
                   if p.stem not in ('genindex', 'py-modindex', 'search', '404') and '_static' not in p.parts)
    if not names: sys.exit(f'{site.name}/ holds no page: run `make docs` first')
    base = serve()
    with open_browser() as browser:
        if sys.argv[1:]:
            folder = Path(sys.argv[1])
            folder.mkdir(parents=True, exist_ok=True)
            return looked_at(browser, base, names, folder)
        wrong = walk(browser, base, names)
    print(*sorted(set(wrong)), f'{len(names)} pages, {len(set(wrong))} things wrong', sep='\n')
    sys.exit(bool(wrong))

if __name__ == '__main__': main()
