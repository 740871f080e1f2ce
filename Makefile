# The same few commands here and in CI. All of it lives in $(VENV); the one thing that may be
# installed beside it is the system package chromium, for the browser test, and only as root.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# Bytecode is kept, whatever the caller's habit: without it every process of a rehearsal compiles
# what it imports again, and a dry run takes twice as long.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
VENV ?= .venv
LOCK := infra/requirements.lock
HOST_LOCK := infra/requirements.host.lock
INSTALLED := $(VENV)/.installed
BIN := $(VENV)/bin
# make test PYTEST_ARGS="-k journal"
PYTEST_ARGS ?=
# make rehearsal REHEARSE='--fault order-latency'
REHEARSE ?=
# make lock UPGRADE=--upgrade
UPGRADE ?=
BORDER := $(wildcard tests/contract/test_border_*.py) tests/probes/test_metrics.py \
  tests/test_env_text.py tests/test_redact.py

.PHONY: help rehearsal test prove bench lint lock schemas install install-host browser clean

help:
	@echo 'make rehearsal  the whole cutover on the twin, notebooks and report included'
	@echo 'make test       every test but the minutes-long ones'
	@echo 'make prove      the minutes-long tests; every table goes to tests/benchmarks/'
	@echo 'make bench      measure, and print beside the committed tables'
	@echo 'make lint       ruff check, ruff format --check, mypy --strict, lint-imports'
	@echo 'make schemas    write infra/schemas/ anew from the record types'
	@echo 'make lock       pin what pyproject.toml asks for (UPGRADE=--upgrade takes newer versions)'
	@echo 'make install-host  what a host that trades needs: no twin, no tests'
	@echo 'make clean      remove $(VENV) and caches; outputs/ is evidence and stays'

rehearsal: install
	@$(BIN)/ctp-runbook rehearse $(REHEARSE)

# Most tests wait for processes of their own, with half a core each: three at a time on two cores,
# each file by one worker. They change no tracked file: their tables are kept by `make prove` alone.
test: install browser
	@unset CTP_RUNBOOK_KEPT_TABLES
	$(BIN)/python -m pytest -m "not slow" -n 3 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

prove: install browser
	@export CTP_RUNBOOK_KEPT_TABLES=tests/benchmarks
	# Of some 50,000 single edits of a rehearsal a drawn part; all of them take hours.
	export CTP_RUNBOOK_MUTANTS=$${CTP_RUNBOOK_MUTANTS:-3000}
	# What comes in from outside, by many more cases of each kind than in `make test`.
	CTP_RUNBOOK_CASES=$${CTP_RUNBOOK_CASES:-10000} $(BIN)/python -m pytest $(BORDER)
	$(BIN)/python -m pytest -m "slow or table" $(PYTEST_ARGS)

# One that is over its bar, or fails, does not keep the others from being measured.
bench: install
	@failed=()
	for script in tests/benchmarks/bench_*.py; do
	  echo "$$script"
	  $(BIN)/python "$$script" || failed+=("$$script")
	done
	if [ $${#failed[@]} -gt 0 ]; then echo "failed: $${failed[*]}" >&2; exit 1; fi

lint: install
	@$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo

schemas: install
	@$(BIN)/python -m ctp_runbook.record.schemas infra/schemas

# The lock is for every extra and every Python from 3.11 on, and names no place to get it from. That of
# a host that trades has the same versions, and neither the twin nor what tests need.
lock: install
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --all-extras --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' $(UPGRADE) \
	  --output-file $(LOCK) pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra host --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' $(UPGRADE) \
	  --constraint $(LOCK) --no-annotate --output-file $(HOST_LOCK) pyproject.toml
	for lock in $(LOCK) $(HOST_LOCK); do echo "$$lock: $$(grep -c '^[^ #]' $$lock) pins"; done

install: $(INSTALLED)

# uv installs in a few seconds what takes pip half a minute, and comes out of the same lock, by
# hash. Where uv cannot reach an index that pip is configured for, pip does it.
$(INSTALLED): $(BIN)/python $(LOCK) pyproject.toml
	@echo 'installing $(LOCK) into $(VENV)'
	awk '/^[^ ]/ { wanted = /^uv==/ } wanted' $(LOCK) > $(VENV)/uv.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
	  -r $(VENV)/uv.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r $(LOCK) \
	  || $(BIN)/python -m pip install --quiet --require-hashes -r $(LOCK)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# For a host that trades: everything but the twin (`rehearse`, `stack`, `lab --twin`) and the tests.
install-host: $(BIN)/python
	@echo 'installing $(HOST_LOCK) into $(VENV)'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(HOST_LOCK)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
	  --editable .

# A name on PATH proves nothing (version managers put stubs there): each candidate is run.
$(BIN)/python:
	@for candidate in $(PYTHON) python3.13 python3.12 python3.11; do
	  if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
	    "$$candidate" -c 'import ensurepip, venv' 2>/dev/null || {
	      echo "$$candidate cannot make virtual environments: install its venv package" \
	        "(Debian, Ubuntu: apt-get install python3-venv)" >&2; exit 2; }
	    exec "$$candidate" -m venv $(VENV)
	  fi
	done
	echo 'no Python >= 3.11 among $(PYTHON), python3.13, python3.12, python3.11:' \
	  'install one, or name yours: make PYTHON=/path/to/python' >&2
	exit 2

browser:
	@for name in chromium chromium-browser google-chrome; do
	  if command -v "$$name" >/dev/null; then exit 0; fi
	done
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
	  echo 'installing the system package chromium, for the browser test'
	  export DEBIAN_FRONTEND=noninteractive
	  if apt-get -qq update && apt-get -qq install -y --no-install-recommends chromium >/dev/null
	  then exit 0; fi
	fi
	echo 'chromium is missing and could not be installed here: the browser tests will be skipped' >&2

# Not outputs/: runs are evidence, and removing evidence is a decision.
clean:
	@rm -rf $(VENV) build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find ctp_runbook tests -name __pycache__ -type d -prune -exec rm -rf {} +
