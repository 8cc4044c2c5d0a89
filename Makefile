# The front door: `make help`. On a fresh Debian 12 or 13 all that must be there is git, make and
# python3; every target sets up what it needs first.

BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
UNIT := tests/unit tests/test_architecture.py
LIMIT := --timeout=900 --timeout-method=thread

# Building and booting need root; checking does not. What root writes into the checkout lies in
# ignored directories only.
ifeq ($(shell id -u),0)
AS_ROOT :=
else
AS_ROOT := sudo --preserve-env=CI,VNFS_STORE,VNFS_CACHE,VNFS_SITE,http_proxy,https_proxy,no_proxy
endif
ROOT_PYTEST := $(AS_ROOT) $(BIN)/python -B -m pytest -p no:cacheprovider

# $(call step,WHAT,COMMAND): say it, do it, tell how long it took.
define step
	@printf '\n==> %s\n' '$(1)'; since=$$(date +%s%3N); $(2) || exit $$?; \
	ms=$$(($$(date +%s%3N) - since)); \
	printf '    %s.%s s: %s\n' $$((ms / 1000)) $$((ms % 1000 / 100)) '$(1)'
endef

# $(call build,VERB,RECIPE): locks of the shipped recipes are no part of the repository
# (docs/adr/0005); one that lies here keeps its packages and is moved to this version of vnfsbuild.
define build
$(AS_ROOT) $(BIN)/vnfsbuild lock $(2) && $(AS_ROOT) $(BIN)/vnfsbuild $(1)
endef

.PHONY: help setup setup-python demo test test-all check bench clean
.PHONY: check-format check-lint check-types check-shell check-unit
.DEFAULT_GOAL := help

help: ## show this
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand --tabs=20

setup: ## install what is missing: Debian packages, .venv, tools trees
	@./setup.sh

setup-python:
	@./setup.sh python

demo: setup ## build a capsule and boot it on a virtual node (4 minutes)
	$(call step,key: made when this site has none,test -e $${VNFS_SITE:-.site}/trust.json || \
	  $(AS_ROOT) $(BIN)/vnfsbuild keys new demo)
	$(call step,capsule debian-13-minimal,$(call build,build recipes/debian-13-minimal,recipes/debian-13-minimal))
	$(call step,bootstrap OS,$(call build,bootstrap build,bootstrap-kernel))
	$(call step,one virtual node,$(AS_ROOT) $(BIN)/provisionctl lab run \
	  --capsule debian-13-minimal --nodes 1 --registration open)

test: setup ## all tests but the long ones, virtual nodes among them (25 minutes)
	$(call step,unit tests,$(PYTEST) --numprocesses=auto $(LIMIT) $(UNIT))
	$(call step,tamper table,$(PYTEST) --numprocesses=auto $(LIMIT) -m "not long" tests/tamper)
	$(call step,integration and boot tests,$(ROOT_PYTEST) --numprocesses=2 --dist=loadgroup \
	  -m "(integration or boot) and not long" $(LIMIT) tests)

test-all: test ## and the long ones
	$(call step,long tests,$(ROOT_PYTEST) -m long --timeout=7200 tests || test $$? = 5)

check: setup-python ## format, lint, types, shell scripts, unit tests (1 minute)
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target --keep-going \
	  check-unit check-types check-lint check-format check-shell

check-format:
	@$(BIN)/ruff format --check --quiet . || { echo 'hint: $(BIN)/ruff format .'; exit 1; }

check-lint:
	@$(BIN)/ruff check --quiet .

check-types:
	@$(BIN)/mypy

# Scripts are found by their first line; awk, for git would have to trust the checkout's owner.
check-shell:
	@find . \( -name .git -o -name .venv -o -name .cache -o -name images \) -prune -o -type f -print \
	  | xargs --delimiter='\n' awk 'FNR == 1 && /^#! ?\/bin\/(busybox )?(ba|da)?sh/ { print FILENAME } { nextfile }' \
	  | xargs --delimiter='\n' --no-run-if-empty shellcheck --shell=sh

check-unit:
	@$(PYTEST) --quiet --numprocesses=auto $(UNIT)

bench: setup ## build three capsules and measure (over half an hour)
	$(AS_ROOT) $(BIN)/python -B -m benchmarks

clean: ## remove .venv and caches; capsules and keys stay
	@$(AS_ROOT) rm -rf .venv .cache build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@$(AS_ROOT) find . -name __pycache__ -prune -exec rm -rf {} +
	@rm -rf ./*.egg-info
