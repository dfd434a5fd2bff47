# make serve: set up and open the main job. make test: set up and pass the tests.
PYTHON ?= python3
VENV ?= .venv
# People without a GPU avoid the CUDA build of PyTorch: make serve TORCH_INDEX=<PyTorch's CPU wheel index> (docs/install.md)
TORCH_INDEX ?=
PORT ?= 8000
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
TORCH_FLAGS := $(if $(TORCH_INDEX),--no-deps --index-url $(TORCH_INDEX),)
export ST2V_TORCH_INDEX := $(TORCH_INDEX)

.PHONY: help setup setup-test serve test test-quick test-long check screenshots clean

help:
	@sed -n 's/^#: //p' $(MAKEFILE_LIST)

#: make serve        set up, start the server, print the link of the page
serve: setup
	$(BIN)/st2v serve --port $(PORT)

#: make test         set up, checks, every test but -m long
test: setup-test check
	$(BIN)/python -m pytest -m "not long and not browser" -n logical -q
	$(BIN)/python -m pytest -m "browser and not long" -n 0 -q  # apart, one by one: they watch films in real time

#: make test-quick   what plain pytest runs: no slow, browser, package or long test
test-quick: setup-test
	$(BIN)/python -m pytest -q

#: make test-long    the tests that take minutes
test-long: setup-test
	$(BIN)/python -m pytest -m long -n 0 -q

#: make check        ruff, mypy, and tsc on the page where npm is there
check: setup-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(if $(shell command -v npm),cd tests/web && npm install --no-audit --no-fund --silent && npm run --silent check,@echo "npm not found: the page's types were not checked")

#: make screenshots  take the pictures in docs/screenshots again
screenshots: setup-test
	$(BIN)/python -m tests.browser.screenshots storybook

setup: $(VENV)/.serve
setup-test: $(VENV)/.test
	@.ci/system-packages

# torch first and by itself, so that nothing else pulls another build of it
$(VENV)/.torch: constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install $(TORCH_FLAGS) -c constraints.txt torch
	@touch $@

$(VENV)/.serve: $(VENV)/.torch pyproject.toml
	$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/.test: $(VENV)/.serve
	$(PIP) install -c constraints.txt -e ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
