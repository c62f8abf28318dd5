# `make help` lists the targets. Everything lives in .venv; nothing else is installed.

PYTHON ?= python3
VENV ?= .venv
OUT ?= out/demo
REAL := smollm2-135m
MODEL ?= $(REAL)
RELATION ?= country_capital

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Few large batches: one of a single pair costs a third of one of all.
DISCOVER = $(BIN)/kc discover --relation $(RELATION) --batch-size 32 --out $(OUT) --model
# One thread in each of the processes that share the tests.
WORKERS ?= 2
SECONDS ?= 1800
SEED ?= 0
KILLS ?= 100
TEST_ENV := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 WANDB_MODE=disabled
# Worker threads that spin while they wait cost a small or busy machine more than they gain.
export OMP_WAIT_POLICY ?= PASSIVE

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all check lint types bench soak pictures screens docs docs-serve notebooks edit-table serve browser clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## make the environment in .venv

# Redone only when the dependencies change.
$(STAMP): pyproject.toml constraints.txt
	@echo "Installing into $(VENV) (some minutes, about 2 GB)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)

# Passes of few tokens gain nothing by more threads, and lose by their meetings.
demo: export OMP_NUM_THREADS ?= 1
demo: $(STAMP) ## find a relation's circuit in a language model, fetched once; or MODEL=facts-gpt2
	@$(DISCOVER) $(MODEL) || { status=$$?; \
	  if [ $$status = 3 ] && [ "$(MODEL)" = "$(REAL)" ]; then \
	    echo "$(REAL) cannot be had; this is the small model that ships, facts-gpt2:"; \
	    $(DISCOVER) facts-gpt2; \
	  else exit $$status; fi; }

test: $(STAMP) ## run the tests but for the slow ones
	$(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

test-all: $(STAMP) ## run all tests
	$(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "slow or not slow"

lint: $(STAMP) ## style and format, without changing a file
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP) ## static types
	$(BIN)/mypy

check: lint types test-all ## what continuous integration runs: lint, format, types, all tests

bench: $(STAMP) ## measure speed and memory against plain passes
	$(BIN)/python -m experiments.workshop.bench

soak: $(STAMP) ## fuzz, kill and interrupt for half an hour and more (SECONDS=, KILLS=, SEED=)
	$(TEST_ENV) $(BIN)/python -m experiments.workshop.soak --seconds $(SECONDS) --seed $(SEED)
	$(TEST_ENV) $(BIN)/python -m experiments.workshop.soak_sweep --kills $(KILLS) --seed $(SEED)

pictures: $(STAMP) ## draw the README's pictures again
	$(BIN)/python -m experiments.workshop.pictures
	$(BIN)/python -m experiments.workshop.pictures --real

screens: $(STAMP) ## take the README's pictures of the app again (needs Chromium)
	$(BIN)/python -m experiments.workshop.pictures --screens

docs: $(STAMP) ## build the documentation into out/docs, with the notebooks run; a warning is an error
	$(BIN)/zensical build --clean --strict
	$(MAKE) notebooks

docs-serve: docs ## the same, then show it on this machine
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory out/docs 8001

notebooks: $(STAMP) ## run the notebooks, write them as .ipynb into out/notebooks and as pages of the docs
	HF_HUB_DISABLE_PROGRESS_BARS=1 $(BIN)/python -m experiments.workshop.notebooks \
	  --out out/notebooks --pages out/docs/notebooks

edit-table: $(STAMP) ## edit 100 facts a method and model, and see what was rewired
	for model in facts-gpt2 facts-llama; do \
	  $(TEST_ENV) $(BIN)/kc run edit-study unlearning --model $$model \
	    --out out/edit-study/$$model || exit 1; \
	done

serve: $(STAMP) ## browse the results in out/ in the browser
	$(BIN)/kc serve

# Tests in a browser are skipped where there is none; nothing else needs it.
browser: ## install Chromium and its driver for the browser tests, where apt-get can (as root)
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null && echo "already there" || \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get install -y --no-install-recommends chromium chromium-driver; \
	else echo "install chromium and chromedriver with your system's package manager"; fi

clean: ## remove the environment, results in out/ and caches
	rm -rf $(VENV) out build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis .cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
