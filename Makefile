# make setup   install Debian packages and build .venv/ (fast when done)
# make test    set-up, lint, types, import contract, tests
# make demo    set-up, then the main job with a real guest
# make bench   install what Ramet can be compared with, then `ramet bench`; WORDS="--full --out DIR"
# make measure   developers' measurements: every module of bench/ that is a program
#
# Slow, deep runs; the last line has the figures, the exit code tells:
# make explore                     the tests with other random choices than `make test` has
# make faults                      every write, sync and allocation fails once; full disks
# make asan                        every malloc of the C core fails once; its tests under ASan
# make churn ROUNDS=300 SEED=1     does anything grow without bound?
# make crash   cut the power of a running store: POINTS=500 SEED=1 FS=ext4 (xfs, btrfs, posix)
# make crash-proof   the same with ten mistakes put in, each of which has to be caught
# make kill    kill -9 the daemon under load: ROUNDS=1000 SEED=1
# make fsx OPS=100000 SEED=1       random operations on files of a mount, against copies in memory
# make fuzz SECONDS=600            hostile bytes; what is found is kept in .cache/fuzz/findings
# make deep                        a Debian guest: cloud-init, grown disk, guest agent, quiesced clones;
#                                  Linux kernels on NFS: two machines' locks, a killed daemon, 100k entries
# make scrub-proof COUNT=10000 SEED=1   inject bad blocks of all kinds; none may be missed
# make fsck-walk COUNT=2000 SEED=1      damage records at random; repair must converge
.PHONY: setup lint test explore faults asan demo bench bench-packages measure churn crash \
  crash-proof kill fsx fuzz scrub-proof \
  fsck-walk deep clean
.DEFAULT_GOAL := test

PY := .venv/bin/python
C_SOURCES := $(filter-out native/_core.c nfsgw/_again.c,$(wildcard native/*.c native/*.h fusefs/*.c nfsgw/*.[ch]))
BESIDE := tests/hypervisor tests/shares tests/crash
C_TESTS := $(wildcard tests/crash/*.c tests/faults/*.c tests/fuzz/*.[ch] tests/nfsgw/linux/*.[ch] tests/fusefs/*.c tests/native/*.c bench/*.c)

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

.venv/stamp-native: native/build.py fusefs/build.py nfsgw/build.py $(C_SOURCES) .venv/stamp-python
	$(PY) native/build.py
	$(PY) fusefs/build.py
	$(PY) nfsgw/build.py
	@touch $@

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	clang-format --dry-run -Werror $(C_SOURCES) $(C_TESTS)

# Two runs side by side, about as long as each other: what needs a hypervisor mostly waits for it.
test: lint
	@mkdir -p .cache; $(PY) -m pytest $(BESIDE) >.cache/beside.log 2>&1 & beside=$$!; \
	trap "kill $$beside 2>/dev/null" EXIT; \
	$(PY) -m pytest $(BESIDE:%=--ignore=%); others=$$?; \
	wait $$beside; beside=$$?; cat .cache/beside.log; exit $$((others || beside))

explore: setup
	RAMET_SEED=new $(PY) -m pytest $(or $(TESTS),tests)

faults: setup
	RAMET_FAULTS=deep $(PY) -m pytest -s tests/faults/test_faults.py tests/faults/test_full_disk.py

asan: setup
	RAMET_FAULTS=deep $(PY) -m pytest -s tests/faults/test_allocations.py
	env $$($(PY) tests/faults/sanitized.py) $(PY) -m pytest -p sanitized tests/native

demo: setup
	$(PY) tests/demo/demo.py

# What can be compared with is in packages.txt already: btrfs-progs, fio, qemu-utils, xfsprogs.
BENCH_PACKAGES := lvm2 thin-provisioning-tools util-linux virtinst nfs-ganesha nfs-ganesha-vfs \
  rpcbind nfs-common iproute2 valgrind
MEASURE_PACKAGES := fio nfs-ganesha nfs-ganesha-vfs rpcbind util-linux iproute2 virtinst
INSTALL = $(BENCH_PACKAGES)
bench: INSTALL := $(BENCH_PACKAGES)
measure: INSTALL := $(MEASURE_PACKAGES)

bench: bench-packages
	.venv/bin/ramet bench $(or $(WORDS),--quick)

measure: bench-packages
	$(PY) -m bench

bench-packages: setup
	@dpkg-query -W $(INSTALL) >/dev/null 2>&1 || { apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	  $(INSTALL) >/dev/null; }
	$(PY) -m pip install -q --disable-pip-version-check -e '.[bench]'

SEED ?= 1
POINTS ?= 500
FS ?= ext4

churn: ROUNDS ?= 300
churn: setup
	PYTHONPATH=. $(PY) tests/churn/churn.py --rounds $(ROUNDS) --seed $(SEED)

crash: setup
	@$(PY) tests/crash/crash_run.py --points $(POINTS) --seed $(SEED) --fs $(FS)

crash-proof: setup
	@$(PY) tests/crash/crash_proof.py --seed $(SEED)

kill: ROUNDS ?= 1000
kill: setup
	@$(PY) tests/crash/kill_run.py --rounds $(ROUNDS) --seed $(SEED)

fsx: OPS ?= 100000
fsx: setup
	@PYTHONPATH=.:tests/support:tests/guest $(PY) tests/fusefs/fsx_run.py \
	  --operations $(OPS) --seed $(SEED)

SECONDS ?= 600
fuzz: setup
	$(PY) -m pip install -q --disable-pip-version-check -e '.[fuzz]'
	PYTHONPATH=.:tests/support $(PY) tests/fuzz/run.py $(SECONDS)

deep: setup
	$(PY) -m pytest -m deep

scrub-proof: setup
	PYTHONPATH=.:tests/engine $(PY) tests/engine/scrub_proof.py $(or $(COUNT),10000) $(SEED)

fsck-walk: setup
	PYTHONPATH=.:tests/engine $(PY) tests/engine/fsck_walk.py $(or $(COUNT),2000) $(SEED)

clean:
	rm -rf .venv .cache build native/_core* nfsgw/_again* fusefs/*.so .mypy_cache .ruff_cache .pytest_cache .hypothesis
