# The verbs of the README. `make quickstart` and `make test` install everything they need into .venv first.
PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed.stamp
RAY := .venv-ray
UNFINISHED := $(VENV)/install.unfinished
# What an installation depends on: the two files that pin it and the folder that the editable install points to.
WANTED := $(shell cat pyproject.toml constraints.txt | cksum | tr ' ' '-')-$(CURDIR)
MODEL ?= runs/quickstart/model
CLIPS ?= $(wildcard runs/quickstart/videos/test)
PYTEST_ARGS ?=

.PHONY: quickstart test proofs lint library ray bench demo frame-order towers clean install

quickstart: install  ## narrated toy videos -> corpus -> training -> scores -> a model folder (QUICK=1: a smoke run)
	$(BIN)/cosmo quickstart $(if $(filter-out 0,$(QUICK)),--quick)

test: lint  ## what CI runs: format, lint, types, tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m "not proof" $(PYTEST_ARGS)

proofs: install  ## the tests that take minutes, which `make test` leaves out
	OMP_NUM_THREADS=1 $(BIN)/pytest -m proof $(PYTEST_ARGS)

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

library: install  ## transformers' own tests on our classes, fetched from the package index (once there, part of `make test`)
	$(BIN)/python tests/library/fetch_suite.py
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m library $(PYTEST_ARGS)

ray: install  ## the engines on a Ray cluster of two nodes here; Ray goes into an environment beside .venv that reads it
	test -x $(RAY)/bin/python || $(PYTHON) -m venv $(RAY)
	echo "import site; site.addsitedir('$$($(BIN)/python -c 'import site; print(site.getsitepackages()[0])')')" > \
	  "$$($(RAY)/bin/python -c 'import site; print(site.getsitepackages()[0])')/beside.pth"
	$(RAY)/bin/python -m pip install -q -c constraints.txt 'ray[data]'
	OMP_NUM_THREADS=1 $(RAY)/bin/python -m pytest tests/dataset_builder/test_engine_ray.py $(PYTEST_ARGS)

bench: install  ## speeds of the parts on this machine
	set -e; for name in bench_pipeline bench_search model loading data; do \
	  $(BIN)/python -m benchmarks.$$name; \
	done

demo: install  ## the Gradio page on the quickstart's model (MODEL=DIR, CLIPS=DIR)
	$(BIN)/cosmo demo --model $(MODEL) $(if $(CLIPS),--clips $(CLIPS))

frame-order: install  ## trains the second model, without frame positions, and completes results.json
	$(BIN)/cosmo quickstart --frame-order

towers: install  ## trains the toy towers again from nothing (hours on 2 cores)
	$(BIN)/cosmo toy towers --output runs/towers

# Safe twice in a row: nothing happens while the stamp says what is wanted. Safe after a kill: the stamp is written
# last, and an installation that never came to its end is started from an empty environment.
install:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "CosMo needs Python 3.11 or newer, '$(PYTHON)' is not: name one with make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@if [ "$$(cat $(STAMP) 2>/dev/null)" != "$(WANTED)" ] || ! $(BIN)/python -c '' 2>/dev/null; then \
	  set -e; rm -f $(STAMP); \
	  if [ -e $(UNFINISHED) ] || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	    $(PYTHON) -m venv --clear $(VENV); \
	  fi; \
	  touch $(UNFINISHED); \
	  $(BIN)/python -m pip install -c constraints.txt -e '.[all]' || { rm -f $(UNFINISHED); exit 1; }; \
	  printf '%s\n' "$(WANTED)" > $(STAMP).new; rm -f $(UNFINISHED); mv $(STAMP).new $(STAMP); \
	fi

clean:  ## removes the environment, caches and runs
	rm -rf $(VENV) $(RAY) .library-tests runs build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .coverage htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
