# Every target works on a fresh clone: the first one makes .venv and installs the pinned tools (torch included) once.
# VENV=path uses another virtual environment, PYTHON=path another interpreter (3.11 or later) to make it with.

VENV ?= .venv
PYTHON ?= python3
WORKERS ?= 2
ARGS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.archc-installed
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
PARALLEL := -n $(WORKERS) --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help demo test test-all golden lint format bench install clean

help: ## what there is
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 18

demo: $(STAMP) ## check, cost, build and train a small DeepSeek-V3 (about two minutes)
	@$(BIN)/archc demo $(ARGS)

test: $(STAMP) ## the tests, without the slow ones (eleven to fourteen minutes on two cores)
	@$(PYTEST) $(PARALLEL) -q -m "not slow" $(ARGS)

test-all: $(STAMP) ## every test, 100,000 mutated specs, properties with many more examples (hours)
	@ARCHC_MUTANTS=100000 $(PYTEST) $(PARALLEL) -q --hypothesis-profile=thorough $(ARGS)

golden: $(STAMP) ## write the golden files anew; review them as a diff
	@$(PYTEST) -q --update-golden $(ARGS)
	@git --no-pager diff --stat -- tests/golden

lint: $(STAMP) ## ruff, pyright, the floors of import-linter
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --diff .
	@$(BIN)/lint-imports --no-logo >$(VENV)/lint-imports.txt || { cat $(VENV)/lint-imports.txt; exit 1; }
	@$(BIN)/pyright --pythonpath $(BIN)/python

format: $(STAMP) ## ruff format, safe fixes, archc fmt
	@$(BIN)/ruff check --quiet --fix . || true
	@$(BIN)/ruff format .
	@$(BIN)/archc fmt specs/*.arch

bench: $(STAMP) ## start-up times of the commands; packages against transformers on the same weights
	@$(BIN)/python -m bench.start_up
	@echo
	@OMP_NUM_THREADS=1 $(BIN)/python -m bench.against_transformers $(ARGS)

install: $(STAMP) ## make the virtual environment, nothing else

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'archc needs Python 3.11 or later: make PYTHON=/path/to/python3.11 ...' >&2; exit 1; }
	@test -x $(BIN)/python || { echo 'Making $(VENV)'; $(PYTHON) -m venv $(VENV); }
	@echo 'Installing archc and its tools into $(VENV): PyTorch is among them, so this takes one to five minutes, once'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

clean: ## remove what builds and tests wrote (not .venv)
	@rm -rf build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
