# `make help` lists the targets. Each one first puts what it needs into .venv; nothing is global.
.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
SHELL := /bin/sh

PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
PYTEST = $(BIN)/python -m pytest
SUITE = $(PYTEST) -n auto --maxprocesses 4
CODE := hessian_probe tests $(wildcard benchmarks examples notebooks docs)

##@ The two that a new user runs
demo: $(READY)/demo ## set up, then run the demonstration
	$(BIN)/hessian-probe demo $(ARGS)

test: $(READY)/test,demo ## set up, then run the suite in float64 and in float32
	HESSIAN_PROBE_TEST_X64=1 $(SUITE) -m "not slow" $(ARGS)
	HESSIAN_PROBE_TEST_X64=0 $(SUITE) -m "not slow" $(ARGS)

# Compiled programs are kept from run to run.
test slow truth golden mutants examples bench-diagnose: export JAX_COMPILATION_CACHE_DIR := $(CURDIR)/.cache/xla
test slow truth golden mutants examples bench-diagnose: export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS := 0
test slow truth golden mutants examples bench-diagnose: export JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES := -1

##@ More tests and measurements
slow: $(READY)/test,demo ## run the tests marked slow, in one precision each
	HESSIAN_PROBE_TEST_X64=1 $(SUITE) -m slow $(ARGS) || test $$? -eq 5 # 5: there is none
	HESSIAN_PROBE_TEST_X64=0 $(SUITE) -m "slow and float32" $(ARGS) || test $$? -eq 5

truth: $(READY)/demo ## label points of known type; print the table
	$(BIN)/python -m benchmarks.truth $(ARGS)

endings: $(READY)/demo ## what is left to gain where real trainings end, and what is said there (hours)
	$(BIN)/python -m benchmarks.endings $(ARGS)

golden: $(READY)/demo ## compare what the library answers with the records under tests/golden
	$(BIN)/python -m benchmarks.golden $(ARGS)

mutants: $(READY)/test,demo ## halve and double every threshold, take out every guard; print what no test notices
	$(BIN)/python tests/mutants.py $(ARGS)

bench: $(READY)/demo ## print the speed of products and of both spectrum ends
	$(BIN)/python -m benchmarks.speed $(ARGS)

bench-verdict: $(READY)/demo ## the price of a verdict in gradients' time, and of its first answer
	$(BIN)/python -m benchmarks.verdict $(ARGS)

bench-noise: $(READY)/demo ## count how often what is said about noisy data holds
	$(BIN)/python -m benchmarks.noise $(ARGS)

bench-kill: $(READY)/demo ## kill long jobs at random times, go on, compare the answers
	$(BIN)/python -m benchmarks.kill $(ARGS)

bench-diagnose: $(READY)/demo ## diagnose synthetic failures; print the confusion table
	$(BIN)/python -m benchmarks.diagnose $(ARGS)

bench-wild: $(READY)/demo ## diagnose 23 faulty programs that people asked about; --twins: their repairs
	$(BIN)/python -m benchmarks.wild $(ARGS)

bench-stability: $(READY)/demo ## stability limits against observed divergence; the edge of stability
	$(BIN)/python -m benchmarks.stability $(ARGS)

bench-sharpness: $(READY)/demo ## sharpness by batch size and rate, against the gap to the test loss
	$(BIN)/python -m benchmarks.sharpness $(ARGS)

bench-coverage: $(READY)/demo ## print stated probabilities against observed frequencies
	$(BIN)/python -m benchmarks.coverage $(ARGS)

bench-escape: $(READY)/demo ## print the cost of leaving saddles
	$(BIN)/python -m benchmarks.escape $(ARGS)

bench-health: $(READY)/demo ## what the hook costs where training is well, and adds to the compiled step
	$(BIN)/python -m benchmarks.escape_health $(ARGS)

bench-stuck: $(READY)/demo ## trainings that get stuck, with and without the hook, on minibatches of real data
	$(BIN)/python -m benchmarks.stuck $(ARGS)

examples: $(READY)/test,frameworks ## run the hooks of all frameworks, their examples and checkpoints
	$(PYTEST) tests/test_examples.py tests/test_training_adapters.py $(ARGS)
	HESSIAN_PROBE_TEST_X64=0 $(PYTEST) tests/test_training_events.py tests/test_training_monitor.py -k orbax $(ARGS)

##@ Checks on the source
lint: $(READY)/lint ## ruff: rules and format
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)

format: $(READY)/lint ## ruff: mend what can be mended
	$(BIN)/ruff check --fix-only $(CODE)
	$(BIN)/ruff format $(CODE)

types: $(READY)/lint ## mypy in strict mode
	$(BIN)/mypy

##@ Documents
docs: $(READY)/docs ## build the site into site/, warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

notebooks: $(READY)/notebook ## execute every notebook
	$(PYTEST) --nbmake --nbmake-timeout=300 notebooks $(ARGS)

lecture: $(READY)/notebook ## run the lecture's notebook; write figures and tables into docs/
	$(BIN)/python -m benchmarks.lecture $(ARGS)

##@ The rest
setup: $(READY)/dev ## put everything that a developer needs into .venv

clean: ## remove what the other targets made
	rm -rf $(VENV) .cache site build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## print this list
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@/ { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# .venv/ready/NAMES says that the extras NAMES of pyproject.toml are installed.
$(READY)/%: pyproject.toml $(READY)/venv
	@echo "Installing hessian_probe[$*] into $(VENV) (a few minutes the first time)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '.[$*]'
	@touch '$@'

$(READY)/venv:
	@for python in $(PYTHON) python3 python3.13 python3.12 python3.11; do \
	  if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
	      >/dev/null 2>&1; then \
	    echo "Setting up $(VENV) with $$("$$python" --version)"; \
	    rm -rf $(VENV) && "$$python" -m venv $(VENV) && mkdir -p $(READY) && touch $@; \
	    exit; \
	  fi; \
	done; \
	echo "hessian_probe needs Python 3.11 or newer with the venv module, and none was found:" >&2; \
	echo "install one (on Debian and Ubuntu: python3 and python3-venv), or name it with" >&2; \
	echo "make PYTHON=/path/to/python3 ..." >&2; \
	exit 1

.PHONY: demo test slow examples truth golden mutants bench bench-verdict bench-escape bench-health bench-stuck bench-noise bench-kill bench-stability bench-diagnose bench-wild bench-sharpness bench-coverage lint format types docs notebooks lecture setup clean help
