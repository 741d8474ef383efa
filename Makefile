# `make serve` and `make test` are all a new machine needs: Python 3.11 or newer, make, and a package index.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := .demo
LISTEN ?= 127.0.0.1:50051
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
COMPONENTS := core engines datasets training export evaluation server client bench
PACKAGES := $(COMPONENTS:%=-p radrank.%)

.PHONY: serve demo test test-long lint format types layers stubs stubs-check check clean help

help: ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.serving: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV) (some minutes the first time)"
	$(INSTALL) -e ".[server,cpu,dicom,export]"
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV) (some minutes the first time)"
	$(INSTALL) -e ".[dev]"
	@touch $@ $(VENV)/.serving

serve: $(DEMO)/archive/snapshots/CURRENT ## serve the demo archive on $(LISTEN) until Ctrl-C
	@exec $(BIN)/radrank serve --bundle $(DEMO)/bundle --archive $(DEMO)/archive --listen $(LISTEN)

demo: $(DEMO)/archive/snapshots/CURRENT ## make the demo archive and its bundle

$(DEMO)/bundle/bundle.json: | $(VENV)/.serving
	$(BIN)/radrank demo build --to $(DEMO)

$(DEMO)/archive/snapshots/CURRENT: | $(DEMO)/bundle/bundle.json
	$(BIN)/radrank index build --bundle $(DEMO)/bundle --archive $(DEMO)/archive --dataset demo

test: $(VENV)/.dev ## pass the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -m "not slow and not gpu"

test-long: $(VENV)/.dev ## all tests, the long ones too
	$(BIN)/python -m pytest

lint: $(VENV)/.dev ## ruff
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: $(VENV)/.dev ## ruff, writing
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: $(VENV)/.dev ## mypy --strict
	$(BIN)/mypy $(PACKAGES)

layers: $(VENV)/.dev ## which component may import which
	$(BIN)/lint-imports

stubs: $(VENV)/.dev ## generate client/radrank/v1 from proto/
	$(BIN)/python -m grpc_tools.protoc -Iproto --python_out=client --pyi_out=client --grpc_python_out=client proto/radrank/v1/*.proto

stubs-check: $(VENV)/.dev ## the checked-in stubs are those of proto/
	@made=$$(mktemp -d) && trap 'rm -rf "$$made"' EXIT && \
	$(BIN)/python -m grpc_tools.protoc -Iproto --python_out=$$made --pyi_out=$$made --grpc_python_out=$$made proto/radrank/v1/*.proto && \
	for file in $$made/radrank/v1/*; do \
	  cmp "$$file" client/radrank/v1/$$(basename "$$file") || { echo "run: make stubs"; exit 1; }; \
	done && echo "stubs match proto/"

check: test lint types layers stubs-check ## all that CI does

clean: ## remove what was made; archives and bundles elsewhere stay
	rm -rf $(VENV) $(DEMO) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
