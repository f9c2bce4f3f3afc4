"""Turns the knobs of the pictures that move, in a real browser, and reads the numbers: `make browser-test`.

    python tools/browser_test.py           # notebooks as pages of HTML, light and dark, wide and narrow
    python tools/browser_test.py --lab     # and in JupyterLab, as a stranger's notebook and as one's own
    python tools/browser_test.py FOLDER    # instead: pictures of each

The numbers on the page are compared with the library's, computed here. The browser is Chromium: the system's,
or Playwright's own; where there is none, or no Playwright, the test says so and counts as skipped."""
import json, os, re, shutil, subprocess, sys, tempfile, time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from opening import name_of, notebooks as all_notebooks

root = Path(__file__).resolve().parent.parent
bin = Path(sys.executable).parent
wide, narrow = dict(width=1200, height=900), dict(width=390, height=844)
most_kb = 300 # of pictures that move in a notebook

# --- reading notebooks

def moving_bytes(path):
    "How many bytes the pictures that move take in a notebook, their still pictures included"
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    datas = [o.get('data', {}) for c in cells for o in c.get('outputs', ())]
    moving = [d for d in datas if 'class="moving"' in ''.join(d.get('text/html', ''))]
    return sum(len(''.join(text)) for d in moving for text in d.values())

def notebooks():
    "Notebooks with pictures that move -> bytes that these take"
    sizes = {p: moving_bytes(p) for p in all_notebooks()}
    return {p: n for p,n in sizes.items() if n}

def only_moving(path, to):
    "A notebook with nothing but the pictures that move"
    nb = json.loads(path.read_text(encoding='utf-8'))
    is_moving = lambda c: any('class="moving"' in ''.join(o.get('data', {}).get('text/html', ''))
                              for o in c.get('outputs', ()))
    to.write_text(json.dumps({**nb, 'cells': [c for c in nb['cells'] if is_moving(c)]}), encoding='utf-8')
    return to

def as_html(path, theme, folder, whole=False):
    "The notebook as nbconvert's page, in a folder; all of it, or only the pictures that move"
    from nbconvert import HTMLExporter
    page = folder/f'{path.stem}-{theme}.html'
    notebook = path if whole else only_moving(path, folder/path.name)
    page.write_text(HTMLExporter(theme=theme).from_filename(str(notebook))[0], encoding='utf-8')
    return page

# --- a browser

def browser_path():
    "The system's Chromium; None: Playwright's own"
    return next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)

@contextmanager
def open_browser():
    "Chromium; an error of Playwright if there is none"
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=browser_path(), args=['--no-sandbox'])
        yield browser
        browser.close()

def why_not():
    "Why the test cannot be run here; '' if it can"
    try:
        with open_browser(): return ''
    except ImportError: return 'Playwright is not installed'
    except Exception as e: return f'no browser: {str(e).splitlines()[0]}'

class Page:
    "A page, its errors, and what is wrong with it"
    def __init__(self, browser, size=wide, **how):
        self.page = browser.new_context(viewport=size, **how).new_page()
        self.wrong = []
        self.page.on('pageerror', lambda e: self.wrong.append(f'script: {e}'))
    def go_file(self, path):
        "Open a page of this machine; nothing is fetched from elsewhere"
        self.page.route('**/*', lambda r: r.continue_() if r.request.url.startswith('file:') else r.abort())
        self.page.goto(path.as_uri(), wait_until='domcontentloaded')
        return self.page.locator('figure.moving')
    def check(self, ok, what):
        if not ok: self.wrong.append(what)

def said(figure): return figure.locator('.said').text_content()
def number(text, name): return float(re.search(rf'{name} (\S+?)[.,;]?(\s|$)', text)[1])
def knob(figure, name): return figure.locator(f'input[aria-label="{name}"]')

def drag(page, slider, share):
    "Take the slider's thumb with the mouse to `share` of its way"
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    place = lambda s: (box['x'] + 8 + s*(box['width']-16), box['y'] + box['height']/2)
    was = slider.evaluate('e => e.value/e.max')
    page.mouse.move(*place(was))
    page.mouse.down()
    page.mouse.move(*place((was+share)/2))
    page.mouse.move(*place(share))
    page.mouse.up()

drawn = """c => { const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data, colours = new Set()
  for (let i = 0; i < d.length; i += 4) if (d[i+3] > 200) colours.add(d[i] << 16 | d[i+1] << 8 | d[i+2])
  return [...colours].length }"""
ink = """c => { const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data
  const grey = i => d[i+3] > 180 && Math.abs(d[i] - d[i+1]) < 9 && Math.abs(d[i] - d[i+2]) < 9
  let sum = 0, n = 0
  for (let i = 0; i < d.length; i += 4) if (grey(i)) { sum += d[i]; n++ }
  return sum/n }"""

# --- tests

def starts(browser, page, theme):
    "Every picture on a page is played: canvases with something on them, sliders with names, no error"
    at = Page(browser)
    figures = at.go_file(page)
    for figure in figures.all():
        name = figure.locator('figcaption').text_content()
        canvases = figure.locator('canvas')
        canvases.first.scroll_into_view_if_needed()
        at.check(figure.locator('img').count() == 0 and canvases.count(), f'{name}: not started')
        for c in canvases.all():
            at.check(c.evaluate(drawn) > 3, f'{name}: an empty canvas')
            at.check(c.get_attribute('aria-label'), f'{name}: a canvas without words')
            bright = c.evaluate(ink)
            fits = bright > 150 if theme == 'dark' else bright < 120
            at.check(fits, f'{name}: ink {bright:.0f} on {theme}')
        for s in figure.locator('input').all():
            named = s.get_attribute('aria-label') and s.get_attribute('aria-valuetext')
            at.check(named, f'{name}: a nameless slider')
    return [f'{page.stem}: {o}' for o in at.wrong]

def answers(browser, page, theme, size):
    "Knobs, keys, buttons and the map move the numbers, and these are the library's"
    from imagenette_train.momentum import SGD
    from imagenette_train.course.toy_problems import descent_path
    at = Page(browser, size)
    figure = at.go_file(page).first
    def compare(what):
        "Is the distance on the page that of the library?"
        text = said(figure)
        lr, mom, step = number(text, 'lr'), number(text, 'mom'), int(number(text, 'step'))
        true = descent_path(partial(SGD, lr=lr, mom=mom))[step].norm().clamp(min=1e-6).item()
        right = true > 10 if 'out of range' in text else abs(number(text, 'distance')/true - 1) < 0.01
        at.check(right, f'{what}: {text}, but the library says {true:.3g}')
        shown = figure.locator('td').last.text_content()
        at.check(f'distance {shown}.' in text, f'{what}: the table says {shown}, the sentence {text}')
        return text
    texts = [compare('at first')]
    for name,share in (('lr', 0.2), ('mom', 0.9), ('step', 0.5)):
        drag(at.page, knob(figure, name), share)
        texts.append(compare(f'{name} dragged'))
    for key in ('ArrowRight', 'Home', 'End'): # on a slider: its own
        knob(figure, 'lr').press(key)
        texts.append(compare(f'{key} on a slider'))
    knob(figure, 'lr').press('ArrowLeft')
    canvas = figure.locator('canvas')
    canvas.first.focus()
    for key in ('Home', 'ArrowRight', 'ArrowRight', 'ArrowLeft', 'End'): # on a picture: the step
        at.page.keyboard.press(key)
        texts.append(compare(f'{key} on a picture'))
    figure.get_by_role('button', name='one step back').click()
    texts.append(compare('a step back'))
    box = canvas.nth(1).bounding_box()
    canvas.nth(1).click(position=dict(x=box['width']*0.4, y=box['height']*0.6))
    texts.append(compare('a click on the map'))
    same = [b for a,b in zip(texts, texts[1:]) if a == b]
    at.check(not same, f'something did not change: {same}')
    plays(at, figure, canvas)
    return [f'{page.stem}, {size["width"]} px: {o}' for o in at.wrong]

def plays(at, figure, canvas):
    "Space plays from where it is, and stops"
    canvas.first.focus()
    at.page.keyboard.press('Home')
    at.page.keyboard.press(' ')
    moved = 'f => !f.querySelector(".said").textContent.startsWith("step 0")'
    at.page.wait_for_function(moved, arg=figure.element_handle())
    at.page.keyboard.press(' ')
    stopped = said(figure)
    at.page.wait_for_timeout(400)
    at.check(said(figure) == stopped, 'it plays on after a pause')
    at.check('step 0 ' not in stopped, 'it does not play')

def snaps(browser, page):
    "A click beside the grid of starts takes the nearest; two pictures on a page do not touch each other"
    at = Page(browser)
    figures = at.go_file(page)
    first, other = figures.nth(0), said(figures.nth(1))
    canvas = first.locator('canvas').first
    box = canvas.bounding_box()
    canvas.click(position=dict(x=box['width']*0.75, y=box['height']*0.3))
    at.check(re.search(r'start along 1\.5, start across 1\b', said(first)), f'a click: {said(first)}')
    at.check(said(figures.nth(1)) == other, 'a click in one picture moves another')
    return [f'{page.stem}: {o}' for o in at.wrong]

def steps_through(browser, page):
    "The stepper of a batch shows what was recorded, by buttons and by keys, and cancels where it is told to"
    from imagenette_train.course.batch_stepper import batch_stepper
    at, traces = Page(browser), batch_stepper().traces
    at.go_file(page)
    figure = at.page.locator('figure.stepper')
    press = lambda name: figure.get_by_role('button', name=name, exact=True).click()
    def compare(name, step):
        "Is this line of trace `name` lit, with its numbers?"
        o, lit = traces[name][step], figure.locator('tr.now td')
        shown = [lit.nth(i).text_content().strip() for i in range(lit.count())]
        at.check(shown == [o['text'].partition(' #')[0], o['note'], *o['values']], f'{name}, {step}: {shown}')
    compare('as usual', 0)
    for step in (1, 2, 3):
        press('one line on')
        compare('as usual', step)
    at.page.keyboard.press('End')
    compare('as usual', -1)
    press('to the first line')
    to_loss = [o['event'] for o in traces['as usual']].index('after_loss')
    for _ in range(to_loss): at.page.keyboard.press('ArrowRight')
    for button,name in (('a callback raises CancelBatchException at this event', 'cancel in after_loss'),
                        ('the loss becomes NaN', 'NaN')):
        press(button)
        at.page.keyboard.press('End')
        compare(name, -1)
        press('nothing happens')
        at.page.keyboard.press('Home')
        for _ in range(to_loss): at.page.keyboard.press('ArrowRight')
    return [f'{page.stem}: {o}' for o in at.wrong]

def stays_still(browser, page):
    "Without scripts there is the picture and the sentence"
    at = Page(browser, java_script_enabled=False)
    figure = at.go_file(page).first
    at.check(figure.locator('img').is_visible() and figure.locator('canvas').count() == 0, 'no still picture')
    at.check(figure.locator('.said').is_visible(), 'no sentence')
    return [f'{page.stem}, no scripts: {o}' for o in at.wrong]

def turns_dark(browser, page):
    "The ink follows the page's colours when they change"
    at = Page(browser)
    canvas = at.go_file(page).first.locator('canvas').first
    canvas.scroll_into_view_if_needed()
    light = canvas.evaluate(ink)
    at.page.evaluate("""() => {
      const style = document.createElement('style')
      style.textContent = '[data-theme=dark] * { color: #eee !important; background: #111 !important }'
      document.head.append(style); document.body.dataset.theme = 'dark' }""")
    at.page.wait_for_timeout(600)
    dark = canvas.evaluate(ink)
    at.check(light < 120 and dark > 150, f'ink {light:.0f} and {dark:.0f}')
    return [f'{page.stem}, theme changed: {o}' for o in at.wrong]

def too_large():
    "Pictures that move take at most 300 KB in a notebook"
    return [f'{p.stem}: {n//1024} KB' for p,n in notebooks().items() if n > most_kb*1024]

# --- JupyterLab

def settings(folder, theme):
    "JupyterLab's settings: a theme, and no questions about news"
    own = folder/'settings'/'@jupyterlab'/'apputils-extension'
    own.mkdir(parents=True, exist_ok=True)
    (own/'themes.jupyterlab-settings').write_text(json.dumps(dict(theme=f'JupyterLab {theme.title()}')))
    quiet = dict(fetchNews='false', checkForUpdates=False)
    (own/'notification.jupyterlab-settings').write_text(json.dumps(quiet))

@contextmanager
def jupyterlab(folder):
    "A JupyterLab on `folder`; gives its address"
    cmd = [bin/'jupyter', 'lab', '--no-browser', '--allow-root', '--ServerApp.port=0',
           '--IdentityProvider.token=', f'--ServerApp.root_dir={folder}']
    # its signatures of trusted notebooks, its settings: all in the folder
    own = dict(JUPYTER_DATA_DIR=f'{folder}/data', JUPYTERLAB_SETTINGS_DIR=f'{folder}/settings')
    os.environ.update(own)
    server = subprocess.Popen(cmd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try: yield next(filter(None, (re.search(r'http://[^/\s]+:\d+/', line) for line in server.stderr)))[0]
    finally:
        server.terminate()
        server.wait()
        for k in own: os.environ.pop(k)

def in_lab(browser, path, folder):
    "A stranger's notebook keeps the still picture; one's own plays, in light and dark, and keeps the keys"
    at, notebook = Page(browser), only_moving(path, folder/path.name)
    settings(folder, 'light')
    with jupyterlab(folder) as address:
        def open_it():
            at.page.goto(f'{address}lab/tree/{notebook.name}?reset', wait_until='domcontentloaded')
            figure = at.page.locator('.jp-Notebook figure.moving').first
            figure.wait_for(timeout=120_000)
            return figure
        stranger = open_it()
        still = stranger.locator('canvas').count() == 0 and stranger.locator('img').is_visible()
        at.check(still, "a stranger's scripts ran, or there is no picture")
        subprocess.run([bin/'jupyter', 'trust', notebook], check=True, capture_output=True)
        for theme in ('light', 'dark'):
            settings(folder, theme)
            figure = open_it()
            played_in_lab(at, figure, theme)
    return [f'{path.stem} in JupyterLab: {o}' for o in at.wrong]

def played_in_lab(at, figure, theme):
    "A slider and keys move the number, and the ink is to be seen"
    canvas = figure.locator('canvas').first
    canvas.wait_for(timeout=60_000)
    at.page.wait_for_timeout(600)
    bright = canvas.evaluate(ink)
    at.check(bright > 150 if theme == 'dark' else bright < 120, f'ink {bright:.0f} on {theme}')
    texts = [said(figure)]
    drag(at.page, knob(figure, 'lr'), 0.3)
    texts.append(said(figure))
    for key in ('ArrowLeft', 'ArrowLeft', 'Home'):
        if key == 'ArrowLeft': canvas.focus()
        at.page.keyboard.press(key)
        texts.append(said(figure))
    same = [b for a,b in zip(texts, texts[1:]) if a == b]
    at.check(not same, f'something did not change: {same}')

# --- all of it

def pictures(browser, folder):
    "Pictures of each picture, in `folder`"
    with tempfile.TemporaryDirectory() as tmp:
        for path in notebooks():
            for theme in ('light', 'dark'):
                page = as_html(path, theme, Path(tmp))
                for size in (wide, narrow):
                    for i,figure in enumerate(Page(browser, size).go_file(page).all()):
                        figure.scroll_into_view_if_needed()
                        figure.screenshot(path=folder/f'{page.stem}-{size["width"]}-{i}.png')

def tests(browser, folder, lab=False):
    "Name of each test and what it finds wrong"
    yield 'size', too_large()
    momentum = root/'nbs'/'01_momentum.ipynb'
    moved = {theme: as_html(momentum, theme, folder, whole=True) for theme in ('light', 'dark')}
    yield 'numbers, light and wide', answers(browser, moved['light'], 'light', wide)
    yield 'numbers, dark and narrow', answers(browser, moved['dark'], 'dark', narrow)
    yield 'every picture on a dark page', starts(browser, moved['dark'], 'dark')
    for path in notebooks():
        html = moved['light'] if path == momentum else as_html(path, 'light', folder)
        yield f'every picture of {path.stem}', starts(browser, html, 'light')
        if name_of(path) == 'course/optimizer_race': yield 'clicks', snaps(browser, html)
    stepper = as_html(root/'nbs'/'course'/'batch_stepper.ipynb', 'light', folder, whole=True)
    yield 'a batch, line by line', steps_through(browser, stepper)
    yield 'no scripts', stays_still(browser, moved['light'])
    yield 'a theme that changes', turns_dark(browser, moved['light'])
    if lab: yield 'JupyterLab', in_lab(browser, momentum, folder)

def main():
    skipped = why_not()
    if skipped: return print(f'0 passed, 0 failed, 1 skipped: {skipped}')
    args, began, passed, failed = sys.argv[1:], time.perf_counter(), 0, 0
    with open_browser() as browser, tempfile.TemporaryDirectory() as tmp:
        if args and args[0] != '--lab': return pictures(browser, Path(args[0]))
        for name,wrong in tests(browser, Path(tmp), lab=bool(args)):
            print(f"{'FAILED' if wrong else 'ok':>7}  {name}", *wrong, sep='\n           ', flush=True)
            passed, failed = passed + (not wrong), failed + bool(wrong)
    print(f'{passed} passed, {failed} failed, 0 skipped, {time.perf_counter()-began:.0f} s')
    sys.exit(bool(failed))

if __name__ == '__main__': main()
