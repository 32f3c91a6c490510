# `make repro` and `make test` work on a machine that has Python 3.11 to 3.13, git and make, and nothing else.

.DELETE_ON_ERROR:
SHELL := /bin/bash
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c '$(SUPPORTED)' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
STAMP := .venv/installed
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Nothing phones home (Prefect's and DVC's switches stand in pyproject.toml and .dvc/config).
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := 1

.PHONY: help repro test lint types bench sensitivity-docs ui prefect constraints clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 20

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "no Python 3.11 to 3.13 found; name one with make PYTHON=..." >&2; exit 2; }
	test -x $(BIN)/pip || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

repro: $(STAMP) ## install, then run whatever of the pipeline is stale
	dvc repro

test: $(STAMP) ## install, then run the whole test suite
	python -m pytest -n 2

lint: $(STAMP) ## ruff: rules and format
	ruff check .
	ruff format --check .

types: $(STAMP) ## mypy, strict
	mypy

bench: $(STAMP) ## install peers too, then measure this machine: some minutes each, figures to .limoe/bench/
	python -m pip install --quiet -c constraints.txt -e '.[dev,bench]'
	python -m benchmarks.moe --json .limoe/bench/moe.json
	python -m benchmarks.step --json .limoe/bench/step.json
	python -m benchmarks.contrastive --json .limoe/bench/contrastive.json
	python -m benchmarks.checkpoints --json .limoe/bench/checkpoints.json
	python -m benchmarks.loader --json .limoe/bench/loader.json

sensitivity-docs: $(STAMP) ## rebuild docs/sensitivity.md and its pictures from the tables of trials beside them
	python -m limoe.sweep.study_page

ui: $(STAMP) ## MLflow on this machine, http://127.0.0.1:5000
	mlflow ui --host 127.0.0.1 --port 5000 --workers 1 --backend-store-uri sqlite:///mlflow.db

prefect: $(STAMP) ## a Prefect server on this machine, http://127.0.0.1:4200
	prefect server start --host 127.0.0.1 --port 4200

constraints: ## pin constraints.txt anew: what pip chooses for pyproject.toml in a fresh environment
	@test -n "$(PYTHON)" || { echo "no Python 3.11 to 3.13 found; name one with make PYTHON=..." >&2; exit 2; }
	rm -rf .limoe/pin
	$(PYTHON) -m venv .limoe/pin
	.limoe/pin/bin/python -m pip install --quiet -e '.[dev,bench,gpu]'
	.limoe/pin/bin/python -m pip freeze --exclude-editable --exclude setuptools | LC_ALL=C sort -f > constraints.txt
	rm -rf .limoe/pin

clean: ## remove the environment, caches and unfinished work; results, stores and DVC's cache stay
	rm -rf .venv .limoe .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage *.egg-info
