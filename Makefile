# make demo | test | test-all | lint | clean: each creates .venv first if it is missing
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all lint benchmarks clean

.venv/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -e '.[demo,plots,dev]'
	touch $@

demo: .venv/installed
	$(BIN)/python -m sdkd_plugin demo

test: .venv/installed
	$(BIN)/pytest -q -m "not slow"

test-all: .venv/installed lint
	$(BIN)/pytest -q -ra

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

benchmarks: .venv/installed
	$(BIN)/python benchmarks/throughput.py

clean:
	rm -rf .venv build dist *.egg-info
