# `make demo` shows the project at work; `make test` is what CI runs. Both make their own .venv.

PYTHON ?= python3
BIN := .venv/bin
SOURCES := codellama index lsp cli tests benchmarks

.PHONY: demo test format clean

demo: .venv/installed
	@PYTHON=$(BIN)/python CODELLAMA=$(BIN)/codellama sh ./demo.sh

test: .venv/developed
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest

format: .venv/developed
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "codellama needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

.venv/developed: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[peers]' \
	    || echo "llama.cpp cannot be built here: tests that compare with it will say so."
	@touch $@ .venv/installed
