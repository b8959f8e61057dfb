# One word for each job. They run in .venv, which `make setup` makes; `make lint BIN=` takes the tools on PATH instead.
PYTHON ?= python3
VENV ?= .venv
BIN ?= $(VENV)/bin/
DIST ?= dist
PYTEST ?=

.PHONY: help setup fmt lint types test docs dist bench stale printed clean

help:
	@echo "setup fmt lint types test docs dist bench stale printed clean"

setup:
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -c constraints.txt -e '.[dev,docs]'

fmt:
	$(BIN)ruff check --fix .
	$(BIN)ruff format .

lint:
	$(BIN)ruff check .
	$(BIN)ruff format --check .
	$(BIN)lint-imports

types:
	$(BIN)mypy

test:
	$(BIN)python -m pytest -q -n auto --dist worksteal $(PYTEST)

docs:
	NO_MKDOCS_2_WARNING=1 $(BIN)mkdocs build --strict --quiet

# An sdist, a wheel made from it, and what is wrong with the wheel's contents.
dist:
	rm -rf $(DIST) build/lib build/bdist.*
	$(BIN)python -m build -q --outdir $(DIST) .
	$(BIN)check-wheel-contents $(DIST)/*.whl

bench:
	$(BIN)python benchmarks/accuracy.py

stale:
	$(BIN)python benchmarks/stale_results.py

# Reference pages of the options, and outputs of commands in README and the docs, as the code prints them today.
printed:
	$(BIN)python -m zsq_compile.cli.reference docs/reference
	$(BIN)python benchmarks/printed_output.py

# build/benchmarks stays: finished rows are hours of work.
clean:
	rm -rf build/lib build/bdist.* build/site $(DIST) *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
