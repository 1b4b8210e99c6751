# Every target makes the environment it needs: `make quickstart` or `make test` is the only command on a fresh machine.
PYTHON ?= python3
BIN := .venv/bin
export HF_HUB_OFFLINE = 1
export HF_DATASETS_OFFLINE = 1
export WANDB_MODE ?= offline

.DEFAULT_GOAL := help
.PHONY: help install quickstart test coverage test-all check docs backbone bench

help:  ## Show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

install: .venv/installed  ## Make .venv with everything (train, eval, dev)

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

quickstart: install  ## Train a detector on the embedded shapes world and judge it on generators it never saw (CPU, minutes)
	$(BIN)/python train.py overwrite=true

test: install  ## Run the fast tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m 'not slow'

coverage: install  ## Run the fast tests, and require that they reach 98 % of the lines (half as long again)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m 'not slow' --cov --cov-report=term:skip-covered --cov-fail-under=98

test-all: install  ## Run every test, the slow ones included
	$(BIN)/python -m pytest

check: install  ## Lint, format, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: install  ## Build the site into build/docs; a warning or a broken link inside it is an error
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --fresh-env -q -b html docs build/docs

backbone: install  ## Pre-train the shapes backbone again (about twenty minutes on one core)
	$(BIN)/python experiments/shapes_backbone/pretrain.py

bench: install  ## Measure speed and memory
	$(BIN)/python benchmarks/run.py
	$(BIN)/python benchmarks/loading.py
	$(BIN)/python benchmarks/bootstrap.py
	$(BIN)/python benchmarks/compile.py
	$(BIN)/python benchmarks/kept_images.py
	$(BIN)/python benchmarks/feeding.py
	$(BIN)/python benchmarks/scoring.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/plan_time.py
	$(BIN)/python benchmarks/shared_pass.py
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/shards.py
	$(BIN)/python benchmarks/faults.py
