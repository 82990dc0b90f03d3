# make demo: the whole job on the bundled synthetic dataset.   make test: lint, types, tests.
# make test-lowest: the tests with the lowest versions that pyproject.toml declares, in .venv-lowest.
# make docs: the documentation as a site, in build/site.
# Each makes its environment and installs into it once; a second call installs nothing. The demo doesn't wait for
# the tools of the others.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PACKAGE := $(VENV)/.installed-package

LOWEST := .venv-lowest
# One process per logical core (`auto` would count physical ones); a file's tests share its fixtures, so stay together,
# and in the order of the folders: with the files of fewest tests last, one process would end with the longest tests.
PYTEST := pytest -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder

.PHONY: demo docs test lint types unit test-lowest check-python clean

demo: $(PACKAGE)
	$(BIN)/hybrid demo

docs: $(STAMP)
	$(BIN)/mkdocs build

test: lint
	@$(MAKE) --no-print-directory -j2 types unit

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

unit: $(STAMP)
	$(BIN)/$(PYTEST)

test-lowest: $(LOWEST)/.installed
	$(LOWEST)/bin/$(PYTEST)

check-python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "hybrid needs Python >= 3.11; $(PYTHON) is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }

$(PACKAGE): pyproject.toml | check-python
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[explain,serve]'
	touch $@

$(STAMP): pyproject.toml | check-python
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@ $(PACKAGE)

$(LOWEST)/.installed: pyproject.toml | check-python
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(PYTHON) scripts/lowest.py > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' -c $(LOWEST)/constraints.txt
	touch $@

clean:
	rm -rf $(VENV) $(LOWEST) build dist
