# `make help` lists the targets. Each sets up .venv by itself; once it is current, that costs nothing.

SEEDS     ?= 2
STEPS     ?= 40000
WORKERS   ?= auto
PIP_FLAGS ?= -qq
PYTHON    ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3,$(shell $(p) -c $(USABLE) 2>/dev/null && echo $(p))))
USABLE    := 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))'

# Chosen on seeds 100 to 105 for reaching 475 in each of them; the RL Zoo's settings for CartPole take 18,000 to 44,000 steps.
DEMO := --learning-rate 5e-4 --batch-size 64 --net-arch 64 64 --train-freq 4 --gradient-steps 4 \
        --tau 0.01 --target-update-interval 1 --exploration-fraction 0.1

BIN     := .venv/bin
INSTALL := $(BIN)/python -m pip install $(PIP_FLAGS) --disable-pip-version-check --no-input --no-compile -c constraints.txt

# Tools that are not among the versions that are tested.
TOOLS := $(BIN)/python -m pip install $(PIP_FLAGS) --disable-pip-version-check --no-input --upgrade --target build/tools

RESOLUTION ?= highest

# Each worker of the tests is one process with one thread.
THREADS := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
PYTEST  := $(THREADS) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

# Installed without bytecode, which is much quicker; so that it is kept as modules are first imported:
export PYTHONDONTWRITEBYTECODE :=

.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test test-all test-fast test-long lint type format bench results docs docs-serve packages audit sbom clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

demo: .venv/.demo ## train our DQN and SB3's on CartPole-v1 until it is solved, and compare the seconds in runs/demo (SEEDS=5)
	rm -rf runs/demo
	@# SDL, which draws the video, is told that there is no screen.
	SDL_VIDEODRIVER=dummy XDG_RUNTIME_DIR=/tmp $(BIN)/agentlib compare dqn --env CartPole-v1 --seeds $(SEEDS) \
	    --steps $(STEPS) --until 475 --eval-every 1000 --video --threads 1 --out runs/demo $(DEMO)

test: .venv/.dev ## the test suite (WORKERS=1 for one process)
	$(PYTEST) -m "not thorough"

test-all: .venv/.dev ## the same, with the compiled contract of every learner
	$(PYTEST)

test-fast: .venv/.dev ## the tests that are neither slow nor for a GPU
	$(PYTEST) -m "not slow and not gpu"

test-long: .venv/.dev ## what takes longer than a test may: 200 kills, half an hour of eight threads, 100,000 harmful files
	$(THREADS) $(BIN)/python benchmarks/kills.py --kills 200
	$(THREADS) $(BIN)/python benchmarks/kills.py --kills 200 --compiled
	$(THREADS) $(BIN)/python benchmarks/soak.py --minutes 30
	$(THREADS) $(BIN)/python benchmarks/fuzz.py --inputs 100000

lint: .venv/.dev ## style and format, nothing changed
	$(BIN)/ruff check
	$(BIN)/ruff format --check

type: .venv/.dev ## types
	$(BIN)/mypy

format: .venv/.dev ## mend what `make lint` finds, where a tool can
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

bench: .venv/.dev ## measure speed against Stable-Baselines3
	$(BIN)/python benchmarks/run.py
	$(BIN)/python benchmarks/growth.py

results: .venv/.dev ## train what the printed results claim, and run the blocks of the documents in full
	$(BIN)/python benchmarks/results.py
	AGENTLIB_DOCUMENTS=full $(THREADS) $(BIN)/python -m pytest -n 0 tests/test_documents.py -k "blocks_run or lines_run"

docs: .venv/.docs ## the site of the documents and the reference, in docs/_build
	$(BIN)/python -m sphinx -n -W --keep-going -q -c docs/site . docs/_build

docs-serve: docs ## the same, on http://127.0.0.1:8000
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory docs/_build 8000

packages: ## build the wheel and test it on the newest releases (RESOLUTION=lowest-direct: on the lowest); needs uv and build
	.ci/packages $(RESOLUTION) $(PYTHON)

audit: .venv/.made ## known weaknesses of the pinned packages, by pip-audit, which asks the package index
	@$(TOOLS) pip-audit
	PYTHONPATH=build/tools $(BIN)/python .ci/audit

sbom: .venv/.made ## a bill of materials of the pinned packages in build/sbom.json (CycloneDX)
	@$(TOOLS) cyclonedx-bom
	PYTHONPATH=build/tools $(BIN)/python -W ignore::UserWarning -m cyclonedx_py requirements constraints.txt --pyproject pyproject.toml \
	    --output-reproducible --of JSON -o build/sbom.json

clean: ## remove caches and builds; .venv and runs/ stay
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name .venv -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +

# .demo has what the demo needs, .dev has everything. Both are renewed when what they are made from changes.

.venv/.demo: pyproject.toml constraints.txt .venv/.made
	@echo "Installing agentlib for the demo into .venv (torch is large: the first time takes minutes)"
	@$(INSTALL) -e '.[sb3,plots,video]'
	@touch $@

.venv/.dev: pyproject.toml constraints.txt .venv/.made
	@echo "Installing agentlib with all extras into .venv (torch is large: the first time takes minutes)"
	@$(INSTALL) -e '.[dev]'
	@touch $@ .venv/.demo

.venv/.docs: pyproject.toml constraints.txt .venv/.made
	@echo "Installing agentlib and Sphinx into .venv (torch is large: the first time takes minutes)"
	@$(INSTALL) -e '.[docs,sb3,plots,demos,zoo,sweep]'
	@touch $@

.venv/.made:
	@if [ -z "$(PYTHON)" ]; then \
	    echo "agentlib needs Python 3.11 or newer with venv and pip, and found none." >&2; \
	    echo "Install it (on Debian or Ubuntu also python3-venv), or name it: make PYTHON=/path/to/python3" >&2; \
	    exit 1; fi
	@$(PYTHON) -c $(USABLE) || { echo "$(PYTHON) is older than Python 3.11, or lacks venv and pip." >&2; exit 1; }
	@$(PYTHON) -m venv .venv
	@touch $@
