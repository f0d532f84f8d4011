.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Tests and demo start dozens of processes: each would compile the libraries it imports anew.
unexport PYTHONDONTWRITEBYTECODE

help: ## show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(STAMP) ## virtual environment with every locked dependency (hashes checked)
$(STAMP): requirements.lock bootstrap.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "no $(PYTHON): set PYTHON= to a Python 3.11 or 3.12"; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 13) else f"Python {v[0]}.{v[1]} found, 3.11 or 3.12 needed: make PYTHON=/path/to/python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r bootstrap.lock
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

demo: install ## one event becomes one slate, on the real servers, start to finish
	$(BIN)/fintrec demo

up: install ## the demo's stack and workers, left running
	$(BIN)/fintrec demo --keep

down: ## end everything that 'up' started
	$(BIN)/fintrec stack down

test: install ## the whole test suite, on the real servers
	$(BIN)/python -m pytest

check: install ## lint, format, types, import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: install ## write the generated documents and scripts anew
	$(BIN)/python -m streams.settings > docs/configuration.md
	$(BIN)/python -m features.documentation > docs/features.md
	$(BIN)/python -m streams.wire_docs
	$(BIN)/python -m streams.kafka_scripts

lock: ## resolve the dependencies anew
	$(BIN)/uv pip compile pyproject.toml --all-extras --group dev --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-header --quiet --output-file requirements.lock

.PHONY: help install demo up down test check docs lock
