# Everything a contributor runs. Needs python3 (3.11 or newer), python3-venv and make; `make` alone lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?=
BENCH_ARGS ?=
TRIAL_ARGS ?=
ATTACK_ARGS ?=
FUZZ_SECONDS ?= 600
LOCK_ARGS ?=
LOCK = UV_CUSTOM_COMPILE_COMMAND='make lock' $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes $(LOCK_ARGS)

ifneq ($(shell uname -s),Linux)
$(error Kakitome runs on Linux only, and this is $(shell uname -s): use a Linux machine, a virtual one or a container)
endif

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-all test-platforms check lint types imports tests coverage tests-compiled compiled client conformance bench trial soak-vnc fuzz lock chart npm web screenshots containers codec wheels docs forge clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# --- environments: each stamp says what the virtual environment holds ---------------------------------------------

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'  # the first that knows dependency groups

SOURCES := pyproject.toml setup.py kakitome.py $(shell find gateway -type f ! -name '*.so' ! -name '*.c' ! -name '*.pyc')

# A contributor's environment has the sources themselves, which are never compiled in place.
$(VENV)/.installed: $(SOURCES) | $(BIN)/python
	@[ -e $(VENV)/.dev ] || echo 'Installing Kakitome into $(VENV). With a C compiler its data path is compiled, which takes about a minute; KAKITOME_COMPILE=0 leaves that out.'
	@[ -e $(VENV)/.dev ] || $(BIN)/python -m pip install --quiet .
	@touch $@

$(VENV)/.dev: pyproject.toml setup.py | $(BIN)/python
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable . --group dev --group bench
	@touch $@ $(VENV)/.installed

$(VENV)/.fuzz: pyproject.toml $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --group fuzz
	@touch $@

PYX := $(wildcard gateway/*/*.pyx)

# Without a C compiler this goes on without the compiled codec: setup.py declares it optional.
$(VENV)/.codec: $(PYX) setup.py $(VENV)/.dev
	$(BIN)/python setup.py --quiet build_ext --inplace
	@touch $@

# What pip leaves where there is a C compiler, made by pip and in its isolation, for the tests and the benchmark to see.
COMPILED := build/compiled
$(COMPILED)/.built: $(SOURCES) | $(BIN)/python
	rm -rf $(COMPILED)
	KAKITOME_COMPILE=1 $(BIN)/python -m pip install --quiet --no-deps --target $(COMPILED) .
	@touch $@

compiled: $(COMPILED)/.built ## Install the package into build/compiled with its data path compiled, as pip leaves it

wheels: ## Build wheels for the Pythons that are here (3.11 to 3.13) into dist/, and try each in a fresh environment
	tests/wheels/run

client: $(VENV)/.dev ## Build kakitome-client, client and kit without the gateway, into dist/, and tell its size
	mkdir -p dist
	$(BIN)/python -m deploy.client_distribution dist

codec: $(VENV)/.codec ## Build the compiled frame codec and socket calls in place (skipped without a C compiler)

NPM_TOOLS := .cache/npm/.installed

$(NPM_TOOLS): tests/web/package.json
	mkdir -p .cache/npm
	cp tests/web/package.json .cache/npm/package.json
	npm install --prefix .cache/npm --no-audit --no-fund --loglevel=error
	@touch $@

npm: $(NPM_TOOLS) ## Install the runtimes and packages that the tests of kakitome.js use (needs npm)

web: ## Join the modules of gateway/web/src into the kakitome.js that is served
	$(PYTHON) gateway/web/join.py

# --- what users run ------------------------------------------------------------------------------------------------

demo: $(VENV)/.installed ## Install into .venv and run the demonstration on http://127.0.0.1:8080
	$(BIN)/kakitome demo

screenshots: $(VENV)/.dev $(VENV)/.codec ## Photograph the demonstration's page into reports/screenshots (needs chromium and chromium-driver)
	$(BIN)/python -m tests.browser.screenshots

# --- what contributors and CI run ----------------------------------------------------------------------------------

test: check ## Set everything up and run what this machine can; says at its end what was left out and what to install
	@echo 'Left out as well, for they take long: the suite on the compiled data path (make test-all), Autobahn (make conformance).'

test-all: export CI := true
test-all: check tests-compiled ## The same with nothing left out, and on the compiled data path: a skipped test fails; what .ci/run runs

test-platforms: ## The suite on Python 3.11.2, 3.12 and 3.13, and in a bare Debian 12 as a plain user; as root, takes an hour
	tests/platforms/run

check: lint types imports tests ## Lint, types, import contracts and the tests

lint: $(VENV)/.dev ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev ## mypy --strict, tests included
	$(BIN)/mypy

imports: $(VENV)/.dev ## import-linter: imports point only downward
	$(BIN)/lint-imports

PYTEST = $(BIN)/python -m pytest --numprocesses=3 --dist=worksteal

tests: $(VENV)/.dev $(VENV)/.codec ## pytest; PYTEST_ARGS narrows it
	$(PYTEST) --durations=40 $(PYTEST_ARGS)

# By itself, for tracing doubles what the tests cost, and slows the gateways that they start.
coverage: $(VENV)/.dev $(VENV)/.codec ## The same with branch coverage, of the gateways that the tests start, too
	$(PYTEST) --cov --cov-report=term $(PYTEST_ARGS)

# What is compiled is made of the same sources; here the same tests see that it behaves the same.
tests-compiled: $(VENV)/.dev $(COMPILED)/.built ## The tests of the data path and of whole gateways, on the compiled data path
	KAKITOME_TEST_TREE=$(COMPILED) $(PYTEST) --durations=20 \
	  -o 'pythonpath=$(COMPILED) .' $(PYTEST_ARGS) tests/test_build.py tests/memory/test_account.py tests/relay tests/sessions \
	  tests/protocol/test_framings.py tests/protocol/test_ledger.py tests/protocol/test_messages.py \
	  tests/integration/test_backpressure.py tests/integration/test_clients.py tests/integration/test_endings.py \
	  tests/integration/test_redis.py tests/conformance

conformance: $(VENV)/.dev $(VENV)/.codec $(COMPILED)/.built ## Autobahn: all 517 cases with both codecs, TLS, compiled data path; writes docs/conformance.md
	$(BIN)/python -m tests.conformance --codec compiled --document docs/conformance.md
	$(BIN)/python -m tests.conformance --codec pure
	$(BIN)/python -m tests.conformance --codec compiled --tls --cases 1-10
	KAKITOME_TEST_TREE=$(COMPILED) $(BIN)/python -m tests.conformance --codec compiled --cases 12-13

# BENCH_ARGS='--against COMMIT' compares this tree with another commit of it instead, and writes no document.
bench: $(VENV)/.dev $(VENV)/.codec $(COMPILED)/.built ## Compare with websockify, websocat, nginx and picows; writes docs/benchmarks.md
	$(BIN)/python -m tests.benchmarks --document $(BENCH_ARGS)

.PHONY: capacity
capacity: $(VENV)/.dev $(VENV)/.codec ## Measure what connections take here; writes the table of docs/capacity.md
	$(BIN)/python -m tests.capacity --document

trial: $(VENV)/.dev $(VENV)/.codec ## Loss trials of every pairing, websockify and nginx; TRIAL_ARGS=--long adds the proofs; writes docs/trial.md
	$(BIN)/python -m tests.trial $(TRIAL_ARGS)

.PHONY: attack
attack: $(VENV)/.dev $(VENV)/.codec ## Attack the gateway in every way of tests/attacks, 30 s each, half an hour in all; writes docs/attacks.md
	$(BIN)/python -m tests.attacks --document $(ATTACK_ARGS)

fuzz: $(VENV)/.fuzz $(VENV)/.codec ## Coverage-guided fuzzing of the cores for FUZZ_SECONDS (600)
	$(BIN)/python -m tests.fuzz --atheris --seconds $(FUZZ_SECONDS)

# One resolution for every Python from 3.11 on; LOCK_ARGS=--upgrade takes newer versions than those locked.
lock: $(VENV)/.dev ## Pin what the image is made of and built with, with hashes
	$(BIN)/python -m pip install --quiet 'uv>=0.9'
	$(LOCK) --output-file requirements.lock pyproject.toml
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' | \
	  $(LOCK) --output-file requirements-build.lock -

containers: $(VENV)/.dev ## Prove image, composition and systemd unit on a Docker engine (tests/containers/README.md)
	tests/containers/run

docs: $(VENV)/.dev ## The docs as a site in build/site, strictly: no warning, no dead link, every example tried
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir build/site
	$(BIN)/python -m pytest -q tests/docs

forge: $(VENV)/.dev ## What a forge reads: workflows, templates, hooks, by zizmor and their schemas
	$(BIN)/python -m pytest -q tests/docs/test_forge.py

.PHONY: long
long: $(VENV)/.dev ## Tests of the suite at their full size: ten rolling upgrades, ten thousand parked sessions
	KAKITOME_UPGRADES=10 KAKITOME_PARKED_SESSIONS=10000 $(BIN)/python -m pytest -q \
		tests/integration/test_rolling_upgrade.py tests/integration/test_parked_sessions.py

soak-vnc: $(VENV)/.dev ## Ten minutes before a real TigerVNC, which locks out whoever knocks and says nothing
	KAKITOME_SOAK_SECONDS=600 $(BIN)/python -m pytest -q -s tests/integration/test_tigervnc.py -k never_locks

.PHONY: permissions
permissions: $(VENV)/.dev ## 200 clients whose credentials expire every five seconds, for two minutes: nothing lost, nothing doubled
	KAKITOME_PERMISSION_CLIENTS=200 KAKITOME_PERMISSION_SECONDS=120 KAKITOME_PERMISSION_LIFE=5 \
		$(BIN)/python -m pytest -q tests/sessions/test_many_permissions.py

chart: $(VENV)/.dev ## Write the Helm chart's README, values schema and copies of dashboards and rules; package it into build/
	$(BIN)/python -m helm
	$(BIN)/python -c 'import helm_python; print(helm_python.package("helm/kakitome", destination="build"))'

clean: ## Remove the virtual environment and everything built
	rm -rf $(VENV) .cache build dist reports gateway/protocol/_frames.c gateway/protocol/_frames*.so
