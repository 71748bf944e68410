# The two commands of the README: `make train` and `make test`. Each makes .venv where it is missing, installs, runs.
#
#   make train [TASK=walker_walk] [PRESET=cpu] [LOGDIR=runs/demo] [ARGS="--env_frames 100000 --seed 1"]
#   make test  [ARGS="-k checkpoint"]       all but the slow tests; those: make test ARGS="-m slow"
#   make lint
#   make docs                               this documentation as a site: site/index.html, which needs no network
#
# PYTHON=python3.12 names another interpreter; pip's own settings (PIP_INDEX_URL and so on) are respected.

PYTHON ?= python3
TASK ?=
PRESET ?=
LOGDIR ?=
ARGS ?=

PACKAGES := run_agent.py agent world_model envs replay multi_task_learning
STAMP := .venv/.installed
BIN := .venv/bin

.PHONY: help train test lint docs

help:
	@sed -n '1,/^$$/s/^# \{0,1\}//p' $(firstword $(MAKEFILE_LIST))

train: $(STAMP)
	@$(BIN)/python run_agent.py train $(if $(TASK),--task $(TASK)) $(if $(PRESET),--preset $(PRESET)) \
		$(if $(LOGDIR),--logdir $(LOGDIR)) $(ARGS)

# One thread for each of pytest's workers: there is one worker per core.
test: $(STAMP)
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(PACKAGES)

docs: $(STAMP)
	@$(BIN)/python -c 'import material, mkdocstrings' 2>/dev/null || \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict
	@echo "site/index.html; with search: $(BIN)/python -m http.server -b 127.0.0.1 -d site"

# The stamp comes last: what was interrupted before is done again by the next call.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' || \
		{ echo "make: $(PYTHON) is missing or not Python 3.11 or 3.12; name one that is: make PYTHON=python3.11 ..." >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv || \
		{ echo "make: $(PYTHON) cannot make a virtual environment; install Debian's python3-venv" >&2; exit 1; }
	@echo "installing into .venv (some minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -e '.[dev]'
	@$(BIN)/python -W ignore -m compileall -qq -j 0 .venv/lib $(PACKAGES) || true  # pip uses one core; some files are no Python 3
	@touch $@
