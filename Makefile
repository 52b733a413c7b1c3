# make demo, make test, make sim: all set-up they need they do themselves, once. Needs Python 3.11 or newer and a compiler.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test sim lint lock clean

demo: $(INSTALLED)
	@$(BIN)/python -m keycluster.cli.demo

test: $(INSTALLED)
	$(BIN)/python -m pytest

# Fresh seeds of both simulators, three minutes, and up to one more to shrink failures; these are in
# simulation-failures/, with the command that runs them again.
SIM_SECONDS ?= 90

sim: $(INSTALLED)
	@status=0; \
	$(BIN)/keycluster simulate --core --for $(SIM_SECONDS) --shrink-time 30 || status=1; \
	$(BIN)/keycluster simulate --region --for $(SIM_SECONDS) --shrink-time 30 || status=1; \
	exit $$status

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p keycluster -p tests
	$(BIN)/lint-imports

# The pinned packages with their hashes, then this checkout itself, editable and without asking for anything more.
$(INSTALLED): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# Pins the newest versions that pyproject.toml's ranges allow. Run by hand, and look at what changed.
lock: $(INSTALLED)
	$(BIN)/pip-compile --quiet --extra dev --generate-hashes --allow-unsafe --strip-extras \
		--no-emit-index-url --no-emit-find-links --upgrade --output-file requirements.lock pyproject.toml

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .hypothesis .import_linter_cache
