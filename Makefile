# Everything a person needs, each in its own environment: `make demo`, `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
GPU_VENV := .venv-gpu

.PHONY: help demo test test-gpu mlflow modelopt test-modelopt bench-search lint types docs screenshot bench bench-gate bench-stats bench-publish bench-history bench-llm bench-serve soak bench-images bench-runtimes clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[onnxruntime,tensorrt-rtx,action,publish,serve,grpc,dev]"
	@touch $@

demo: $(STAMP) ## the main job on real data: verdict, comment, evidence, report
	@$(BIN)/trt-action run --config examples/digits/.trt-action.yml --output trt-action-report

test: $(STAMP) ## every test that this machine can run
	$(BIN)/python -m pytest $(PYTEST_ARGS)

GPU_PACKAGES ?= "tensorrt-rtx>=1.5,<2"
test-gpu: ## what needs a GPU, on the one that is here (GPU_PACKAGES=tensorrt for TensorRT); report in build/gpu-report.md and .json
	$(PYTHON) -m venv $(GPU_VENV)
	$(GPU_VENV)/bin/python -m pip install --quiet --editable ".[cuda,serve,action,dev]" "onnxruntime-gpu[cuda,cudnn]>=1.31,<2" $(GPU_PACKAGES)
	TRT_ACTION_GPU_REPORT=build/gpu-report $(GPU_VENV)/bin/python -m pytest -m gpu --no-fold-skipped $(PYTEST_ARGS) tests/gpu

MODELOPT := .modelopt
$(MODELOPT)/.installed: tests/precision/modelopt.txt
	$(PYTHON) -m venv $(MODELOPT)
	$(MODELOPT)/bin/python -m pip install --quiet --requirement $<
	@touch $@

modelopt: $(MODELOPT)/.installed ## NVIDIA ModelOpt in an environment of its own (2 GB on disk)

MLFLOW := .mlflow
$(MLFLOW)/.installed: tests/recording/mlflow.txt
	$(PYTHON) -m venv $(MLFLOW)
	$(MLFLOW)/bin/python -m pip install --quiet --requirement $<
	$(MLFLOW)/bin/python -m pip install --quiet --no-deps $$(sed -n 's/^mlflow-skinny/mlflow/p' $<)
	@touch $@

mlflow: $(MLFLOW)/.installed ## an MLflow server for the tests, in an environment of its own (385 MB on disk)

test-modelopt: $(STAMP) modelopt ## the vendor's toolchain for fp16, bf16, int8, fp8 and int4, for real
	MODELOPT_PYTHON=$(abspath $(MODELOPT))/bin/python $(BIN)/python -m pytest -m modelopt $(PYTEST_ARGS)

lint: $(STAMP) ## ruff: format and rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(STAMP) ## mypy --strict
	$(BIN)/mypy

docs: $(STAMP) ## the generated parts of the documents and the schemas
	$(BIN)/python docs/generate.py

screenshot: demo ## the picture in README, from the comment of the demo (needs Chromium)
	$(BIN)/python docs/screenshot.py trt-action-report/comment.md docs/images/comment.png

bench: $(STAMP) ## overhead of the measuring loop and times of the demo, into docs/benchmarks.md
	$(BIN)/python benchmarks/overhead.py --write docs/benchmarks.md
	$(BIN)/python benchmarks/demo.py --write docs/benchmarks.md

TRIALS ?= 15
bench-gate: $(STAMP) ## false alarms and power of the verdict, beside the usual rules (~1 h; TRIALS=60 is the long form)
	$(BIN)/python benchmarks/verdict.py --trials $(TRIALS) --output build/bench-gate.jsonl --write docs/benchmarks.md

bench-stats: $(STAMP) ## the statistics alone on synthetic noise of known truth, into docs/method.md (~6 min)
	$(BIN)/python benchmarks/stats.py --write docs/method.md

bench-publish: $(STAMP) ## publishing beside `docker push`, into docs/benchmarks.md (~3 min; needs Docker's engine and docker-registry)
	$(BIN)/python benchmarks/publish.py --write docs/benchmarks.md

bench-history: $(STAMP) ## false alarms and power of `trt-action history` on synthetic series, into docs/history.md (~4 min)
	$(BIN)/python benchmarks/history.py --write docs/history.md

bench-llm: $(STAMP) ## false alarms and power for served language models, beside the usual rule, into docs/benchmarks.md (~2 h; TRIALS=5 is the short form)
	$(BIN)/python benchmarks/llm.py --trials $(TRIALS) --out build/bench-llm.jsonl
	$(BIN)/python benchmarks/llm.py --trials $(TRIALS) --out build/bench-llm.jsonl --server waiting
	$(BIN)/python benchmarks/llm.py --report build/bench-llm.jsonl --write docs/benchmarks.md

bench-serve: $(STAMP) ## the server beside a bare Starlette app, mlserver, kserve and litserve, into docs/benchmarks.md (~15 min; needs wrk, two CPUs, 1.2 GB in build/serve)
	$(BIN)/python benchmarks/serve.py --write docs/benchmarks.md

soak: $(STAMP) ## the server for ten minutes at saturation, a hundred reloads, slow clients (~15 min); figures in build/soak.jsonl
	mkdir -p build && rm -f build/soak.jsonl
	TRT_ACTION_SOAK=600 TRT_ACTION_SOAK_REPORT=$(abspath build/soak.jsonl) $(BIN)/python -m pytest -m soak $(PYTEST_ARGS)

bench-search: $(STAMP) ## the search and both toolchains on three networks, into docs/precision.md (~10 min; MODELOPT_PYTHON adds ModelOpt)
	$(BIN)/python benchmarks/search.py --write docs/precision.md

bench-images: $(STAMP) ## sizes of the action's image by variant, into docs/benchmarks.md (~5 min; needs Docker's engine and docker-registry)
	$(BIN)/python benchmarks/images.py --no-cache --write docs/benchmarks.md

bench-runtimes: $(STAMP) ## sizes of the runtimes that engines are published on, into docs/benchmarks.md (~5 min; needs Docker's engine and docker-registry)
	$(BIN)/python benchmarks/runtimes.py --write docs/benchmarks.md

clean: ## remove what make has made
	rm -rf $(VENV) $(MODELOPT) $(MLFLOW) $(GPU_VENV) build trt-action-report .pytest_cache .mypy_cache .ruff_cache .hypothesis
