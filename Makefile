# `make` lists the targets. Everything is installed into .venv and nowhere else.

PYTHON ?= python3
PRESET ?= offline
ARGS ?=
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin/python
PIP := $(BIN) -m pip install --quiet --disable-pip-version-check --constraint requirements.lock
export PYTHONNOUSERSITE := 1

.DEFAULT_GOAL := help
.PHONY: help run check test lint types layers fast pytest benchmarks docs site clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' Makefile | sed 's/:.*## /\t/' | expand -t 14
	@echo
	@echo "make run PRESET=qwen3-4b    another preset: offline, qwen3-0.6b, qwen3-4b, auto"
	@echo "make run ARGS='--help'      every setting"
	@echo "make pytest WORKERS=0       tests one after the other, in one process"

run: $(VENV)/.for-run ## install, run the main job, print a summary
	@$(BIN) Data_Preparation/scripts/run_pipeline.py --preset $(PRESET) $(ARGS)

check: lint types layers fast ## lint, types, layers, fast tests: under a minute

test: lint types layers pytest ## install with the dev extra; lint, types, layers, tests

lint: $(VENV)/.for-test ## style and common mistakes
	@$(BIN) -m ruff check .
	@$(BIN) -m ruff format --check --quiet .

types: $(VENV)/.for-test ## static types
	@$(BIN) -m mypy --num-workers $(WORKERS)

layers: $(VENV)/.for-test ## imports go one way
	@$(BIN) -c "from importlinter.cli import lint_imports_command as run; run()" --no-cache

# Rooms whose tests need no model, no process and no second
FAST := config utils user_files preprocess selection test_imports.py test_public_api.py

fast: $(VENV)/.for-test ## tests of the rooms without models
	@$(BIN) -m pytest --quiet --numprocesses $(WORKERS) --dist loadfile -m "not slow" \
	  $(addprefix Data_Preparation/tests/,$(FAST))

pytest: $(VENV)/.for-test ## the tests alone
	@$(BIN) -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0 \
	  --durations 40 --durations-min 10 $(ARGS)

benchmarks: $(VENV)/.for-test ## every benchmark, small inputs
	@$(BIN) Data_Preparation/benchmarks/run_benchmarks.py --quick all

docs: $(VENV)/.for-test ## write the generated parts of the documentation
	@$(BIN) docs/generate.py

# Not with --quiet, which keeps warnings from --strict
site: $(VENV)/.for-test ## build the documentation site into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN) -m mkdocs build --strict --site-dir site
	@echo "site/index.html: serve the folder with: $(BIN) -m http.server --directory site"

clean: ## remove .venv and caches; data and logs stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache *.egg-info

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  found=$$($(PYTHON) --version 2>/dev/null) || found="no $(PYTHON)"; \
	  echo "error: found $$found; Python 3.11 or newer is needed: make run PYTHON=python3.11" >&2; exit 1; }
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.for-run: $(VENV)/.made pyproject.toml requirements.lock
	@echo "installing into $(VENV) (a few minutes the first time)"
	@$(PIP) --editable ".[offline,fast,report]"
	@touch $@

$(VENV)/.for-test: $(VENV)/.made pyproject.toml requirements.lock
	@echo "installing the dev extra into $(VENV) (a few minutes the first time)"
	@$(PIP) --editable ".[dev]"
	@touch $@ $(VENV)/.for-run
