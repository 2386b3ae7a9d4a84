# Everything a person needs, each in its own environment: `make demo`, `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: demo test test-all lint types docs bench bench-gate clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[onnxruntime,action,dev]"
	@touch $@

demo: $(STAMP) ## the main job on real data: verdict, comment, evidence, report
	@$(BIN)/trt-action run --config examples/digits/.trt-action.yml --output trt-action-report

test: $(STAMP) ## every test that this machine can run
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(STAMP) ## ruff: format and rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(STAMP) ## mypy --strict
	$(BIN)/mypy

docs: $(STAMP) ## the generated parts of the documents and the schemas
	$(BIN)/python docs/generate.py

bench: $(STAMP) ## overhead of the measuring loop and times of the demo, into docs/benchmarks.md
	$(BIN)/python benchmarks/overhead.py --write docs/benchmarks.md
	$(BIN)/python benchmarks/demo.py --write docs/benchmarks.md

bench-gate: $(STAMP) ## false alarms and power of the verdict, beside the usual rules (short form: ~15 min)
	$(BIN)/python benchmarks/verdict.py --write docs/benchmarks.md

clean: ## remove what make has made
	rm -rf $(VENV) trt-action-report .pytest_cache .mypy_cache .ruff_cache .hypothesis
