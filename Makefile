# Every target works on a fresh machine with Python >= 3.11, git and make: the environment comes first.
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
unexport PYTHONDONTWRITEBYTECODE  # compiled modules are kept: tests and demo start hundreds of processes
.PHONY: help dev demo test test-fast chaos lint format types bench-embedding bench-scheduling bench-llm bench-online bench-placement bench-jobs bench-dispatch bench-donors bench-media test-dask-cuda test-vllm lock docs clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

dev: ## make .venv with all that development needs (a second run is instant)
	@$(PYTHON) scripts/bootstrap

demo: dev ## a local grid embeds 12,000 real texts, searches them, serves the same model over HTTP, and chats
	@$(BIN)/python scripts/demo

test: dev lint ## every test: lint, types, import contract, unit, real processes, faults (< 20 min on 2 cores)
	scripts/test

test-fast: dev ## the tests without models and processes (< 1 min)
	scripts/test fast

chaos: dev ## every part of a real grid killed again and again, the long form (some minutes)
	CHAOS=long $(BIN)/pytest tests/chaos -q -s

lint: dev types ## ruff, the type checker and the import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

format: dev ## let ruff put the code in form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: dev
	@scripts/types

bench-embedding: dev ## bulk embedding against sentence-transformers, plain Dask and the bare model loop
	$(BIN)/python benchmarks/bulk_embedding.py

bench-scheduling: dev ## our scheduler against the stock one, and the cost of one placement
	$(BIN)/python benchmarks/scheduling.py

bench-llm: dev ## the LLM engine against transformers
	$(BIN)/python benchmarks/llm_engine.py

bench-online: dev ## what serving over HTTP costs: 64 streams against the same engine in process
	$(BIN)/python benchmarks/online.py

bench-placement: dev ## which donor holds which layers: against disjoint chains and Petals' rule, and the time of a plan
	$(BIN)/python benchmarks/placement_flow.py

bench-jobs: dev ## the queue of jobs against procrastinate on the same PostgreSQL; a claim with 100,000 waiting
	$(BIN)/python benchmarks/job_queue.py

bench-dispatch: dev ## how long a job takes from submission to result, stage by stage
	$(BIN)/python benchmarks/dispatch_latency.py

bench-donors: dev ## 500 donors' agents against one process of the service: heartbeats, next-job, CPU
	$(BIN)/python benchmarks/donors.py

bench-media: dev ## recordings in bulk against transformers' pipeline, pictures in batches, and what isolation costs
	$(BIN)/python benchmarks/media.py

test-dask-cuda: dev ## the donor plugin under dask-cuda-worker, in an environment of its own (not part of `make test`)
	scripts/test-dask-cuda

test-vllm: dev ## the vLLM adapter against the real package, in an environment of its own (not part of `make test`)
	scripts/test-vllm

docs: dev ## write the generated pages anew (configuration, command line)
	$(BIN)/python scripts/generate-docs

lock: dev ## write requirements.lock anew
	scripts/lock

clean: ## remove the environment and everything that was built
	rm -rf .venv build dist *.egg-info
