# Needs Python 3.11 or newer with venv and pip; everything else is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SETUP := $(VENV)/.installed
SITE := $(VENV)/.site

.PHONY: demo test lint docs bench gpu gpu-study clean

demo: $(SETUP)
	$(BIN)/wavepos demo

bench: $(SETUP)
	$(BIN)/python -m benchmarks

# The first look at a GPU, at most 8 minutes: make gpu OUT=DIR. Then the smallest useful study on it, some 40 minutes.
OUT ?= results
gpu: $(SETUP)
	$(BIN)/python -m benchmarks gpu --out $(OUT)

gpu-study: $(SETUP)
	$(BIN)/wavepos study table1 --size gpu --seeds 1 --methods RoPE ALiBi Wavelet "Wavelet, recency start" --out $(OUT)

test: $(SITE)
	$(BIN)/python -m pytest -q -n auto

lint: $(SITE)
	$(BIN)/ruff format --check src tests benchmarks examples docs noxfile.py
	$(BIN)/ruff check src tests benchmarks examples docs noxfile.py
	$(BIN)/mypy

# The site, in docs/_build/html/index.html; no network, every warning an error.
docs: $(SITE)
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs docs/_build/html

$(SETUP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "wavepos needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[lab,eval,dev]'
	touch $(SETUP)

# What the site is built with; the demo does without.
$(SITE): $(SETUP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	touch $(SITE)

clean:
	rm -rf $(VENV) build dist docs/_build .mypy_cache .ruff_cache .pytest_cache .hypothesis
