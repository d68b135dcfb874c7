# make train   a one-step generator of digits, in a few minutes
# make test    the default tests
# make lint    style, types, layout
# make gallery the pictures of the README, by running the lesson
# Each makes the environment it needs, and reuses it while pyproject.toml stays the same.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: train test lint gallery
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

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -e ".[dev]"
	touch $@
