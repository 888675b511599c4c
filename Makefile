# Quicksilver. Every target sets up .venv first; see scripts/setup.sh for PYTHON and TORCH_INDEX.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
# Tests run in this many processes of one thread each. Each begins with its own half and takes from the other's at the
# end, so that most fixtures of a module are made once.
TEST_WORKERS ?= 2
# With bytecode kept, whatever the shell says: otherwise each of the several dozen processes compiles the package anew.
PYTEST = OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help setup serve demo test test-browser test-clients test-gpu picture results bench-check check format clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

# A stamp says that the installation is newer than what it depends on, so a second run starts at once.
$(VENV)/.installed: pyproject.toml scripts/setup.sh
	scripts/setup.sh
	@touch $@

$(VENV)/.installed-serve: pyproject.toml scripts/setup.sh
	scripts/setup.sh serve
	@touch $(VENV)/.installed $@

$(VENV)/.installed-dev: pyproject.toml scripts/setup.sh
	scripts/setup.sh dev
	@touch $(VENV)/.installed $(VENV)/.installed-serve $@

setup: $(VENV)/.installed-dev ## Make .venv with everything a developer needs

serve: $(VENV)/.installed-serve ## Install, then serve the bundled model at 127.0.0.1:8080, with a playground
	@$(BIN)/quicksilver serve

demo: $(VENV)/.installed ## Install, then fill the holes of a file in examples/ while you watch
	@$(BIN)/quicksilver demo

test: $(VENV)/.installed-dev ## Run all tests that need neither GPU nor browser
	$(PYTEST) -n $(TEST_WORKERS) --dist worksteal -m "not compiled and not gpu and not browser"
	JAXTYPING_DISABLE=1 $(PYTEST) -m "compiled and not gpu" tests/reference

test-browser: $(VENV)/.installed-dev ## Run the tests that need Debian's chromium and chromium-driver
	$(PYTEST) -m browser

test-clients: $(VENV)/.installed-dev ## Try eleven clients of OpenAI's and Inception's APIs; installs each in .clients/
	$(PYTEST) -rs tests/clients/run.py

test-gpu: $(VENV)/.installed-dev ## Run the tests that need a GPU
	$(PYTEST) -m "gpu and not compiled"
	JAXTYPING_DISABLE=1 $(PYTEST) -m gpu

picture: $(VENV)/.installed ## Draw docs/images/denoising.svg from a run of the bundled model
	$(BIN)/python scripts/picture.py

results: $(VENV)/.installed-dev ## Write docs/results.md from the files of docs/results/
	$(BIN)/python scripts/results.py

bench-check: $(VENV)/.installed-dev ## Measure a few ratios in about two minutes, beside those recorded; fails on no figure
	$(BIN)/python benchmarks/bench_check.py

check: $(VENV)/.installed-dev ## Run every check of .pre-commit-config.yaml
	$(BIN)/pre-commit run --all-files --show-diff-on-failure

format: $(VENV)/.installed-dev ## Format the code and mend what ruff can mend
	$(BIN)/ruff check --fix --exit-zero
	$(BIN)/ruff format

clean: ## Remove .venv and all caches
	rm -rf $(VENV) .clients .pytest_cache .ruff_cache .hypothesis .import_linter_cache
