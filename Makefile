# make demo | test | test-all | lint | clean: each creates .venv first if it is missing
PYTHON ?= python3
BIN := .venv/bin
# One worker per core, each with one thread: small networks gain more from this than from threads.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -q -n auto

.PHONY: demo test test-all lint benchmarks clean

.venv/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -e '.[demo,dev]'
	touch $@

demo: .venv/installed
	$(BIN)/python -m sdkd_plugin demo

test: .venv/installed
	$(PYTEST) -m "not slow"

test-all: .venv/installed lint
	$(PYTEST) -ra

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

benchmarks: .venv/installed
	$(BIN)/python benchmarks/throughput.py

clean:
	rm -rf .venv build dist *.egg-info
