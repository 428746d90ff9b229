# make setup       make .venv/ with everything the study needs
# make reproduce   set up if needed, carry out the paper's experiments, write results/local/quick/, compare with results/quick/
# make everything  the same, the k-sparse rows as printed, the rows that only we have, the notebooks of make beyond
# make beyond      the notebooks that go beyond the paper: inside a network, theory, α, dead units, known atoms, the family
# make norb        Figure 2 and Tables 2 and 4 on the stand-in for NORB
# make test        set up if needed, run every check that CI runs
# make lab         set up if needed, open JupyterLab on the notebooks
# make bench       measure speed again on an idle machine, write benchmarks/results/ and docs/speed.md (20 minutes)
# make demo        open the first notebook and the explorer in a browser, with nothing to train
# make site        build the documentation, the explorer and the page of units into results/local/site/
# make report      rewrite tables and README numbers from the stored runs
# make clean       remove what set-up made

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
SITE_READY := .venv/.site-ready
# Two processes with one thread each.
ALONE := OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(BIN)/python
BY_TWO := --numprocesses 2 --dist loadfile --no-loadscope-reorder
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable
PAPER := figure1,one_digit,figure3,figure4,table1,table3
BEYOND := inside,theory,alpha,dead_units,ground_truth,family
STAND_IN := toy_norb_figure2,toy_norb_table2,toy_norb_table4

.PHONY: setup reproduce everything beyond norb test lab bench demo site report lint notebooks fresh citation clean

setup: $(READY)

reproduce: $(READY)
	$(BIN)/ksae reproduce --only $(PAPER)

everything: $(READY)
	$(BIN)/ksae reproduce

beyond: $(READY)
	$(BIN)/ksae reproduce --only $(BEYOND)

norb: $(READY)
	$(BIN)/ksae reproduce --only $(STAND_IN)

test: $(SITE_READY)
	$(MAKE) --jobs=2 notebooks lint fresh citation
	$(ALONE) -m pytest $(BY_TWO)

# The committed executed notebooks, executed again at smoke size into an empty folder, must say the same.
notebooks: $(READY)
	results=$$(mktemp -d) && KSAE_RESULTS=$$results KSAE_EVIDENCE=$$results $(ALONE) -m pytest $(BY_TWO) -p tests.nbval_numbers --nbval --nbval-sanitize-with tests/nbval_sanitize.cfg --nbval-cell-timeout 300 results/smoke/notebooks; status=$$?; rm -rf "$$results"; exit $$status

lab: $(READY)
	$(BIN)/jupyter lab notebooks

bench: $(READY)
	for name in engines encoding readout; do $(BIN)/python -m benchmarks $$name --output benchmarks/results/$$name.json || exit; done
	$(BIN)/python -m benchmarks engines --task norb --output benchmarks/results/engines_norb.json
	$(BIN)/python -m benchmarks scaling --output benchmarks/results/scaling.json --plot benchmarks/results/scaling.png
	$(MAKE) report

demo: $(READY)
	$(BIN)/python -m explorer.build --out results/local/explorer.html
	$(BIN)/jupyter nbconvert --log-level WARN --to html --template classic --output-dir results/local results/quick/notebooks/00_one_digit.ipynb
	for page in 00_one_digit explorer; do $(BIN)/python -m webbrowser "file://$(CURDIR)/results/local/$$page.html"; done
	@echo "Open results/local/00_one_digit.html and results/local/explorer.html where no browser opened."

# -W makes every warning, such as a link that leads nowhere, an error.
site: $(SITE_READY)
	$(BIN)/sphinx-build -W --keep-going --quiet -c docs -d results/local/.doctrees . results/local/site
	@echo "Open results/local/site/index.html."

report: $(READY)
	$(BIN)/ksae report --update-evidence --profile smoke,quick,paper,search

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Committed tables, README numbers and executed notebooks must be what the committed runs and sources give.
fresh: $(READY)
	$(BIN)/ksae report --check --profile smoke,quick,paper,search

# In an environment of its own: it needs an older jsonschema than JupyterLab does.
citation: .venv-citation/.ready
	.venv-citation/bin/cffconvert --validate

# pip compiles on one core, and the packages' tests too. What is written for other versions of Python does not compile.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(INSTALL) '.[replication,test]' --no-compile
	$(BIN)/python -m compileall -qq -j 0 -x /tests/ .venv/lib || true
	touch $@

# Only the site needs Sphinx and its theme: who reproduces the study does not wait for them.
$(SITE_READY): $(READY)
	$(INSTALL) '.[site]'
	touch $@

.venv-citation/.ready: Makefile
	$(PYTHON) -m venv .venv-citation
	.venv-citation/bin/python -m pip install --quiet --disable-pip-version-check 'cffconvert==2.0.0' 'ruamel.yaml>=0.18' 'docopt>=0.6'
	touch $@

clean:
	rm -rf .venv .venv-citation
