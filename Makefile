# Everything happens in a virtual environment inside the clone; a second call reuses it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CONFIG ?= configs/random_teacher.yaml
MINUTES ?= 20

.DEFAULT_GOAL := help
.PHONY: help run test test-kernels soak lint format clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 14

run: $(VENV)/run.stamp  ## set up everything and run the main job (CONFIG=FILE for another)
	$(BIN)/dinopl fit --config $(CONFIG)

test: $(VENV)/dev.stamp  ## set up everything and pass the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

# Each of the three libraries that compute is held back to what every x86-64 processor has.
test-kernels: $(VENV)/dev.stamp  ## pass the numerical tests with the kernels of an older processor
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_ENABLE_INSTRUCTIONS=SSE4_2 \
	  OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m numerical

soak: $(VENV)/dev.stamp  ## kill runs again and again, and train 200 times in one process (about two hours; MINUTES=N)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.soak kills --trials 20
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.soak long --minutes $(MINUTES)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.soak fits --count 200

lint: $(VENV)/dev.stamp  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/dev.stamp  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the environment and caches, not the runs
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "dinopl needs Python 3.11 or newer; name one with: make run PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: pyproject.toml | $(BIN)/python
	@echo "installing into $(VENV): two to four minutes"
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/dev.stamp: pyproject.toml | $(BIN)/python
	@echo "installing into $(VENV): two to four minutes"
	$(BIN)/python -m pip install --quiet --editable ".[dev,sweep]"
	@touch $@ $(VENV)/run.stamp
