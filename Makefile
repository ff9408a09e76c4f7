# Everything from a bare clone: `make lab`, `make demo`, `make test`. Works with GNU make 3.81 and later.
PYTHON ?= python3
VENV   ?= .venv
PY      = $(VENV)/bin/python
STAMP   = $(VENV)/.stamp
README ?= README.md
DEMO   ?= runs/demo
JOBS   ?= 2
LAB    ?=

.DEFAULT_GOAL := help
.PHONY: help env lab demo test test-slow variations docs notebooks readme hooks clean

help:       ## say what there is to make
	@sed -n 's/^\([a-z-]*\): .*## /  make \1|/p' Makefile | awk -F'|' '{printf "%-20s%s\n", $$1, $$2}'

env: $(STAMP) ## create .venv and install vicmae with everything needed to work on it

$(STAMP): settings.ini setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo \
	  "vicmae needs Python 3.10 or later; say which with: make PYTHON=/path/to/python3" >&2; exit 1; }
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PY) -c 'import pip, sys; sys.exit(int(pip.__version__.split(".")[0]) < 23)' \
	  || $(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet --editable '.[dev]'
	@touch $(STAMP)

lab: $(STAMP) ## open JupyterLab on the notebooks, in .venv (LAB="--no-browser --port 8899")
	JUPYTER_PREFER_ENV_PATH=1 $(PY) -m jupyterlab --ServerApp.root_dir="$(CURDIR)" \
	  --LabApp.default_url=/lab/tree/nbs/index.ipynb $(LAB)

demo: $(STAMP) ## pretrain the debug recipe on data_samples/ and say where the results lie
	$(VENV)/bin/vicmae pretrain --recipe debug --data data_samples --out $(DEMO) --resume
	$(VENV)/bin/vicmae attend $(DEMO) data_samples/clips/star --out $(DEMO)
	@echo
	@echo "What the demo left (it learns nothing general: a few clips, a few minutes):"
	@find $(DEMO) -type f \( -name '*.safetensors' -o -name '*.jsonl' -o -name '*.png' \) \
	  | sort | sed 's/^/  /'

test: $(STAMP) ## run every check: notebooks, tests, ruff, wheel, sizes
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n $(JOBS) --maxschedchunk 1 \
	  -m 'not slow' --durations 25 tests

test-slow: $(STAMP) ## the tests that take long, before a release
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n $(JOBS) --maxschedchunk 1 \
	  -m slow --durations 25 tests

variations: $(STAMP) ## tests that a machine could change, in several ways (LANES="busy oldest")
	$(PY) tests/tools/variations.py $(LANES)

docs: $(STAMP) ## build the site in _docs/: notebooks with their pictures, API, search
	$(PY) docs/build.py

notebooks: $(STAMP) ## clean and format the notebooks, put in badges, export their modules
	$(PY) -c 'import glob; from vicmae.look.canvas import keep_pictures as keep; \
	  [keep(name) for name in glob.glob("nbs/*.ipynb")]'
	$(VENV)/bin/nbdev_clean
	$(PY) docs/badges.py
	$(PY) docs/style.py
	$(VENV)/bin/nbdev_export

readme: $(STAMP) ## write README.md from nbs/index.ipynb
	$(PY) -m nbconvert --log-level WARN --to markdown --TemplateExporter.exclude_output=True \
	  --stdout nbs/index.ipynb > $(README).part
	sed -e 's#](\.\./#](#g' -e 's#href="\.\./#href="#g' -e 's#src="\.\./#src="#g' \
	  $(README).part > $(README)
	rm $(README).part

hooks: $(STAMP) ## let git merge notebooks cell by cell (once per clone)
	git config merge.nbdev-merge.name "cell by cell"
	git config merge.nbdev-merge.driver "$(CURDIR)/$(VENV)/bin/nbdev_merge %O %A %B %P"

clean: ## remove .venv and everything that is built (runs/ stays)
	rm -rf $(VENV) build dist _docs _proc .pytest_cache .ruff_cache *.egg-info
	find nbs vicmae tests -name __pycache__ -type d -prune -exec rm -rf {} +
