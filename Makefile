# make demo   a real Wikipedia dump becomes a model you can talk to: no server, account or GPU
# make test   every test that can run here;  make quick   those that take seconds
# make lint   ruff, mypy, import-linter, codespell
PYTHON ?= python3
BIN := .venv/bin
.PHONY: setup demo test quick lint clean

setup: .venv/.demo

.venv/.pip:
	$(PYTHON) -c 'import sys; sys.exit("Etude needs Python 3.11 or newer, this is " + sys.version) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	touch $@

.venv/.demo: .venv/.pip pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo]'
	touch $@

.venv/.test: .venv/.demo
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,test]'
	touch $@

demo: .venv/.demo
	$(BIN)/etude run demo

test: .venv/.test
	$(BIN)/python -m pytest

quick: .venv/.test
	$(BIN)/python -m pytest -m "not slow and not gpu and not browser"

lint: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

clean:
	rm -rf .venv .etude
