# Every target sets up what it needs: .venv is made on first use, and again when the dependencies change.
PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-slow lint bench bench-peers bench-curves clean

demo: .venv/ready                ## run the main job on an embedded real table: diamonds
	$(BIN)/alfar run jobs/diamonds.yaml

test: .venv/ready                ## the fast suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow"

test-slow: .venv/ready           ## the suite's slow tier
	$(BIN)/python -m pytest -m slow

lint: .venv/ready                ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/ready               ## benchmarks/README.md's tables (hours)
	$(BIN)/python -m benchmarks.tables

bench-peers: .venv/ready         ## every peer in an environment of its own, beside our generators (many hours)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.peers

bench-curves: .venv/ready        ## what fitting and sampling cost by rows, columns and cardinality (an hour or two)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.curves

.venv/ready: pyproject.toml constraints.txt
	@echo "Setting up .venv (a few minutes, about 3 GB) ..."
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[baselines,dev]'
	@touch $@

clean:                           ## remove what the targets made, releases excepted
	rm -rf .venv .alfar .mypy_cache .ruff_cache .pytest_cache build *.egg-info
