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
CODE := pacs_server tests migrations $(wildcard benchmarks) .ci/check-wheel .ci/command-reference .ci/file-table .ci/new-migration .ci/screenshots .ci/viewer \
	.ci/mkdocs_hooks.py

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
install: $(DEV_STAMP) ## Install the server with all that development needs into .venv

.PHONY: run
run: $(RUN_STAMP) ## Start the server, with pacs_server.yaml if it is here
	@if [ -f pacs_server.yaml ]; then echo 'starting the server with pacs_server.yaml'; \
		else echo 'starting the server with its defaults; the archive is kept in this directory'; fi
	@if [ -f pacs_server.yaml ]; then exec $(BIN)/pacs-server --config pacs_server.yaml; else exec $(BIN)/pacs-server; fi

.PHONY: viewer
viewer: $(RUN_STAMP) ## Fetch the viewer OHIF, which the web pages open studies in then
	@$(BIN)/python .ci/viewer
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall dist/pacs_server_ohif-*.whl
	@echo 'it is in $(VENV): start the server anew to see it; for a server that is installed elsewhere, pip install the wheel there'

.PHONY: test
test: $(DEV_STAMP) ## Run all tests
	@.ci/system-packages
	$(BIN)/python -m pytest -n auto --maxschedchunk=20 || $(BIN)/python .ci/once-more $$? $(BIN)/python -m pytest

.PHONY: coverage
coverage: $(DEV_STAMP) ## Run all tests, which takes longer here, and show the lines that they do not run
	@.ci/system-packages
	$(BIN)/python -m pytest -n auto --maxschedchunk=20 --cov --cov-report=
	$(BIN)/coverage report --show-missing --skip-covered

.PHONY: test-fast
test-fast: $(DEV_STAMP) ## Run the unit and property tests that need nothing else and are not slow: a minute at most
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
check: lint types check-docs check-wheel ## Lint, types, documents, and the wheel in an empty environment

.PHONY: check-docs
check-docs: $(DEV_STAMP) ## Check that the documents say what the code does
	@if [ -d tests/docs ]; then $(BIN)/python -m pytest -n auto tests/docs; fi
	@$(BIN)/codespell README.md CHANGELOG.md docs/*.md
	@$(BIN)/pacs-server conformance | diff -u $(STATEMENT) - || { echo "$(STATEMENT) is out of date: make conformance"; exit 1; }

.PHONY: docs
docs: $(DOCS_STAMP) ## Make a site of the documents in build/site, and check its links
	$(BIN)/mkdocs build --config-file .ci/mkdocs.yml

.PHONY: check-wheel
check-wheel: $(DEV_STAMP) ## Build the wheel, install it in an empty environment, start it, echo it and test with it
	$(BIN)/python .ci/check-wheel

.PHONY: bench
bench: $(DEV_STAMP) ## Run the benchmarks, beside other archives if they are installed
	$(BIN)/python benchmarks/run.py

.PHONY: bench-web
bench-web: $(DEV_STAMP) ## Measure the web port, beside Orthanc with its DICOMweb plugin if that is installed
	$(BIN)/python -m benchmarks.web

.PHONY: bench-concurrency
bench-concurrency: $(DEV_STAMP) ## Many associations at once: senders, retrieval beside storing, idle ones
	$(BIN)/python -m benchmarks.concurrency

.PHONY: bench-scale
bench-scale: $(DEV_STAMP) ## Stores and queries with up to a million instances
	$(BIN)/python -m benchmarks.scale

.PHONY: bench-outgoing
bench-outgoing: $(DEV_STAMP) ## Forwarding a study, beside this server's C-MOVE and Orthanc
	$(BIN)/python -m benchmarks.outgoing

.PHONY: bench-stages
bench-stages: $(DEV_STAMP) ## Where the time of one operation goes
	$(BIN)/python -m benchmarks.stages

.PHONY: soak
soak: $(DEV_STAMP) ## Rare tests, power loss, hostile peers, faults and crashes: make soak SECONDS=60 DATABASE=postgresql CRASHES=5
	PACS_SERVER_TESTS_EVERY_STEP=1 $(BIN)/python -m pytest -n logical --maxschedchunk=5 tests/unit/archive \
		-k "power_loss or refused_and_lost" -m "soak or not soak"
	$(BIN)/python -m pytest -n auto --maxschedchunk=5 --hypothesis-profile=soak -m "soak or hypothesis" \
		-k "not power_loss and not refused_and_lost"
	$(BIN)/python tests/soak.py --seconds $(or $(SECONDS),600) --database $(or $(DATABASE),both) \
		--crashes $(or $(CRASHES),50)

.PHONY: conformance
conformance: $(DEV_STAMP) ## Write the conformance statement and the page of vendors anew
	$(BIN)/pacs-server conformance > $(STATEMENT).new
	mv $(STATEMENT).new $(STATEMENT)
	$(BIN)/python tests/vendor_page.py > docs/vendors.md.new
	mv docs/vendors.md.new docs/vendors.md

.PHONY: command-reference
command-reference: $(DEV_STAMP) ## Write the reference in docs/commands.md anew, from the commands and their options
	$(BIN)/python .ci/command-reference

.PHONY: file-table
file-table: $(DEV_STAMP) ## Write the tables of files in docs/architecture.md anew, from the first lines of the modules
	$(BIN)/python .ci/file-table

.PHONY: screenshots
screenshots: $(DEV_STAMP) ## Take the pictures of README.md anew, of sample studies
	$(BIN)/python .ci/screenshots

.PHONY: migration
migration: $(DEV_STAMP) ## Begin a database migration: make migration MESSAGE='add a table'
	@[ -n "$(MESSAGE)" ] || { echo "say what it does: make migration MESSAGE='add a table'"; exit 2; }
	$(BIN)/python .ci/new-migration "$(MESSAGE)"

.PHONY: clean
clean: ## Remove all that is made here, the virtual environment too
	rm -rf $(VENV) build dist htmlcov .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find pacs_server tests migrations -name __pycache__ -prune -exec rm -rf {} +
