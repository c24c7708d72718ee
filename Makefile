# Everything a checkout needs. `make demo` and `make test` set themselves up; nothing outside this folder is changed.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all fuzz check fmt bench docs clean

help: ## say what there is to make
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

setup: $(INSTALLED) ## make .venv with exact versions of everything

demo: $(INSTALLED) ## walk the whole road offline in the rehearsal world
	$(BIN)/medkd demo

test: $(INSTALLED) ## run the tests and the documented examples, without the slow ones
	$(BIN)/pytest -n 2 --dist loadscope -m "not slow" src tests

test-all: $(INSTALLED) ## run every test, the slow ones too
	$(BIN)/pytest -n 2 --dist loadscope src tests

fuzz: $(INSTALLED) ## damage every outside text at random for FUZZ_S seconds (60), each find made small
	FUZZ_S=$(or $(FUZZ_S),60) $(BIN)/pytest tests/faults/test_outside_text.py --timeout 0

check: $(INSTALLED) ## lint, format, types, floors
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/basedpyright
	$(BIN)/lint-imports

fmt: $(INSTALLED) ## put the code in form
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(INSTALLED) ## measure what docs/en/benchmarks.md claims, one script a claim
	@for script in $(wildcard bench/*.py); do echo "== $$script"; $(BIN)/python "$$script" || exit; done

docs: $(INSTALLED) ## write the page of commands, check every command and link, build the site offline
	$(BIN)/python docs/write_commands.py
	$(BIN)/pytest -q tests/house/test_house_documents.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs -q build --strict -f mkdocs.yml
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs -q build --strict -f mkdocs.zh.yml
	@echo "build/site holds the pages; to read and search them: $(BIN)/python -m http.server -d build/site"

clean: ## remove what was made here: .venv, caches, builds; not runs/
	rm -rf .venv build dist src/*.egg-info .ruff_cache .import_linter_cache .hypothesis
	find src tests docs bench -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

$(INSTALLED): constraints.txt pyproject.toml tests/package.json
	@command -v $(PYTHON) >/dev/null || { echo "error: no $(PYTHON) here; MedKD needs Python 3.11 or newer: install it, or make setup PYTHON=/path/to/python" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $$($(PYTHON) --version 2>&1 | head -n 1) is too old; MedKD needs 3.11 or newer: make setup PYTHON=/path/to/python3.11" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,dev]'
	@if command -v npm >/dev/null; then npm install --silent --no-fund --no-audit --no-package-lock --prefix tests || true; fi
	@test -d tests/node_modules/axe-core || echo "note: no axe-core from npm; the test by it is skipped"
	@touch $@
