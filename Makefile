# `make` lists the targets. Each of them first makes the virtual environment .venv, once, from
# pyproject.toml and constraints.txt; an existing .venv is reused. PYTHON=... chooses the Python.
# test-qiskit2 uses .venv-qiskit2, constraints-qiskit2.txt and PYTHON_QISKIT2=... instead.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH_STAMP := $(VENV)/.installed-bench
METRICS_STAMP := $(VENV)/.installed-metrics
QISKIT2 := .venv-qiskit2
QISKIT2_STAMP := $(QISKIT2)/.installed

# A name such as python3.13 may be a shim that fails although pyenv has that Python.
PYENV = $(wildcard $(or $(PYENV_ROOT),$(HOME)/.pyenv)/versions/$(1).*/bin/python)
PYTHONS := $(or $(PYTHON),python3 python3.12 python3.11 python3.10 $(foreach v,3.12 3.11 3.10,$(call PYENV,$(v))))
SUPPORTED := import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))
PYTHONS_QISKIT2 := $(or $(PYTHON_QISKIT2),python3.13 $(call PYENV,3.13))

# What TorchQuantum, Qiskit and torch have a part in, for the second environment.
TESTS_QISKIT2 := tests/attr tests/gradients tests/models tests/test_circuit.py tests/test_compat.py \
	tests/test_fused.py tests/test_layer.py tests/test_layer_simulators.py \
	tests/test_observables.py tests/test_package.py tests/test_quantum_layer.py \
	tests/test_interactions.py tests/test_recording.py tests/test_simulate.py tests/test_templates.py tests/test_tq.py \
	tests/test_tq_differences.py tests/test_tq_installed.py tests/test_versions.py

.DEFAULT_GOAL := help
.PHONY: help demo test test-qiskit2 test-all lint docs bench clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(STAMP)  ## Train and explain the digits model; results in demo-output/
	$(BIN)/captum-quantum demo --output demo-output

test: lint  ## Check style and types and run the tests (not the slow ones)
	$(BIN)/python -m pytest -n 2 -m "not slow and not gpu"

test-qiskit2: $(QISKIT2_STAMP)  ## Test the core with Python 3.13, Qiskit 2 and a current torch
	$(QISKIT2)/bin/python -m pytest -n 2 -m "not slow and not gpu" $(TESTS_QISKIT2)

test-all: lint $(METRICS_STAMP) $(QISKIT2_STAMP)  ## All tests, the slow ones too, in both environments
	$(BIN)/python -m pytest -n 2 -m "not gpu"
	$(QISKIT2)/bin/python -m pytest -n 2 -m "not slow and not gpu"
	$(QISKIT2)/bin/python -m pytest -m slow tests/test_wheel.py

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
	rm -rf $(VENV) $(QISKIT2) demo-output docs-output build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
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

$(QISKIT2_STAMP): pyproject.toml constraints-qiskit2.txt
	@test -x $(QISKIT2)/bin/pip && exit; \
	for python in $(PYTHONS_QISKIT2); do \
	    $$python -c 'import sys; sys.exit(sys.version_info < (3, 13))' 2>/dev/null || continue; \
	    $$python -m venv $(QISKIT2); \
	    exit; \
	done; \
	echo "The second environment needs Python 3.13; not found as: $(PYTHONS_QISKIT2)." >&2; \
	echo "Name it, for example with: make PYTHON_QISKIT2=/path/to/python3.13 test-qiskit2" >&2; \
	exit 1
	@echo "Installing into $(QISKIT2), this once. It takes a few minutes."
	@$(QISKIT2)/bin/python -m pip install -qq --constraint constraints-qiskit2.txt --editable '.[demo,docs,test]'
	@touch $@

$(METRICS_STAMP): $(STAMP)
	@echo "Installing what the metrics are tested against into $(VENV), this once."
	@$(BIN)/python -m pip install -qq --constraint constraints.txt --editable '.[demo,docs,metrics-test,test]'
	@touch $@

$(BENCH_STAMP): $(STAMP)
	@echo "Installing the simulators to compare with into $(VENV), this once."
	@$(BIN)/python -m pip install -qq --constraint constraints.txt --editable '.[bench,demo,metrics-test]'
	@touch $@
