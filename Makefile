# All set-up happens here: each target installs what it needs into .venv, from uv.lock, once.
# The machine needs Python 3.11 or later and make; nothing else.

VENV ?= .venv
# The first interpreter that will do. 3.12 and 3.11 first: Bytewax has wheels for those.
PYTHON ?= $(shell for p in python3.12 python3.11 python3.13 python3.14 python3; do \
	"$$p" -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& { echo "$$p"; break; }; done)
ARGS ?=
# Of the simulation: how many seeds, and the first one; without it a fresh one.
SEEDS ?= 100
FIRST ?=
UV_VERSION := 0.13.9

BIN := $(VENV)/bin
UV := UV_PROJECT_ENVIRONMENT=$(VENV) UV_PYTHON=$(BIN)/python UV_PYTHON_DOWNLOADS=never \
	$(BIN)/uv --quiet
LOCKED := pyproject.toml uv.lock
PYTEST := $(BIN)/python -m pytest
# Tests of one file stay in one process, so that its fixtures are built once.
PARALLEL := --numprocesses auto --dist loadfile

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test test-fast simulate lint types proto proto-check bench docs clean

help: ## list the targets
	@echo "Usage: make TARGET [ARGS=...] [PYTHON=python3.12] [VENV=.venv]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: $(VENV)/.installed-dev ## set up .venv for development: every extra and tool

demo: $(VENV)/.installed-demo ## stream a year of flights, serve, train and compare (ARGS=--json)
	$(BIN)/headwater demo $(ARGS)

test: $(VENV)/.installed-dev ## run every test, and every example of the docs
	$(PYTEST) $(PARALLEL) $(ARGS)

test-fast: $(VENV)/.installed-dev ## run the tests that are neither slow nor need a broker
	$(PYTEST) $(PARALLEL) -m "not slow and not kafka" --hypothesis-profile fast $(ARGS)

simulate: $(VENV)/.installed-dev ## run the deterministic simulation (SEEDS=100 FIRST=0 ARGS=--json)
	PYTHONPATH=tests $(BIN)/python -m simulation --seeds $(SEEDS) $(FIRST:%=--first %) $(ARGS)

lint: $(VENV)/.installed-dev proto-check ## check style, formatting, import contracts and generated code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

types: $(VENV)/.installed-dev ## check types, strictly
	$(BIN)/mypy

proto: $(VENV)/.installed-dev ## generate proto/headwater_proto from proto/v1/*.proto
	$(call protoc,proto)

proto-check: $(VENV)/.installed-dev
	@rm -rf build/proto && mkdir -p build/proto
	$(call protoc,build/proto)
	@for f in $$(cd build/proto && find . -type f); do \
		cmp -s "build/proto/$$f" "proto/$$f" \
		|| { echo "proto/$$f differs from its .proto file; run: make proto" >&2; exit 1; }; done

bench: $(VENV)/.installed-dev ## run the benchmarks, peers beside us (ARGS=--json)
	$(BIN)/python -m bench.kernels $(ARGS)
	$(BIN)/python -m bench.archive $(ARGS)
	$(BIN)/python -m bench.point_in_time $(ARGS)
	$(BIN)/python -m bench.backfill $(ARGS)
	$(BIN)/python -m bench.ingest $(ARGS)

docs: $(VENV)/.installed-dev ## run every example of README and docs
	$(PYTEST) README.md CONTRIBUTING.md docs $(ARGS)

clean: ## remove environments, caches and build output
	rm -rf .venv .venv-* build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find bench connectors engine proto serving tests -name __pycache__ -type d -prune -exec rm -rf {} +

# $(call protoc,FOLDER): the folder mapping makes the generated imports right without editing.
define protoc
$(BIN)/python -m grpc_tools.protoc -Iheadwater_proto/v1=proto/v1 \
	--python_out=$(1) --pyi_out=$(1) proto/v1/*.proto
$(BIN)/python -m grpc_tools.protoc -Iheadwater_proto/v1=proto/v1 \
	--grpc_python_out=$(1) $$(grep -l '^service ' proto/v1/*.proto)
endef

$(BIN)/python:
	@"$(PYTHON)" -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "Headwater needs Python 3.11 or later with ensurepip (on Debian:\
	 apt install python3-venv); name one with make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "Creating $(VENV) with $$($(PYTHON) --version)" >&2
	@$(PYTHON) -m venv $(VENV)

$(BIN)/uv: | $(BIN)/python
	@$(BIN)/python -m ensurepip >/dev/null
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

# Inexact: the demo's set never removes what development has installed.
$(VENV)/.installed-demo: $(LOCKED) | $(BIN)/uv
	@echo "Installing into $(VENV)" >&2
	@$(UV) sync --frozen --inexact --no-default-groups --extra demo
	@touch $@

$(VENV)/.installed-dev: $(LOCKED) | $(BIN)/uv
	@echo "Installing into $(VENV)" >&2
	@$(UV) sync --frozen --all-groups --extra demo
	@touch $@ $(VENV)/.installed-demo
