# `make` lists the targets. Each of them first makes the virtual environment .venv, once, from
# pyproject.toml and constraints.txt; an existing .venv is reused. PYTHON=... chooses the Python.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH_STAMP := $(VENV)/.installed-bench
METRICS_STAMP := $(VENV)/.installed-metrics
PYTHONS := $(or $(PYTHON),python3 python3.12 python3.11 python3.10)
SUPPORTED := import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint docs bench clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(STAMP)  ## Train and explain the digits model; results in demo-output/
	$(BIN)/captum-quantum demo --output demo-output

test: lint  ## Check style and types and run the tests (not the slow ones)
	$(BIN)/python -m pytest -n 2 -m "not slow and not gpu"

test-all: lint $(METRICS_STAMP)  ## The same with the slow tests and those against Quantus
	$(BIN)/python -m pytest -n 2 -m "not gpu"

lint: $(STAMP)  ## Check style and types only
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy captum_quantum

docs: $(STAMP)  ## Build the API pages from the docstrings; open docs-output/index.html
	$(BIN)/python tests/docs/pages.py --output docs-output

bench: $(BENCH_STAMP)  ## Measure speed and memory against other simulators (about 20 minutes)
	$(BIN)/python tests/benchmarks/simulators.py --output tests/benchmarks/results
	$(BIN)/python tests/benchmarks/evaluation.py --output tests/benchmarks/results

clean:  ## Remove .venv and everything that was generated
	rm -rf $(VENV) demo-output docs-output build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/pip && exit; \
	for python in $(PYTHONS); do \
	    $$python -c '$(SUPPORTED)' 2>/dev/null || continue; \
	    $$python -m venv $(VENV); \
	    exit; \
	done; \
	echo "captum-quantum needs Python 3.10, 3.11 or 3.12; not found as: $(PYTHONS)." >&2; \
	echo "Name one, for example with: make PYTHON=/path/to/python3.11" >&2; \
	exit 1
	@echo "Installing into $(VENV), this once. It takes a few minutes."
	@$(BIN)/python -m pip install -qq --constraint constraints.txt --editable '.[demo,docs,test]'
	@touch $@

$(METRICS_STAMP): $(STAMP)
	@echo "Installing what the metrics are tested against into $(VENV), this once."
	@$(BIN)/python -m pip install -qq --constraint constraints.txt --editable '.[demo,docs,metrics-test,test]'
	@touch $@

$(BENCH_STAMP): $(STAMP)
	@echo "Installing the simulators to compare with into $(VENV), this once."
	@$(BIN)/python -m pip install -qq --constraint constraints.txt --editable '.[bench,demo,metrics-test]'
	@touch $@
