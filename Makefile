# make demo: train, score, time and draw on the built-in streets. make test: run the tests.
# Both make their own environment first; `make venv` does only that.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# CUDA jax where an NVIDIA GPU answers, CPU jax elsewhere.
EXTRAS := $(shell nvidia-smi -L >/dev/null 2>&1 && echo test,cuda12 || echo test)

.PHONY: venv test check demo clean

venv: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": set PYTHON=python3.12, say")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(EXTRAS)]'
	@touch $@

test: venv
	$(BIN)/python -m pytest

check: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyrefly check

clean:
	rm -rf $(VENV) runs .jax_cache
