# What developers do with this project; `make` lists it. Needs make, bash and Python >= 3.11.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules
# Python keeps what it compiled, here too where it usually may not: the tests begin in half the time.
unexport PYTHONDONTWRITEBYTECODE

# Stamps: what is in the virtual environment is renewed when pyproject.toml changes, not before.
RUN_STAMP := $(VENV)/.installed-run
DEV_STAMP := $(VENV)/.installed-dev
DOCS_STAMP := $(VENV)/.installed-docs
STATEMENT := docs/conformance-statement.md
# Only names of files and folders of ours go to the linters.
CODE := pacs_server tests migrations $(wildcard benchmarks) .ci/check-wheel .ci/command-reference .ci/file-table .ci/mermaid \
	.ci/new-migration .ci/screenshots .ci/viewer .ci/mkdocs_hooks.py

.PHONY: help
help: ## List the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1|\2/p' $(firstword $(MAKEFILE_LIST)) | while IFS='|' read -r name text; do \
		printf '  make %-18s %s\n' "$$name" "$$text"; done

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not there: install Python >= 3.11 or say make PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$(PYTHON) is $$($(PYTHON) --version), this needs >= 3.11: say make PYTHON=python3.12 or the like"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "Python's venv is missing; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@echo 'making a virtual environment in $(VENV)'
	@$(PYTHON) -m venv $(VENV)

$(RUN_STAMP): pyproject.toml | $(BIN)/python
	@echo 'installing the server and its libraries in $(VENV); the first time they are downloaded'
	@# Python compiles what the server imports when it starts; to compile everything here would take ten seconds more.
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --editable .
	@touch $@

$(DEV_STAMP): pyproject.toml | $(BIN)/python
	@echo 'installing the server and all that its development needs in $(VENV); the first time that takes minutes'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[postgres,codecs,test,dev]'
	@touch $@ $(RUN_STAMP)

$(DOCS_STAMP): pyproject.toml | $(DEV_STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@

.PHONY: install
install: $(DEV_STAMP) ## Install the server and everything for development into .venv

.PHONY: run
run: $(RUN_STAMP) ## Install the server if necessary and start it, with pacs_server.yaml if that exists
	@if [ -f pacs_server.yaml ]; then echo 'starting the server with pacs_server.yaml'; \
		else echo 'starting the server with its defaults; the archive is kept in this directory'; fi
	@if [ -f pacs_server.yaml ]; then exec $(BIN)/pacs-server --config pacs_server.yaml; else exec $(BIN)/pacs-server; fi

.PHONY: viewer
viewer: $(RUN_STAMP) ## Fetch and install the viewer OHIF for the web pages
	@$(BIN)/python .ci/viewer
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall dist/pacs_server_ohif-*.whl
	@echo 'it is in $(VENV): start the server anew to see it; for a server that is installed elsewhere, pip install the wheel there'

.PHONY: test
test: $(DEV_STAMP) ## Run all tests
	@.ci/system-packages
	$(BIN)/python -m pytest -n auto --maxschedchunk=20 || $(BIN)/python .ci/once-more $$? $(BIN)/python -m pytest

.PHONY: coverage
coverage: $(DEV_STAMP) ## Run all tests, which takes longer, and show the lines that no test runs
	@.ci/system-packages
	$(BIN)/python -m pytest -n auto --maxschedchunk=20 --cov --cov-report=
	$(BIN)/coverage report --show-missing --skip-covered

.PHONY: test-fast
test-fast: $(DEV_STAMP) ## Run the fast unit and property tests that need no other software: a minute at most
	$(BIN)/python -m pytest -n logical --maxschedchunk=50 --hypothesis-profile=fast tests/unit tests/properties \
		-m 'not interop and not slow and not soak and not postgres'

.PHONY: lint
lint: $(DEV_STAMP) ## Check style, formatting and the layers
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/lint-imports

.PHONY: fmt
fmt: $(DEV_STAMP) ## Format the code and fix what can be fixed
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

.PHONY: types
types: $(DEV_STAMP) ## Check the types
	$(BIN)/mypy

.PHONY: check
check: lint types check-docs check-wheel ## Run lint, types, check-docs and check-wheel

.PHONY: check-docs
check-docs: $(DEV_STAMP) ## Check that the documents agree with the code, and their spelling
	@if [ -d tests/docs ]; then $(BIN)/python -m pytest -n auto tests/docs || \
		$(BIN)/python .ci/once-more $$? $(BIN)/python -m pytest; fi
	@$(BIN)/codespell README.md CHANGELOG.md docs/*.md
	@$(BIN)/pacs-server conformance | diff -u $(STATEMENT) - || { echo "$(STATEMENT) is out of date: make conformance"; exit 1; }

build/mermaid.min.js: .ci/mermaid | $(BIN)/python
	@$(BIN)/python .ci/mermaid $@ || echo 'without it browsers load it from the internet to show the drawings'

.PHONY: docs
docs: $(DOCS_STAMP) build/mermaid.min.js ## Build a site of the documents in build/site, and check its links
	$(BIN)/mkdocs build --config-file .ci/mkdocs.yml

.PHONY: check-wheel
check-wheel: $(DEV_STAMP) ## Build the wheel, install it in an empty environment, start it, send a C-ECHO and test with it
	$(BIN)/python .ci/check-wheel

.PHONY: bench
bench: $(DEV_STAMP) ## Run the benchmarks, and compare with other archives if they are installed
	$(BIN)/python benchmarks/run.py

.PHONY: bench-web
bench-web: $(DEV_STAMP) ## Measure the web port, and compare with Orthanc and its DICOMweb plugin if installed
	$(BIN)/python -m benchmarks.web

.PHONY: bench-concurrency
bench-concurrency: $(DEV_STAMP) ## Measure many associations at once: senders, retrieval beside storing, idle ones
	$(BIN)/python -m benchmarks.concurrency

.PHONY: bench-scale
bench-scale: $(DEV_STAMP) ## Measure stores and queries with up to a million instances
	$(BIN)/python -m benchmarks.scale

.PHONY: bench-outgoing
bench-outgoing: $(DEV_STAMP) ## Measure forwarding a study, and compare with this server's C-MOVE and Orthanc
	$(BIN)/python -m benchmarks.outgoing

.PHONY: bench-stages
bench-stages: $(DEV_STAMP) ## Show where the time of one operation goes
	$(BIN)/python -m benchmarks.stages

.PHONY: soak
soak: $(DEV_STAMP) ## Run rare tests, power loss, hostile peers, faults and crashes: make soak SECONDS=60 DATABASE=postgresql CRASHES=5
	PACS_SERVER_TESTS_EVERY_STEP=1 $(BIN)/python -m pytest -n logical --maxschedchunk=5 tests/unit/archive \
		-k "power_loss or refused_and_lost" -m "soak or not soak"
	$(BIN)/python -m pytest -n auto --maxschedchunk=5 --hypothesis-profile=soak -m "soak or hypothesis" \
		-k "not power_loss and not refused_and_lost"
	$(BIN)/python tests/soak.py --seconds $(or $(SECONDS),600) --database $(or $(DATABASE),both) \
		--crashes $(or $(CRASHES),50)

.PHONY: conformance
conformance: $(DEV_STAMP) ## Regenerate the conformance statement and the page of vendors
	$(BIN)/pacs-server conformance > $(STATEMENT).new
	mv $(STATEMENT).new $(STATEMENT)
	$(BIN)/python tests/vendor_page.py > docs/vendors.md.new
	mv docs/vendors.md.new docs/vendors.md

.PHONY: command-reference
command-reference: $(DEV_STAMP) ## Regenerate the reference in docs/commands.md from the commands and their options
	$(BIN)/python .ci/command-reference

.PHONY: file-table
file-table: $(DEV_STAMP) ## Regenerate the tables of files in docs/architecture.md from the first lines of the modules
	$(BIN)/python .ci/file-table

.PHONY: screenshots
screenshots: $(DEV_STAMP) ## Retake the pictures of README.md, of sample studies
	$(BIN)/python .ci/screenshots

.PHONY: migration
migration: $(DEV_STAMP) ## Create a database migration: make migration MESSAGE='add a table'
	@[ -n "$(MESSAGE)" ] || { echo "say what it does: make migration MESSAGE='add a table'"; exit 2; }
	$(BIN)/python .ci/new-migration "$(MESSAGE)"

.PHONY: clean
clean: ## Remove everything that these targets create, including the virtual environment
	rm -rf $(VENV) build dist htmlcov .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find pacs_server tests migrations -name __pycache__ -prune -exec rm -rf {} +
