# The whole workflow, for people and CI alike. Needs Python 3.11+ with venv, and make; nothing else.
PYTHON ?= python3
VENV   := .venv
RUN    := $(VENV)/bin/python
STAMP  := $(VENV)/.complete
ARGS   ?=

# Programs that tests drive and no wheel has; the servers among them in CI only. There a missing one is a failure, on a
# laptop a skip.
PROGRAMS := chromium curl jq openssl $(if $(CI),pgbouncer promtool rabbitmq-server)

# What only looks at the code needs settings that load, but neither a server nor a secret.
TOOLING := DATABASE_URL=sqlite://:memory: SECRET_KEY=tooling
SCHEMA  := $(TOOLING) $(RUN) manage.py spectacular --validate --fail-on-warn
COMPILE := --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-emit-index-url \
	--no-emit-find-links --no-header

.DEFAULT_GOAL := help
.PHONY: help demo test programs faults contract serve check openapi screenshots bench lock clean
.DELETE_ON_ERROR:

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: $(STAMP) ## the main job end to end on an embedded PostgreSQL and Redis, two or three minutes
	@exec $(RUN) -m examples.demo $(ARGS)

test: $(STAMP) programs ## all tests, on an embedded PostgreSQL and Redis; ARGS="-k name" for some
	@exec $(RUN) -m pytest -n auto --dist loadgroup $(ARGS)

programs: ## install the programs that tests drive, chromium above all, where they are missing: as root, with apt-get
	@tests/programs.sh $(PROGRAMS)

faults: $(STAMP) ## the fault suite in full, some 25 minutes; SEED=7 for the moments of an earlier run, ARGS=--write-report
	@exec $(RUN) -m pytest tests/faults --faults-full $(if $(SEED),--faults-seed $(SEED)) $(ARGS)

contract: $(STAMP) ## thousands of questions to the live server by schemathesis, and pairs of verbs at once; SEED=7 for those of an earlier run
	@exec $(RUN) -m pytest tests/contract --contract-full $(if $(SEED),--contract-seed $(SEED)) $(ARGS)

serve: $(STAMP) ## page, API, docs, admin and worker on 127.0.0.1:8000, with a demo; PORT, DEMO=no, DATA_DIR, DATABASE_URL, BROKER_URL change that
	@exec $(RUN) -m api.serve

bench: $(STAMP) ## measurements, each against a yardstick in the same run
	@exec $(RUN) -m bench $(ARGS)

check: $(STAMP) ## format, lint, types, floors, missing migrations, openapi and docs drift, Dockerfile
	@echo "check: format" && $(RUN) -m ruff format --check --quiet . || { echo "check: run '$(RUN) -m ruff format .'" >&2; exit 1; }
	@echo "check: lint" && $(RUN) -m ruff check --quiet .
	@echo "check: types" && $(TOOLING) $(RUN) -m mypy
	@echo "check: floors" && $(RUN) -m pytest -q --no-header --noconftest -p no:tests.servers -p no:django tests/unit/test_floors.py
	@echo "check: migrations" && $(TOOLING) $(RUN) manage.py makemigrations --check --dry-run
	@echo "check: openapi.yaml"
	@new=$$(mktemp) && trap 'rm -f "$$new"' EXIT && $(SCHEMA) --file "$$new" && diff -u openapi.yaml "$$new" \
		|| { echo "check: openapi.yaml is not what the code generates; run 'make openapi' and commit it" >&2; exit 1; }
	@echo "check: tables of codes in docs/" && $(RUN) -m examples.catalogue --check \
		|| { echo "check: they are not what the code generates; run 'make openapi' and commit them" >&2; exit 1; }
	@echo "check: Dockerfile" && $(VENV)/bin/hadolint Dockerfile
	@echo "check: all is well"

openapi: $(STAMP) ## write openapi.yaml anew, and the tables of codes in docs/
	@$(SCHEMA) --file openapi.yaml
	@$(RUN) -m examples.catalogue

screenshots: $(STAMP) ## the pictures of the operators' page in docs/pictures/ anew, by the system's Chromium; two minutes
	@tests/programs.sh chromium
	@exec $(RUN) -m examples.screenshots

lock: $(STAMP) ## write requirements.lock (everything) and requirements-server.lock (the image) anew
	@$(VENV)/bin/uv pip compile $(COMPILE) --all-extras --output-file requirements.lock $(ARGS) pyproject.toml
	@$(VENV)/bin/uv pip compile $(COMPILE) --extra server --constraint requirements.lock \
		--output-file requirements-server.lock pyproject.toml

clean: ## remove .venv and caches; .data, which holds the database of make serve, stays
	@rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "make: $(PYTHON) is $$($(PYTHON) --version 2>&1 | grep '^Python ' || echo missing or broken), but Python 3.11 or newer is needed; name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "Setting up $(VENV) from requirements.lock (once; about a minute)"
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "make: $(PYTHON) cannot make a virtual environment; install its venv module (Debian: python3-venv)" >&2; exit 1; }
	@$(RUN) -m pip install -qq --disable-pip-version-check --require-hashes -r requirements.lock || { \
		echo "make: installing the packages of requirements.lock failed, see above; is a package index reachable, and the disk not full?" >&2; exit 1; }
	@$(RUN) -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
