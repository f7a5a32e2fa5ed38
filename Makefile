# One command for each job; `make` lists them. Each does whatever set-up it lacks.

MODEL ?=
ENGINE ?= auto
PORT ?= 8500
REST_PORT ?= 8501
TAG ?=
TESTS ?= tests
# How many tests that failed are run once more, alone.
AGAIN ?= 0

VENV := .venv
PY := $(VENV)/bin/python
TFSERVING := $(VENV)/bin/tfserving
PYTHON ?= python3
PORTS := --port $(PORT) --rest-port $(REST_PORT)

.DEFAULT_GOAL := help
.PHONY: help env environment lock generated export serve query verify up down image cluster cluster-down test test-engines test-all check clean

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "Variables: MODEL=name (one model, else all)  ENGINE=auto|docker|native|embedded  PORT=$(PORT)  REST_PORT=$(REST_PORT)"

# The environment holds a copy of the lock it was made from, written last: whatever differs is made anew.
env:
	@cmp -s requirements.lock $(VENV)/requirements.lock || $(MAKE) --no-print-directory environment

environment:
	@set -e; \
	for python in $(PYTHON) python3 python3.13 python3.12 python3.11 python3.10; do \
		if "$$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null; then break; fi; \
		python=; \
	done; \
	if [ -z "$$python" ]; then \
		echo "Error: TensorFlow 2.21 needs Python 3.10 to 3.13, and none is on PATH; name one: make PYTHON=/path/to/python3" >&2; \
		exit 1; \
	fi; \
	rm -rf $(VENV); \
	if command -v uv >/dev/null; then \
		echo "Making $(VENV) from requirements.lock with uv …" >&2; \
		uv venv --quiet --python "$$python" $(VENV); \
		uv pip install --compile-bytecode --python $(PY) --require-hashes -r requirements.lock; \
		uv pip install --quiet --python $(PY) --no-deps --no-build-isolation --editable .; \
	else \
		echo "Making $(VENV) from requirements.lock with pip: some 650 MB to download, a few minutes …" >&2; \
		"$$python" -m venv $(VENV) || { \
			echo "Error: $$python can't make environments; install its venv package (Debian: python3-venv) or uv" >&2; exit 1; }; \
		$(PY) -m pip install --disable-pip-version-check --require-hashes -r requirements.lock; \
		$(PY) -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .; \
	fi; \
	cp requirements.lock $(VENV)/requirements.lock

export: env ## Export the fleet, or MODEL=, as new versions with their proof; what is unchanged stays.
	@$(TFSERVING) export build --if-changed $(MODEL)

serve: env ## Export what is missing, start a server, wait until every model is available.
	@engine=$$($(TFSERVING) serve check --engine $(ENGINE) $(PORTS) $(MODEL)) && \
		$(TFSERVING) export build --missing $(MODEL) && \
		exec $(TFSERVING) serve run --engine "$$engine" $(PORTS) $(MODEL)

query: env ## Ask the running server for one prediction over gRPC.
	@example=$$($(TFSERVING) serve example $(or $(MODEL),digits)) && \
		$(TFSERVING) client predict --server grpc://127.0.0.1:$(PORT) --model $(or $(MODEL),digits) --input "$$example"

verify: env ## Compare what the running server answers with what the models answered in process.
	@folders=$$($(TFSERVING) serve fleet --folders $(MODEL)) && \
		$(TFSERVING) client verify --grpc 127.0.0.1:$(PORT) --rest 127.0.0.1:$(REST_PORT) $$folders

up: env ## Run the server in Docker with Prometheus and Grafana, by Compose, until `make down`.
	@$(TFSERVING) export build --missing $(MODEL)
	@$(TFSERVING) serve compose up $(PORTS) $(MODEL)

down: env ## End and remove all that `make up` started.
	@$(TFSERVING) serve compose down

image: env ## Build an image with the fleet, or MODEL=, inside, called TAG=.
	@$(TFSERVING) export build --missing $(MODEL)
	@$(TFSERVING) serve image $(if $(TAG),--tag $(TAG)) $(MODEL)

cluster: env ## Start a real Kubernetes node on this machine, for the tests and to try things (Linux, root).
	@$(PY) -m tests.cluster up

cluster-down: env ## End it, and leave the machine as it was.
	@$(PY) -m tests.cluster down

test: env ## Run the tests that need no Docker Engine and no cluster; TESTS=tests/clients runs a part.
	@$(PY) -m tests --again $(AGAIN) $(TESTS)

test-engines: env ## Run the tests of Docker and Kubernetes (Linux, root).
	@$(PY) -m tests --again $(AGAIN) --engines $(TESTS)

test-all: test test-engines ## Run all tests.

check: env ## Lint, check the format and the types.
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check
	@$(VENV)/bin/mypy

lock: env ## Pin the newest versions that pyproject.toml allows, with hashes.
	@$(VENV)/bin/uv pip compile --quiet --upgrade --extra dev --universal --python-version 3.10 --generate-hashes \
		--no-annotate --no-header --no-emit-index-url --no-emit-find-links --output-file requirements.lock pyproject.toml
	@$(VENV)/bin/uv pip compile --quiet --upgrade --no-deps --universal --python-version 3.11 --generate-hashes \
		--constraint requirements.lock --no-annotate --no-header --no-emit-index-url --no-emit-find-links \
		--output-file serving/docker/requirements.lock serving/docker/requirements.in
	@$(VENV)/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
		--constraint requirements.lock --no-annotate --no-header --no-emit-index-url --no-emit-find-links \
		--output-file k8s/requirements.lock k8s/requirements.in
	@for other in tests/bench/others/*/; do \
		$(VENV)/bin/uv pip compile --quiet --upgrade --universal --python-version 3.10 --no-annotate --no-header \
			--no-emit-index-url --no-emit-find-links --output-file $${other}requirements.lock $${other}requirements.in; \
	done

generated: env ## Write what is generated: messages, operations, JSON Schemas, the docs' command help.
	@$(PY) tfserving/foundation/messages/generate.py
	@$(PY) tfserving/foundation/operations/generate.py
	@$(PY) docs/generate.py

clean: ## Remove the environment and all caches; exported models stay.
	@rm -rf $(VENV) .cache .mypy_cache .pytest_cache .ruff_cache
