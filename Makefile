# make demo   the whole chain on a made-up corpus, on a CPU, into runs/demo; `make demo-quick` less of everything, into runs/quick
# make test   lint, types, tests: these by a worker for each core, up to eight, or by WORKERS=3
# make soak   the tests that have a longer form in that form: all shapes of ranks and workers, 500 damaged tars, runs killed
#             and preempted again and again (on a real SLURM cluster where it is installed); the better part of an hour
# All set up .venv by themselves; a second call installs nothing.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
DEMO ?= runs/demo
QUICK ?= runs/quick
CORES := from emohead.trainers.run.cpu import usable_cores; print(min(8, usable_cores()))

.PHONY: demo demo-quick test soak lint clean

demo: $(INSTALLED)
	$(BIN)/emohead demo --out $(DEMO)

demo-quick: $(INSTALLED)
	$(BIN)/emohead demo --quick --out $(QUICK)

test: lint
	$(BIN)/python -m pytest --numprocesses $${WORKERS:-$$($(BIN)/python -c "$(CORES)")} --dist loadscope --no-loadscope-reorder

soak: $(INSTALLED)
	EMOHEAD_SOAK=1 $(BIN)/python -m pytest tests/test_stream_resume.py tests/test_fuzz.py tests/test_fuzz_media.py \
	  tests/test_fuzz_commands.py tests/test_checkpoints.py tests/test_survival.py tests/test_slurm_survival.py tests/test_slurm_sweep.py \
	  tests/test_large_blocks.py

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	mkdir -p .venv/types && ln -sfn "$(CURDIR)" .venv/types/emohead  # the package's folders as mypy wants to see them
	MYPYPATH=.venv/types $(BIN)/mypy -p emohead.models -p emohead.datamodules -p emohead.trainers -p emohead.apps

$(INSTALLED): pyproject.toml $(wildcard requirements/*)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python requirements/install.py --pinned-torch
	touch $(INSTALLED)

clean:
	rm -rf .venv build *.egg-info runs
