# A thin front for uv and trips. `make` alone says what there is.
#
# Wanted on the machine: git, make, and Python 3.11, 3.12 or 3.13. Where uv is not installed, the first command puts
# it into .uv/ beside this file, and nowhere else.

UV_VERSION := 0.13.8

# Passed on to the command behind the target: make demo ARGS="--json", make test ARGS="tests/unit -x".
ARGS ?=

# What the workers of make faults promise: exactly_once or at_least_once.
GUARANTEE ?= exactly_once
# The seed of make faults. None: another one each time; it is printed.
SEED ?=

# The Python is the machine's: uv would otherwise fetch one of its own.
export UV_PYTHON_DOWNLOADS := never

UV := $(shell command -v uv 2>/dev/null)
ifeq ($(UV),)
UV := .uv/bin/uv
endif

.PHONY: help demo test faults compare lint format types docs check hooks clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: | $(UV)  ## a local Kafka, a worker, and the trips of the recorded drives; ARGS=--full: all of it
	@$(UV) run trips demo $(ARGS)

test: | $(UV)  ## the whole test suite, on a real Kafka; two processes share it
	$(UV) run pytest -n 2 --dist loadfile $(ARGS)

faults: | $(UV)  ## all faults on real brokers (some 35 minutes), and a table; SEED=… repeats a run, GUARANTEE=at_least_once
	TRIPS_TEST_FAULTS=all TRIPS_TEST_SEED=$(SEED) TRIPS_TEST_GUARANTEE=$(GUARANTEE) $(UV) run pytest tests/faults -n 3 --dist worksteal $(ARGS)

compare: | $(UV)  ## this project beside others that do its job: a table; ARGS="--rounds 1"
	$(UV) run python benchmarks/compare.py $(ARGS)

lint: | $(UV)  ## what ruff says of the code and its format
	$(UV) run ruff check
	$(UV) run ruff format --check

format: | $(UV)  ## put the code into ruff's format
	$(UV) run ruff check --fix
	$(UV) run ruff format

types: | $(UV)  ## what mypy says of the types
	$(UV) run mypy

docs: | $(UV)  ## write anew what is made from the code: a diagram, the settings, the schemas
	$(UV) run docs/diagram.py
	$(UV) run docs/transitions.py
	$(UV) run docs/plans.py
	$(UV) run python -m streams.settings > docs/settings.md
	$(UV) run trips schemas

check:  ## all that CI runs: tests, lint, types
	.ci/run

hooks: | $(UV)  ## lint and types before each commit, tests before each push
	$(UV) run pre-commit install --hook-type pre-commit --hook-type pre-push

clean:  ## away with everything that these commands made here
	rm -rf .venv .uv .pytest_cache .mypy_cache .ruff_cache .hypothesis dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A Python can be on the PATH and still not start, or be too old or too new: so each is asked.
.uv/bin/uv:
	@for python in python3 python3.13 python3.12 python3.11 python none; do \
	    if $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then break; fi; \
	done; \
	if [ $$python = none ]; then \
	    echo "ignition-trips needs Python 3.11, 3.12 or 3.13, and there is none on the PATH: install one and try again" >&2; \
	    exit 1; \
	fi; \
	echo "uv is not installed: putting uv $(UV_VERSION) into .uv/ (once)" >&2; \
	$$python -m venv --clear .uv && .uv/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
