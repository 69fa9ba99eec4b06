# A fresh machine needs Python 3.11, pip and make. These may be set: `make test PYTHON=python3.12 VENV=/tmp/venv WORKERS=8`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
WORKERS ?= 2
BIN = $(VENV)/bin

.PHONY: demo test test-all lint lock clean

demo: $(VENV)/.installed
	$(BIN)/compress run recipes/digits.yaml

test: $(VENV)/.installed
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

test-all: $(VENV)/.installed
	$(BIN)/python -m pytest -m "slow or not slow"

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/.installed: .ci/lock.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r .ci/lock.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

# Exact versions from what is installed now; CUDA's libraries exist for Linux only, backports for older Pythons.
lock: $(VENV)/.installed
	$(BIN)/pip freeze --exclude-editable \
	| sed -E -e '/^(nvidia|cuda|triton)/s/$$/; sys_platform == "linux"/' -e '/^backports/s/$$/; python_version < "3.14"/' \
	> .ci/lock.txt

clean:
	rm -rf $(VENV) runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache
