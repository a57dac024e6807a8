# `make help` lists the targets. Needs Python 3.11 or newer and make; everything else goes into .venv.

PYTHON ?= python3
WORKERS ?= 3
MINUTES ?= 30
WORKLOADS ?= all
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DELETE_ON_ERROR:
.PHONY: help run test soak lint bench docs build requirements clean

help: ## this list
	@sed -nE 's/^([a-z]+):.* ## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

run: $(VENV)/.installed-run ## a daemon with an S3 server of its own, for a first look
	$(BIN)/cachesync run --dev-server .dev-s3

# Many tests wait for real processes, so there are more workers than the two processors of a small machine. They do so
# under a deadline: what fails beside others is run again alone, once, and has to pass then; both runs are in the output.
test: lint ## lint, then every test
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal || $(BIN)/python -m pytest --last-failed --last-failed-no-failures none

# The campaigns against the promises, for long, from seeds that were not played yet. Prints what it did and what it found.
soak: $(VENV)/.installed-test ## the campaigns against the promises; MINUTES=30
	$(BIN)/python -m tests.soak --minutes $(MINUTES)

lint: $(VENV)/.installed-test ## ruff, mypy and the import contract
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# cachesync against its peers, on this machine: all workloads, or WORKLOADS="A D". Takes hours; --small in ARGS takes minutes.
bench: $(VENV)/.installed-test ## against the peers, for hours; WORKLOADS="A D", ARGS=--small for minutes
	$(PIP) install -e '.[bench]'
	$(BIN)/python -m bench.peers
	$(BIN)/python -m bench $(WORKLOADS) $(ARGS)

# The documents as a site, in site/; it works offline and from a folder. The reference is made from the code first.
docs: $(VENV)/.installed-test ## the documents as a site, in site/
	$(BIN)/python -m docs.generate
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# What is released, in dist/.
build: $(VENV)/.installed-test ## the wheel and the source archive, in dist/
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/twine check --strict dist/*

# What the image installs, each file by its hash: the newest releases that pyproject.toml allows.
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	--custom-compile-command "make requirements"
requirements: $(VENV)/.installed-test ## the newest pins of the image, by hash
	$(PIP) install uv
	$(COMPILE) --upgrade pyproject.toml -o deploy/requirements.txt
	$(COMPILE) --upgrade pyproject.toml --extra mcp -o deploy/requirements-mcp.txt
	echo hatchling | $(COMPILE) --upgrade - -o deploy/requirements-build.txt

# A stamp is older than pyproject.toml when what it asks for may have changed.
$(VENV)/.installed-run: pyproject.toml | $(BIN)/python
	$(PIP) install -e '.[dev-server,watch]'
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(BIN)/python
	$(PIP) install -e '.[dev-server,test]'
	@touch $@ $(VENV)/.installed-run

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "cachesync needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; } # without ensurepip it leaves half of one

clean: ## remove .venv, caches and what was built
	rm -rf $(VENV) .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache .coverage .coverage.* build dist site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
