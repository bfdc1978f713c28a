# make demo   trains, scores, draws and times BiSeNet V2 on the built-in streets
# make test   runs the tests; make check: format, lint and types
# make audit  asks the internet whether what is installed has known weaknesses
# make venv   only makes the environment .venv that the others make first

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# CUDA jax where an NVIDIA GPU answers, CPU jax elsewhere. A new environment may have more extras
# of pyproject.toml: make test WITH=torch runs the tests that compare with PyTorch, too.
WITH ?=
EXTRAS := test$(shell nvidia-smi -L >/dev/null 2>&1 && echo ,cuda12)$(WITH:%=,%)

.PHONY: venv test check audit demo clean

venv: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": set PYTHON=python3.12, say")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(EXTRAS)]'
	@touch $@

test: venv
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal --timeout 900 --timeout-method thread

check: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyrefly check

audit: venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check '.[audit]'
	$(BIN)/python -m pip freeze --exclude-editable --disable-pip-version-check > $(VENV)/installed.txt
	$(BIN)/pip-audit --strict --no-deps --disable-pip --requirement $(VENV)/installed.txt

demo: venv
	@echo; echo "== 1 of 3. Train on the built-in streets. The plain command:"
	$(BIN)/python train.py --config configs/synthetic.py --workdir runs/demo
	@echo; echo "== 2 of 3. Score the run and draw what it sees. The plain command:"
	$(BIN)/python evaluate.py --workdir runs/demo --json runs/demo/scores.json --save_dir runs/demo/pictures --pictures 4
	@echo; echo "== 3 of 3. Time the network. The plain command:"
	$(BIN)/python bench.py --workdir runs/demo --height 512 --width 1024 --seconds 5 --json runs/demo/speed.json
	@echo; echo "Look at runs/demo/pictures (image, prediction, truth, errors, legend);"
	@echo "curves: $(BIN)/pip install tensorboard && $(BIN)/tensorboard --logdir runs/demo/tensorboard"

clean:
	rm -rf $(VENV) runs .jax_cache
