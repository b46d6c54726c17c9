# Everything a user or a contributor types. `make help` lists it.

# The first Python from 3.11 to 3.13 on the PATH, unless PYTHON names one.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo "$$p" && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
DATA ?= data
HOST ?= 127.0.0.1
PORT ?= 18081
MINUTES ?= 60

INSTALLED := $(VENV)/.installed
PULLED := $(DATA)/models/.pulled
TRITON := $(VENV)/.triton

.DEFAULT_GOAL := help
.PHONY: help setup run check test test-all bench soak triton-demo redis-demo docs
.DELETE_ON_ERROR:

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(INSTALLED) $(PULLED) ## Install everything into .venv and fetch the default model files

run: setup ## Serve on 127.0.0.1:18081 (HOST, PORT and DATA change that)
	@$(BIN)/face-server serve --host $(HOST) --port $(PORT) --data $(DATA)

check: $(INSTALLED) ## Lint, formatting, types, import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

test: setup $(TRITON) ## The fast tests
	$(BIN)/python -m pytest -m "not slow"

test-all: setup $(TRITON) ## All tests, slow ones too
	$(BIN)/python -m pytest

bench: setup ## Measure speed and accuracy, and print the tables of docs/benchmarks.md
	$(BIN)/python -m benchmarks

soak: setup ## Run eight cameras for an hour (MINUTES changes that): memory, threads and descriptors must stay flat
	$(BIN)/python -m benchmarks.soak --minutes $(MINUTES)

triton-demo: setup $(TRITON) ## Start a real tritonserver and answer a photo and a camera through it (PHOTO and VIDEO name yours)
	@$(BIN)/python -m benchmarks.triton_demo --data $(DATA) $(if $(PHOTO),--photo "$(PHOTO)") $(if $(VIDEO),--video "$(VIDEO)")

redis-demo: setup ## Start one Redis and two servers, kill one, and see nothing missing (PHOTO and VIDEO name yours)
	@$(BIN)/python -m benchmarks.redis_demo --data $(DATA) $(if $(PHOTO),--photo "$(PHOTO)") $(if $(VIDEO),--video "$(VIDEO)")

docs: $(INSTALLED) ## Build the documentation into site/
	$(BIN)/python docs/generate.py
	$(BIN)/mkdocs build --strict

# Debian's python3 comes without what `python3 -m venv` needs; root may install it, others are told what to ask for.
$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "make setup: no Python from 3.11 to 3.13 was found; install one, or name it: make setup PYTHON=..." >&2; exit 2; }
	@"$(PYTHON)" -c 'import ensurepip' 2>/dev/null || { \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv; \
		else \
			echo "make setup: $(PYTHON) lacks ensurepip; install it first: apt-get install python3-venv" >&2; exit 2; \
		fi; }
	"$(PYTHON)" -m venv $(VENV)

$(INSTALLED): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,openvino]'
	@touch $@

# A real tritonserver for the tests; where it cannot run they say why.
$(TRITON): docker/triton-requirements.txt benchmarks/triton_server.py | $(INSTALLED)
	$(BIN)/python -m benchmarks.triton_server
	@touch $@

$(PULLED): face_server/models/catalog.py | $(INSTALLED)
	$(BIN)/face-server models pull --data $(DATA)
	@touch $@
