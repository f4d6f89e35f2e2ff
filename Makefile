# Everything makes .venv when there is none; a second run starts at once.
PYTHON  ?= python3
VENV    ?= .venv
BIN     := $(VENV)/bin
STAMP   := $(VENV)/.installed
JOBS    ?= auto
SECONDS ?= 60
PYTEST  ?=

.DEFAULT_GOAL := help
.PHONY: help demo test fuzz lint format bench docs clean

help:           ## what there is to make
	@grep -hE '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## (.*)/  make \1\t\2/' | expand -t 16

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "twisted-mta needs Python 3.11 or later: make PYTHON=python3.12 …")'
	@test -x $(BIN)/python || { echo "Making $(VENV) …"; $(PYTHON) -m venv $(VENV); }
	@echo "Installing twisted-mta and its tools into $(VENV) …"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[test,lint]'
	@$(PYTHON) -m venv $(VENV)/issuer  # a peer: what it brings along, a package "tests" too, is none of ours
	@$(VENV)/issuer/bin/python -m pip install -qq --disable-pip-version-check 'canaille[oidc] >= 0.3.6'
	@touch $@

demo: $(STAMP)  ## the real service on loopback, a message here, one elsewhere, one that bounces; Ctrl-C ends it
	@$(BIN)/python -m twisted_mta.demo $(ARGS)

test: $(STAMP)  ## all tests; PYTEST="-k word" for some, MTA_REQUIRE_PEERS=1 to miss none
	$(BIN)/python -m pytest -n $(JOBS) --dist loadscope $(PYTEST)

fuzz: $(STAMP)  ## coverage-guided, over what parses: SECONDS=600 in all; what breaks is kept and tested from then on
	$(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[fuzz]'
	$(BIN)/python -m tests.fuzz.run --seconds $(SECONDS) $(ARGS)

lint: $(STAMP)  ## format, style, types, and the arrows between the rooms
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## lay the code out as lint wants it
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP) ## measure against Postfix and the peers found, side by side; writes docs/performance.md (needs root)
	$(BIN)/python bench/run.py $(ARGS)

docs: $(STAMP)  ## regenerate what is made of the program: configuration, commands and metrics in docs/, conf/mta.toml
	$(BIN)/python -m twisted_mta.config.reference
	$(BIN)/python -m twisted_mta.admin.manual > docs/commands.md
	$(BIN)/python -m twisted_mta.admin.metrics > docs/metrics.md

clean:          ## remove what make made, and the demonstration's state
	rm -rf $(VENV) var .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache _trial_temp*
