# Two commands do everything on a machine with Python 3.11 or newer and make:
#   make hopper   creates the environment (.venv) and runs the main job
#   make test     creates the environment and passes the tests

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready

.PHONY: help env hopper test test-all check format wheel clean

help:
	@echo "make hopper | test | test-all | check | format | wheel | clean"

env: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || (echo "Python 3.11 or newer is needed; this is $$($(PYTHON) --version). Say: make PYTHON=python3.12 $(MAKECMDGOALS)" && exit 1)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,experts,ray,robotics,tensorboard]'
	@touch $(STAMP)

hopper: $(STAMP)
	$(BIN)/python -m iq_offline.recipes.hopper_offline

# Where Python may not keep what it compiled, every process of the tests compiles the package once more.
test test-all: export PYTHONDONTWRITEBYTECODE =

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadgroup

test-all: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m ''

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/typos

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(STAMP)
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) dist build .pytest_cache .ruff_cache
