# make demo   the whole chain on a made-up corpus, on a CPU, into runs/demo
# make test   lint, types, tests
# Both set up .venv by themselves; a second call installs nothing.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
DEMO ?= runs/demo

.PHONY: demo test lint clean

demo: $(INSTALLED)
	$(BIN)/emohead demo --out $(DEMO)

test: lint
	$(BIN)/python -m pytest

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	mkdir -p .venv/types && ln -sfn "$(CURDIR)" .venv/types/emohead  # the package's folders as mypy wants to see them
	MYPYPATH=.venv/types $(BIN)/mypy -p emohead.models -p emohead.datamodules -p emohead.trainers -p emohead.apps

# torch comes first and pinned: where only a CPU build is offered, nothing after it replaces it.
$(INSTALLED): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "torch==2.13.0"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[prepare,dev]"
	touch $(INSTALLED)

clean:
	rm -rf .venv build *.egg-info runs
