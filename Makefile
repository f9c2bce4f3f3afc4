# Every target needs only Python and git: the environment is made at the first call and reused after that.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin

.PHONY: help env reproduce test check style browser-test soak benchmarks gpu notebooks lab readme race docs docs-test clean
help:        ## this list
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

env: $(VENV)/.ready ## make the environment
$(VENV)/.ready: settings.ini setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

reproduce: env ## train the chapter's five runs and print its tables (ARGS='--profile chapter --seeds 3')
	$(BIN)/imagenette-train reproduce $(ARGS)

test: env    ## run every notebook's tests; check that export and clean change nothing
	$(BIN)/python tools/run_tests.py $(ARGS)

check: env   ## what takes longer than that: package, site, browser, a short soak, README's example
	$(BIN)/python tools/run_tests.py --tools

style: env   ## how long the course is, how large its cells are, and what both must keep
	$(BIN)/python tools/style.py

browser-test: env ## turn the knobs of the pictures that move in Chromium, on pages and in JupyterLab, and read the numbers
	$(BIN)/python tools/browser_test.py --lab

soak: env    ## kill, poison, question and confuse trainings for twenty minutes; results/soak.json
	$(BIN)/python tools/soak.py $(ARGS)

benchmarks: env ## measure steps, loops and the finder beside other libraries, for an hour; results/benchmarks/
	$(BIN)/python benchmarks/optimizer_step.py
	$(BIN)/python benchmarks/loop_overhead.py
	$(BIN)/python benchmarks/lr_find.py

gpu: env     ## eight minutes on one GPU: the tables with three seeds, others beside, checks (ARGS='--data DIR --minutes 30')
	$(BIN)/python tools/gpu.py $(ARGS)

notebooks: env ## run every notebook in a real kernel and save its outputs, cleaned (ARGS='00_optimizer 01_momentum' for some)
	$(BIN)/python tools/run_notebooks.py $(ARGS)

lab: env     ## open JupyterLab on the notebooks
	$(BIN)/jupyter lab nbs/index.ipynb

readme: env  ## fill the README's tables from the raw results
	$(BIN)/python tools/fill_readme.py

$(VENV)/.docs-ready: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	touch $@

race: env    ## draw the race that README shows; results/race.gif
	$(BIN)/python tools/race.py

docs: $(VENV)/.docs-ready ## make the site in _docs/ from the notebooks (PAGES='index 03_adam' for some)
	$(BIN)/python tools/pages.py $(PAGES)

docs-test: docs ## click through the site in Chromium: pages, links, pictures, a phone's width, search
	$(BIN)/python tools/test_site.py $(ARGS)

clean:       ## remove the environment and what was built; results in runs/ stay
	rm -rf $(VENV) build dist _docs _proc *.egg-info
