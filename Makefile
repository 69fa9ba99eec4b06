# A fresh machine needs Python 3.11, pip and make. These may be set: `make test PYTHON=python3.12 VENV=/tmp/venv WORKERS=8`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
WORKERS ?= 2
BIN = $(VENV)/bin
PYTEST = $(BIN)/python -m pytest

.PHONY: help demo test quick test-all coverage lint format types docs picture lock clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | awk -F '|' '{printf "%-10s %s\n", $$1, $$2}'

demo: $(VENV)/.installed  ## set up, run the five stages on handwritten digits, show the report
	$(BIN)/compress run recipes/digits.yaml

test: $(VENV)/.installed  ## set up, run the tests
	$(PYTEST) -n $(WORKERS) --dist loadfile

quick: $(VENV)/.installed  ## tests that take under 30 seconds together
	$(PYTEST) -n $(WORKERS) --dist loadfile tests/losses tests/statistics tests/report tests/pruning/test_*.py tests/test_rooms.py \
	--ignore tests/report/test_own_task.py --ignore tests/report/test_whole_run.py --ignore tests/losses/test_crd.py \
	--ignore tests/statistics/test_scores.py

test-all: $(VENV)/.installed  ## the slow tests and benchmarks too
	$(PYTEST) -m "slow or not slow"

coverage: $(VENV)/.installed  ## the tests, and which lines they reach
	$(PYTEST) -n $(WORKERS) --dist loadfile --cov=compress_cli --cov-report=term-missing:skip-covered

lint: $(VENV)/.installed types  ## lint, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.installed  ## format and sort imports
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.installed  ## mypy, strict
	$(BIN)/mypy

docs: $(VENV)/.installed  ## write the reference pages and build the site in build/docs
	$(BIN)/python docs/reference.py
	$(BIN)/python -m sphinx -q -W -b html docs build/docs

picture: $(VENV)/.installed  ## the picture of the report in the README, from the run of `make demo`
	$(BIN)/python docs/picture.py runs/digits docs/report.svg

$(VENV)/.installed: .ci/lock.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r .ci/lock.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

# Exact versions from what is installed now; CUDA's libraries exist for Linux only, backports for older Pythons.
lock: $(VENV)/.installed  ## write .ci/lock.txt from what is installed
	$(BIN)/pip freeze --exclude-editable \
	| sed -E -e '/^(nvidia|cuda|triton)/s/$$/; sys_platform == "linux"/' -e '/^backports/s/$$/; python_version < "3.14"/' \
	> .ci/lock.txt

clean:  ## remove the environment, runs and caches
	rm -rf $(VENV) runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache .coverage
