# make demo | test | test-all | lint | docs | lock | clean: each creates .venv first if it is missing
PYTHON ?= python3
BIN := .venv/bin
# One worker per core, each with one thread: small networks gain more from this than from threads.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -q -n auto

.PHONY: demo test test-all lint docs lock benchmarks clean

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

# The site: build/docs/index.html.
docs: .venv/installed
	$(BIN)/python -m sphinx -q -W --keep-going -c docs . build/docs

benchmarks: .venv/installed
	$(BIN)/python benchmarks/throughput.py

# What is pinned stays as it is; `make lock UPGRADE=--upgrade` takes the newest of everything.
lock: .venv/installed
	$(BIN)/pip install -q uv
	$(BIN)/uv pip compile -q setup.cfg --extra demo --extra timm --universal --python-version 3.11 \
		--generate-hashes --no-annotate --no-header --no-emit-index-url --no-emit-find-links \
		$(UPGRADE) -o requirements.lock

clean:
	rm -rf .venv build dist *.egg-info
