# One target for each job; `make` lists them. Each first installs what it needs.

MODEL ?=
ENGINE ?= auto
PORT ?= 8500
REST_PORT ?= 8501
TAG ?=
TESTS ?= tests
# At most this many failed tests are run once more, alone.
AGAIN ?= 0

VENV := .venv
PY := $(VENV)/bin/python
TFSERVING := $(VENV)/bin/tfserving
PYTHON ?= python3
STAMP := $(VENV)/requirements.lock
RUN_SIZE := 460 MB to download, 2 GB on disk
DEV_SIZE := 910 MB to download, 3 GB on disk
PORTS := --port $(PORT) --rest-port $(REST_PORT)
SERVER := --server grpc://127.0.0.1:$(PORT),http://127.0.0.1:$(REST_PORT)

COMPILE := $(VENV)/bin/uv pip compile --quiet --universal --no-annotate --no-header --no-emit-index-url --no-emit-find-links

# What matplotlib alone needs.
PICTURES := matplotlib pillow fonttools kiwisolver contourpy cycler pyparsing

.DEFAULT_GOAL := help
.PHONY: help env env-dev environment lock generated export serve query verify up down image cluster cluster-down test test-engines test-all check clean

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "Variables: MODEL=name (default: all models)  ENGINE=auto|docker|native|embedded  PORT=$(PORT)  REST_PORT=$(REST_PORT)"

# The last step copies the lock into the environment. An environment with another lock is made again. The one for the
# tests, of requirements-dev.lock, has all that the commands need.
env:
	@cmp -s requirements.lock $(STAMP) || cmp -s requirements-dev.lock $(STAMP) || \
		$(MAKE) --no-print-directory environment LOCK=requirements.lock SIZE="$(RUN_SIZE)"

env-dev:
	@cmp -s requirements-dev.lock $(STAMP) || \
		$(MAKE) --no-print-directory environment LOCK=requirements-dev.lock SIZE="$(DEV_SIZE)"

# Without uv on PATH, pip installs the uv of the lock first: pip prints a line for each requirement of another platform.
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

export: env ## Export new versions of the models that changed.
	@$(TFSERVING) export build --if-changed $(MODEL)

serve: env ## Export the models that have no version, and run a server until Ctrl-C.
	@exec $(TFSERVING) serve --engine $(ENGINE) $(PORTS) $(MODEL)

query: env ## Send a golden request to the running server.
	@$(TFSERVING) predict $(or $(MODEL),digits) $(SERVER)

verify: env ## Compare the outputs of the running server with the golden requests.
	@$(TFSERVING) verify $(SERVER) $(MODEL)

up: env ## Run a server in Docker with Prometheus and Grafana, until `make down`.
	@$(TFSERVING) compose up $(PORTS) $(MODEL)

down: env ## Stop and remove all that `make up` started.
	@$(TFSERVING) compose down

image: env ## Build an image that contains the models, called TAG=.
	@$(TFSERVING) image $(if $(TAG),--tag $(TAG)) $(MODEL)

cluster: env-dev ## Start a Kubernetes node on this machine (Linux, root).
	@$(PY) -m tests.cluster up

cluster-down: env-dev ## Stop the node and remove it.
	@$(PY) -m tests.cluster down

test: env-dev ## Run the tests without Docker and Kubernetes, or those of TESTS=.
	@$(PY) -m tests --again $(AGAIN) $(TESTS)

test-engines: env-dev ## Run the tests of Docker and Kubernetes (Linux, root).
	@$(PY) -m tests --again $(AGAIN) --engines $(TESTS)

test-all: test test-engines ## Run all tests.

check: env-dev ## Check lint, format and types.
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check
	@$(VENV)/bin/mypy

lock: env-dev ## Pin the newest versions of all dependencies.
	@$(COMPILE) --upgrade --extra dev --python-version 3.10 --generate-hashes --output-file requirements-dev.lock \
		pyproject.toml
# The same versions: what is in the file stays, where it fits.
	@cp requirements-dev.lock requirements.lock
	@$(COMPILE) --extra clone --python-version 3.10 --generate-hashes --output-file requirements.lock pyproject.toml
	@$(COMPILE) --upgrade --no-deps --python-version 3.11 --generate-hashes --constraint requirements-dev.lock \
		--output-file serving/docker/requirements-cpu.lock serving/docker/requirements-cpu.in
	@$(COMPILE) --no-universal --python-platform x86_64-manylinux_2_28 --upgrade --no-deps --python-version 3.11 \
		--generate-hashes --constraint requirements-dev.lock \
		--output-file serving/docker/requirements-gpu.lock serving/docker/requirements-gpu.in
# What writes the images' bills of materials, in a stage of their builds.
	@$(COMPILE) --upgrade --python-version 3.11 --generate-hashes --constraint requirements-dev.lock \
		--output-file serving/docker/sbom.lock serving/docker/sbom.in
# Without what draws reports.
	@$(COMPILE) --upgrade --python-version 3.11 --generate-hashes --constraint requirements-dev.lock \
		--extra k8s --extra s3 --extra gs --extra oci --extra sign $(addprefix --no-emit-package ,$(PICTURES)) \
		--output-file k8s/requirements.lock pyproject.toml k8s/requirements.in
	@for other in tests/bench/others/*/; do \
		$(COMPILE) --upgrade --python-version 3.10 --output-file $${other}requirements.lock $${other}requirements.in; \
	done

generated: env-dev ## Write what is generated: messages, JSON Schemas, docs/commands.md.
	@$(PY) tfserving/foundation/messages/generate.py
	@$(PY) tfserving/foundation/operations/generate.py
	@$(PY) docs/generate.py

clean: ## Remove the environment and all caches. Exported models stay.
	@rm -rf $(VENV) .cache .mypy_cache .pytest_cache .ruff_cache
