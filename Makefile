# `make run` and `make test` set everything up on a machine that has Python >= 3.11 with venv and pip, then do their job.
# A second call finds the stamp and starts at once.
#   PYTHON       the interpreter to make the environment with
#   TORCH_FLAGS  where pip finds torch, such as --index-url=https://download.pytorch.org/whl/cpu for a small CPU build

PYTHON ?= python3
TORCH_FLAGS ?=

BIN := .venv/bin
PINS := .ci/constraints.txt
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint $(PINS)

.PHONY: run test lint format clean

run: .venv/.installed
	$(BIN)/alflow submit workflows/al_quick.yaml

test: .venv/.installed
	$(BIN)/python -m pytest

lint: .venv/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "alflow needs Python >= 3.11, this is %d.%d: make PYTHON=..." % sys.version_info[:2])'
	$(PYTHON) -m venv .venv

# torch first and alone: whatever asks for it later is content with the build that is there
.venv/.installed: pyproject.toml $(PINS) | $(BIN)/python
	$(PIP) $(TORCH_FLAGS) torch
	$(PIP) --editable '.[test]'
	@touch $@

.venv/.installed-dev: .venv/.installed
	$(PIP) --editable '.[dev]'
	@touch $@
