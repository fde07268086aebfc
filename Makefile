# `make demo` and `make test` do all their own set-up: Python 3.11 or newer and make are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test check format lint types schema docs images clean

demo: $(INSTALLED)
	$(BIN)/circuitlens demo

test: $(INSTALLED)
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

check: lint types test

lint: $(INSTALLED)
	$(BIN)/ruff format --check
	$(BIN)/ruff check

types: $(INSTALLED)
	$(BIN)/pyright --warnings

format: $(INSTALLED)
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

schema: $(INSTALLED)
	$(BIN)/python -c 'import json; from circuitlens.circuit import schema; print(json.dumps(schema(), indent=1))' > circuitlens/circuit/circuit.schema.json

docs: $(INSTALLED)
	$(BIN)/python docs/make_tables.py

images: $(INSTALLED)
	$(BIN)/python docs/make_images.py

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "CircuitLens needs Python 3.11 or newer; name one with make PYTHON=…")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	touch $(INSTALLED)

clean:
	rm -rf $(VENV) dist build .pytest_cache .ruff_cache .hypothesis
