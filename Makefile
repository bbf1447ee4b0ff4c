# Two commands on a fresh machine: `make demo` and `make test`. Needs Python 3.10 or newer.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# The tests compare with PyTorch. It is installed on its own, before all that depends on it, so
# that one build of it is chosen once and kept. PyPI's build for Linux brings the CUDA libraries;
# `make test PIP_FLAGS="--extra-index-url URL"` takes the build of another index, such as a CPU one.
TORCH ?= torch==2.13.0
PIP_FLAGS ?=
PIP := $(BIN)/python -m pip install --quiet $(PIP_FLAGS)

# Passed on: `make test ARGS="-k house"`, `make demo ARGS="--out tour"`.
ARGS ?=

# Folders are listed too: their times tell of deleted files.
SOURCES := $(shell find runtime kernels calibration export -name __pycache__ -prune -o -print)
KERNELS := $(wildcard kernels/csrc/*.cu kernels/csrc/*.cuh tests/kernels/host/*.h)
PLAIN := build/plain

.PHONY: help demo test lint format clean
.DELETE_ON_ERROR:

help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.demo  ## install without torch and run the tour
	$(BIN)/cir-rt demo $(ARGS)

test: $(VENV)/.test  ## install the test extras and run the whole test suite
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.test $(PLAIN)/.lint  ## check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	MYPYPATH=$(PLAIN) $(BIN)/mypy -p cir_rt
	$(if $(KERNELS),$(BIN)/clang-format --dry-run --Werror $(KERNELS))

format: $(VENV)/.test  ## sort imports and format
	$(BIN)/ruff check --select I --fix .
	$(BIN)/ruff format .
	$(if $(KERNELS),$(BIN)/clang-format -i $(KERNELS))

clean:  ## remove what was built, but for the environment (.venv)
	rm -rf build dist *.egg-info demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find runtime kernels calibration export tests benchmarks -name __pycache__ -prune \
		-exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit(f"cir-rt needs \
	Python 3.10 or newer, $(PYTHON) is {sys.version.split()[0]}. Name another: make PYTHON=…")'
	$(PYTHON) -m venv $(VENV)

# Editable, so that sources count as they stand; only pyproject.toml asks for a new installation.
$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(PIP) --editable '.[cpu,build,plots]'
	@touch $@

$(VENV)/.test: $(VENV)/.demo
	$(PIP) '$(TORCH)'
	$(PIP) --editable '.[cpu,build,plots,hnsw,faiss,rtx,export,serve,dev]'
	@touch $@

# mypy does not follow an editable installation: it is given a plain one beside it.
$(PLAIN)/.lint: pyproject.toml $(SOURCES) | $(BIN)/python
	rm -rf build
	$(PIP) --no-deps --target $(PLAIN) .
	@touch $@
