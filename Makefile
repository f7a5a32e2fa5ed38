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
STAMP := $(VENV)/requirements.lock
RUN_SIZE := 0.5 GB to download, 2 GB on disk
DEV_SIZE := 1 GB to download, 3 GB on disk
PORTS := --port $(PORT) --rest-port $(REST_PORT)

COMPILE := $(VENV)/bin/uv pip compile --quiet --universal --no-annotate --no-header --no-emit-index-url --no-emit-find-links

.DEFAULT_GOAL := help
.PHONY: help env env-dev environment lock generated export serve query verify up down image cluster cluster-down test test-engines test-all check clean

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "Variables: MODEL=name (one model, else all)  ENGINE=auto|docker|native|embedded  PORT=$(PORT)  REST_PORT=$(REST_PORT)"

# The environment holds a copy of the lock it was made from, written last: one of another lock is made again. That of
# requirements-dev.lock, for the tests, has all that the commands need.
env:
	@cmp -s requirements.lock $(STAMP) || cmp -s requirements-dev.lock $(STAMP) || \
		$(MAKE) --no-print-directory environment LOCK=requirements.lock SIZE="$(RUN_SIZE)"

env-dev:
	@cmp -s requirements-dev.lock $(STAMP) || \
		$(MAKE) --no-print-directory environment LOCK=requirements-dev.lock SIZE="$(DEV_SIZE)"

# Without uv on PATH, the uv that the lock pins is installed first: pip would resolve nothing, but print pages.
environment:
	@set -e; \
	for python in $(PYTHON) python3 python3.13 python3.12 python3.11 python3.10; do \
		if "$$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null; then break; fi; \
		python=; \
	done; \
	if [ -z "$$python" ]; then \
		echo "Error: TensorFlow 2.21 needs Python 3.10 to 3.13, and none is on PATH. Name one: make PYTHON=/path/to/python3" >&2; \
		exit 1; \
	fi; \
	echo "Making $(VENV) from $(LOCK): $(SIZE) …" >&2; \
	rm -rf $(VENV); \
	if command -v uv >/dev/null; then \
		uv=uv; \
		uv venv --quiet --python "$$python" $(VENV); \
	else \
		"$$python" -m venv $(VENV) || { \
			echo "Error: $$python can't make environments. Install its venv package (Debian: python3-venv) or uv." >&2; exit 1; }; \
		awk '/^uv==/ { found = 1 } found { print } found && !/\\$$/ { exit }' $(LOCK) > $(VENV)/uv.lock; \
		$(PY) -m pip install --disable-pip-version-check --quiet --require-hashes -r $(VENV)/uv.lock; \
		uv=$(VENV)/bin/uv; \
	fi; \
	$$uv pip install --compile-bytecode --python $(PY) --require-hashes -r $(LOCK); \
	$$uv pip install --quiet --python $(PY) --no-deps --no-build-isolation --editable .; \
	cp $(LOCK) $(STAMP)

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

cluster: env-dev ## Start a real Kubernetes node on this machine, for the tests and to try things (Linux, root).
	@$(PY) -m tests.cluster up

cluster-down: env-dev ## End it, and leave the machine as it was.
	@$(PY) -m tests.cluster down

test: env-dev ## Run the tests that need no Docker Engine and no cluster; TESTS=tests/clients runs a part.
	@$(PY) -m tests --again $(AGAIN) $(TESTS)

test-engines: env-dev ## Run the tests of Docker and Kubernetes (Linux, root).
	@$(PY) -m tests --again $(AGAIN) --engines $(TESTS)

test-all: test test-engines ## Run all tests.

check: env-dev ## Lint, check the format and the types.
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check
	@$(VENV)/bin/mypy

lock: env-dev ## Pin the newest versions that pyproject.toml allows, with hashes.
	@$(COMPILE) --upgrade --extra dev --python-version 3.10 --generate-hashes --output-file requirements-dev.lock \
		pyproject.toml
# The same versions: what is in the file stays, where it fits.
	@cp requirements-dev.lock requirements.lock
	@$(COMPILE) --extra clone --python-version 3.10 --generate-hashes --output-file requirements.lock pyproject.toml
	@$(COMPILE) --upgrade --no-deps --python-version 3.11 --generate-hashes --constraint requirements-dev.lock \
		--output-file serving/docker/requirements.lock serving/docker/requirements.in
	@$(COMPILE) --upgrade --python-version 3.11 --generate-hashes --constraint requirements-dev.lock \
		--output-file k8s/requirements.lock k8s/requirements.in
	@for other in tests/bench/others/*/; do \
		$(COMPILE) --upgrade --python-version 3.10 --output-file $${other}requirements.lock $${other}requirements.in; \
	done

generated: env-dev ## Write what is generated: messages, operations, JSON Schemas, the docs' command help.
	@$(PY) tfserving/foundation/messages/generate.py
	@$(PY) tfserving/foundation/operations/generate.py
	@$(PY) docs/generate.py

clean: ## Remove the environment and all caches; exported models stay.
	@rm -rf $(VENV) .cache .mypy_cache .pytest_cache .ruff_cache
