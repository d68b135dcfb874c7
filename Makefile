# make train      a one-step generator of digits, in a few minutes
# make test       the default tests
# make lint       style, types, layout
# make gallery    the pictures of the README, by running the lesson
# make notebooks  docs/notebooks/: the notebooks with what they print and draw
# Each makes the environment .venv, and reuses it while pyproject.toml stays the same. On a machine without
# an NVIDIA GPU, `make CPU=1 train` makes it without CUDA; .venv is to be removed for another choice.
PYTHON ?= python3
BIN := .venv/bin
CPU ?= $(if $(filter Linux,$(shell uname -s)),,1)
comma := ,
CPU_INDEX ?= https://download.pytorch.org/whl/cpu

.PHONY: train test lint gallery notebooks
train: .venv/ready
	$(BIN)/python train.py

test: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

gallery: .venv/ready
	GALLERY=docs OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_notebooks.py -k lesson

notebooks: .venv/ready
	$(BIN)/pip install --quiet -e ".[notebooks]"
	$(BIN)/jupyter nbconvert --to markdown --execute --output-dir docs/notebooks notebooks/*.ipynb
	perl -pi -e 's/\[(\w+)\.ipynb\]\(\1\.ipynb\)/[$$1]($$1.md)/g' docs/notebooks/*.md
	rm -f docs/notebooks/*_files/*.jpg

.venv/ready: pyproject.toml
	@echo "Installing into .venv, once: $(if $(CPU),under 2 GB on disk,6.4 GB on disk$(comma) two thirds of it CUDA; make CPU=1 does without)"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(if $(filter Linux,$(shell uname -s)),$(if $(CPU),$(BIN)/pip install torch torchvision --index-url $(CPU_INDEX)))
	$(BIN)/pip install -e ".[dev]"
	touch $@
