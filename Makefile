# make reproduce   set up if needed, train every row and figure of the paper's experiments, write results/quick/
# make everything  the same and the rows beyond the paper
# make test        set up if needed, run every check that CI runs
# make lab         set up if needed, open JupyterLab on the notebooks
# make report      rewrite tables, figures and README numbers from the stored runs

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
PROFILE ?= quick
PAPER := filters,features,finetuning,activities,norb_filters,norb_features,norb_finetuning,patches

.PHONY: reproduce everything test lab report lint notebooks fresh citation clean

reproduce: $(READY)
	$(BIN)/ksae reproduce --profile $(PROFILE) --only $(PAPER)

everything: $(READY)
	$(BIN)/ksae reproduce --profile $(PROFILE)

test: lint fresh citation notebooks $(READY)
	$(BIN)/python -m pytest

# The committed executed notebooks, executed again at smoke size into an empty folder, must say the same.
notebooks: $(READY)
	results=$$(mktemp -d) && KSAE_RESULTS=$$results $(BIN)/python -m pytest --nbval --nbval-sanitize-with tests/nbval_sanitize.cfg --nbval-cell-timeout 300 results/smoke/notebooks; status=$$?; rm -rf "$$results"; exit $$status

lab: $(READY)
	$(BIN)/jupyter lab notebooks

report: $(READY)
	$(BIN)/ksae report --profile quick
	$(BIN)/ksae report --profile paper
	$(BIN)/ksae report --profile search

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Committed tables, README numbers and executed notebooks must be what the committed runs and sources give.
fresh: $(READY)
	$(BIN)/ksae report --check --profile smoke
	$(BIN)/ksae report --check --profile quick
	$(BIN)/ksae report --check --profile paper
	$(BIN)/ksae report --check --profile search

# In an environment of its own: it needs an older jsonschema than JupyterLab does.
citation: .venv-citation/.ready
	.venv-citation/bin/cffconvert --validate

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[replication,test]'
	touch $@

.venv-citation/.ready: Makefile
	$(PYTHON) -m venv .venv-citation
	.venv-citation/bin/python -m pip install --quiet --disable-pip-version-check 'cffconvert==2.0.0' 'ruamel.yaml>=0.18' 'docopt>=0.6'
	touch $@

clean:
	rm -rf .venv .venv-citation .snakemake
