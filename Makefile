# Everything a user or contributor runs. `make` alone lists the targets.
PYTHON  ?= python3
VENV    := .venv
BIN     := $(VENV)/bin
DIST    := dist
DESTDIR ?= /opt/cni/bin
SOURCES := $(shell find cni_plugins packaging -name '*.py' -o -name '*.[ch]' -o -name '*.spec' -o -name road.txt \
                 -o -path '*/systemd/*' 2>/dev/null) conf/10-bridge.conflist
# Network namespaces need root; an ordinary user gets them, and a root of their own, from a user namespace.
ASROOT  := $(if $(filter 0,$(shell id -u)),,unshare -rmn)
# Where nft and iptables are; Debian's ordinary users do not have them on PATH.
export PATH := $(PATH):/usr/sbin:/sbin

.DEFAULT_GOAL := help
.PHONY: help needs check test test-unit test-integration test-e2e demo demo-overlay freeze install bench clean

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

# All targets come by here, so what the machine lacks for any of them is known before the first minute is spent.
needs:
	@PYTHON='$(PYTHON)' packaging/needs.sh $(MAKECMDGOALS)

$(VENV)/.stamp: pyproject.toml packaging/constraints.txt | needs
	test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV)
	PIP_CONSTRAINT=packaging/constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

check: $(VENV)/.stamp ## lint, types, import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

test: test-unit test-integration ## unit and integration tests

test-unit: $(VENV)/.stamp
	$(BIN)/python -m pytest -q -n auto --durations=30 tests/unit

test-integration: $(VENV)/.stamp
	$(ASROOT) $(BIN)/python -m pytest -q -n 4 --dist loadfile --durations=30 tests/integration

$(DIST)/bridge $(DIST)/cnictl &: $(VENV)/.stamp $(SOURCES)
	$(BIN)/python packaging/freeze.py

freeze: $(DIST)/bridge $(DIST)/cnictl ## build the single-file executables in dist/

# The fresh machine runs the other tests itself, which have limits of time.
test-e2e: freeze ## the executables under cnitool, containerd, podman and a Debian kernel (root)
	$(BIN)/python -m pytest -q tests/e2e/test_fresh_machine.py
	$(BIN)/python -m pytest -q -n 3 --dist loadfile --durations=30 --ignore tests/e2e/test_fresh_machine.py \
	    tests/e2e tests/differential tests/bench

demo: freeze ## attach two containers through a conflist, ping, detach, show that nothing is left
	$(ASROOT) $(BIN)/python packaging/demo.py

demo-overlay: freeze ## three hosts with an overlay, routed and stretched: who reaches whom, and what it takes
	$(ASROOT) $(BIN)/python packaging/demo_overlay.py

install: freeze ## put the executables into DESTDIR (default /opt/cni/bin)
	$(BIN)/python packaging/install.py $(DIST) $(DESTDIR)

bench: freeze ## measure against the reference plugins and write docs/benchmarks.md (root)
	$(BIN)/python tests/bench/bench.py

clean: ## remove what the other targets made
	rm -rf $(VENV) $(DIST) build
