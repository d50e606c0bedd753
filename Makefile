# Every target sets up all it needs in .venv, from Python 3.11 or newer alone; a C++ compiler makes the
# installed package faster. `make demo` and `make test` are the two to start with.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
WORKERS ?= 2
BIN = $(VENV)/bin
PACKAGE = pyproject.toml CMakeLists.txt $(shell find src -type f ! -name '*.pyc')
CODE = src tests docs recipes $(wildcard benchmarks)
# Two processes of one thread each do as much as one of two, and do not wait for each other.
ONE_THREAD = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

# An installation without compiled operators is made again when another compiler is found than then, or
# another version of it.
COMPILER := $(shell command -v c++ || command -v g++ || command -v clang++)
FOUND := $(if $(COMPILER),$(COMPILER) $(shell $(COMPILER) --version 2>/dev/null | head -n 1))
PORTABLE = $(wildcard $(VENV)/.portable)
AGAIN = $(if $(PORTABLE),$(if $(filter-out $(shell cat $(PORTABLE)),$(FOUND)),again))

.PHONY: help demo test lint format types examples clean again

help:
	@echo "make demo      install silva and run its demo"
	@echo "make test      install what the tests need and run them"
	@echo "make lint      ruff: lint and format, without changes"
	@echo "make format    ruff: mend both"
	@echo "make types     mypy"
	@echo "make examples  run every script in examples/"
	@echo "make clean     remove $(VENV) and caches"

demo: $(VENV)/.runtime
	@echo "==> silva demo"
	$(BIN)/silva demo

test: $(VENV)/.test
	@echo "==> tests, $(WORKERS) processes"
	$(ONE_THREAD) $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadscope $(TESTS)

lint: $(VENV)/.test
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)

format: $(VENV)/.test
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

types: $(VENV)/.test
	$(BIN)/mypy

examples: $(VENV)/.test
	@set -e; for script in $(sort $(wildcard examples/*.sh)); do \
	  echo "==> $$script"; PATH="$(abspath $(BIN)):$$PATH" bash "$$script"; done

$(BIN)/python:
	@test -n "$(PYTHON)" && $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "silva needs Python 3.11 or newer; name one with make PYTHON=..." >&2; exit 1; }
	@echo "==> creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) || { rm -f $@; \
	  echo "no virtual environment could be made; on Debian install python3-venv" >&2; exit 1; }

# pip shows nothing of what the build says, so it is told here that compiling failed.
COMPILED = if $(BIN)/python -c 'import sys; from silva.kernels import native_loaded; \
  sys.exit(not native_loaded())'; then rm -f $(VENV)/.portable; \
  else echo "$(FOUND)" > $(VENV)/.portable; \
  echo "==> the compiled operators could not be built, and silva is slower without: they need g++ 9 or newer."; \
  echo "    make tries again with another compiler; $(BIN)/python -m pip install --verbose . says what went wrong"; fi

# The stamps are newer than the last installation of the package as it stands. The test installation
# contains the other.
$(VENV)/.runtime: $(PACKAGE) $(AGAIN) | $(BIN)/python
	@echo "==> installing silva into $(VENV) (minutes the first time, seconds later)"
	$(BIN)/python -m pip install $(if $(wildcard $(VENV)/.installed),--quiet) --disable-pip-version-check .
	@$(COMPILED)
	@touch $(VENV)/.installed $@

$(VENV)/.test: $(PACKAGE) $(AGAIN) | $(BIN)/python
	@echo "==> installing silva and its test tools into $(VENV) (minutes the first time, seconds later)"
	$(BIN)/python -m pip install $(if $(wildcard $@),--quiet) --disable-pip-version-check '.[test]'
	@$(COMPILED)
	@touch $(VENV)/.installed $(VENV)/.runtime $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
