# Each target sets up .venv by itself; Python 3.11 or newer and pip are all it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := playbook steps tests

.PHONY: rehearse test lint format bench torture clean

# Run-time dependencies only: a rehearsal is ready in seconds.
$(VENV)/.run: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.run dev-requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --requirement dev-requirements.txt
	@touch $@

# The main job on the embedded twins: no account, no token, no network.
rehearse: $(VENV)/.run
	@$(BIN)/rotation-playbook rehearse --batch

test: $(VENV)/.dev
	$(BIN)/python -m pytest

lint: $(VENV)/.dev
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

bench: $(VENV)/.dev
	$(BIN)/python -m pytest -q -s tests/bench.py tests/bench_rotation.py

# The full matrix of the crash sweep and 5,000 random histories; takes hours.
torture: $(VENV)/.dev
	TORTURE=1 HISTORIES=5000 $(BIN)/python -m pytest -q -s tests/crash tests/test_journal.py

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .coverage .hypothesis
