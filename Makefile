# make setup   install Debian packages and build .venv/ (fast when done)
# make test    set-up, lint, types, import contract, tests
# make demo    set-up, then the main job with a real guest
# make bench   print the measurements
# make scrub-proof COUNT=10000 SEED=1   inject bad blocks of all kinds; none may be missed
# make fsck-walk COUNT=2000 SEED=1      damage records at random; repair must converge
.PHONY: setup lint test demo bench scrub-proof fsck-walk clean
.DEFAULT_GOAL := test

PY := .venv/bin/python
C_SOURCES := $(filter-out native/_core.c,$(wildcard native/*.c native/*.h fusefs/*.c))

setup: .venv/stamp-packages .venv/stamp-python .venv/stamp-native

.venv/stamp-packages: packages.txt
	@missing=$$(for p in $$(cat packages.txt); do \
	  dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
	if [ -n "$$missing" ]; then \
	  export DEBIAN_FRONTEND=noninteractive; \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends $$missing >/dev/null; fi
	@mkdir -p .venv && touch $@

.venv/stamp-python: pyproject.toml .venv/stamp-packages
	python3.11 -m venv .venv
	$(PY) -m pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@

.venv/stamp-native: native/build.py fusefs/build.py $(C_SOURCES) .venv/stamp-python
	$(PY) native/build.py
	$(PY) fusefs/build.py
	@touch $@

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	clang-format --dry-run -Werror $(C_SOURCES)

test: lint
	$(PY) -m pytest

demo: setup
	$(PY) tests/demo/demo.py

bench: setup
	$(PY) -m bench

scrub-proof: setup
	PYTHONPATH=.:tests/engine $(PY) tests/engine/scrub_proof.py $(or $(COUNT),10000) $(or $(SEED),1)

fsck-walk: setup
	PYTHONPATH=.:tests/engine $(PY) tests/engine/fsck_walk.py $(or $(COUNT),2000) $(or $(SEED),1)

clean:
	rm -rf .venv build native/_core* fusefs/*.so .mypy_cache .ruff_cache .pytest_cache .hypothesis
