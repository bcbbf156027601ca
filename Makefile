# The project's targets. Each does its own set-up (scripts/setup) on a machine
# that has nothing yet. Paths are relative throughout: the folder's own may
# have spaces in it.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help build demo test test-anywhere test-matrix soak lint bench wheel docs clean setup setup-lint setup-bench setup-test setup-matrix FORCE

WITH_RUST := scripts/with-rust
# Before whatever takes long: it says what that is. The times are for two processors.
STAGE := scripts/stage
# The recorder knows x86-64 only.
RECORDER := $(if $(filter x86_64,$(shell uname -m)),$(WITH_RUST),true)
OF_RECORDER := --manifest-path recorder/Cargo.toml --target-dir target/recorder
PYTHON := .venv/bin/python
INSTALLED := .venv/installed
# A worker for each processor, four at most: tests have time limits, and what they
# test uses all processors by itself. Neighbours in a file stay with one worker, which
# has their fixtures. PARALLEL= runs one test after the other.
PARALLEL ?= --numprocesses auto --maxprocesses 4 --dist worksteal
HEAP_TESTS := $(wildcard tests/gdb/test_heap_*.py) tests/gdb/test_leak_matrix.py tests/gdb/test_unjoined.py
SOURCES := Cargo.toml Cargo.lock build.rs scripts/build-recorder pyproject.toml README.md LICENSE-MIT LICENSE-APACHE \
	$(shell find src python recorder/src recorder/Cargo.* -name '*.rs' -o -name '*.py' -o -name '*.pyi' \
		-o -name py.typed -o -name 'Cargo.*' 2>/dev/null | LC_ALL=C sort)

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' Makefile | expand -t 20

build: $(INSTALLED) ## build optimised and install into .venv: .venv/bin/gdb-leak

demo: $(INSTALLED) ## a whole leak hunt on a sample program, in gdb and from a shell
	scripts/demo

test: setup-test $(INSTALLED) ## cargo test, then pytest over real gdbs and the installed wheel
	@$(STAGE) 'compiling the Rust tests (about 3 minutes)' \
		$(WITH_RUST) cargo test --locked --workspace --no-run @quiet
	@$(STAGE) 'running the Rust tests (about 1 minute)' \
		$(WITH_RUST) cargo test --locked --workspace --quiet
	@$(STAGE) 'compiling and running the tests of the recorder (about 1 minute)' \
		$(RECORDER) cargo test --locked @quiet $(OF_RECORDER)
	@$(STAGE) 'running the tests in gdb (about 10 minutes)' .venv/bin/pytest $(PARALLEL)

test-anywhere: setup-test $(INSTALLED) ## pytest in environments unlike a terminal: ANYWHERE='nobody -- -k NAME'
	scripts/test-anywhere $(ANYWHERE)

# What it cannot fetch it says in a line: on a machine that is no Debian that is
# every library but the machine's own, whose rows `make test` has run. Unstable's
# library of today is looked at too, and fails nothing.
test-matrix: setup-matrix $(INSTALLED) ## heaps and verdicts on each C library of Debian's suites, then on unstable's
	scripts/glibc-matrix
	test ! -d .glibc || GDB_LEAK_GLIBC=.glibc .venv/bin/pytest $(PARALLEL) $(HEAP_TESTS)
	-scripts/glibc-matrix --unstable
	-test ! -d .glibc-unstable || GDB_LEAK_GLIBC=.glibc-unstable .venv/bin/pytest $(PARALLEL) $(HEAP_TESTS)

# What comes up in one of some thousand runs: too long for each change.
soak: setup-matrix $(INSTALLED) ## random heaps, graphs and damaged cores with many times the plans, stops and seeds
	scripts/glibc-matrix
	GDB_LEAK_SOAK=20 $(WITH_RUST) cargo test --locked --release --test heap --test graph
	GDB_LEAK_SOAK=20 $(WITH_RUST) cargo test --locked --release --test steps a_heap_of_each -- --nocapture
	GDB_LEAK_SOAK=100 .venv/bin/pytest --timeout 3600 tests/gdb/test_heap_inside.py
	GDB_LEAK_SOAK=5 .venv/bin/pytest tests/gdb/test_leak_graph.py tests/gdb/test_ends.py
	GDB_LEAK_SOAK=10 .venv/bin/pytest tests/gdb/test_core_mutations.py
	GDB_LEAK_SOAK=1 .venv/bin/pytest tests/gdb/test_recorder_builds.py tests/python/test_packages.py

lint: setup-lint $(INSTALLED) ## formats, clippy, ruff, mypy, and the stub against the module
	$(WITH_RUST) cargo fmt --all --check
	$(WITH_RUST) cargo fmt --manifest-path recorder/Cargo.toml --check
	$(RECORDER) cargo clippy --locked --all-targets --quiet $(OF_RECORDER) -- -D warnings
	$(WITH_RUST) cargo clippy --locked --workspace --all-targets --quiet -- -D warnings
	PYO3_PYTHON="$$PWD/$(PYTHON)" $(WITH_RUST) \
		cargo clippy --locked --all-targets --features python --quiet -- -D warnings
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	$(PYTHON) -m mypy.stubtest gdb_leak._native

bench: setup-bench $(INSTALLED) ## speed against gdb, rg, valgrind and the machine's own limit, side by side
	$(PYTHON) benches/bench.py

# Built here, the wheel asks for this machine's glibc. Zig links it against that
# of 2012, so that one wheel loads in the gdb of any distribution.
wheel: setup ## a wheel for any Linux with glibc 2.17 or later, into dist/
	@$(STAGE) 'fetching zig, which links for old C libraries (80 MB)' \
		$(PYTHON) -m pip install @quiet --disable-pip-version-check ziglang==0.17.1
	scripts/build-recorder --zig
	@PATH="$(CURDIR)/.venv/bin:$$PATH" GDB_LEAK_RECORDER_BUILT=yes \
		$(STAGE) 'compiling the native module (about 2 minutes)' \
		$(WITH_RUST) maturin build --release --locked @quiet --zig \
		--compatibility manylinux2014 --interpreter $(PYTHON) --out dist
	scripts/build-recorder
	@ls dist/*.whl

docs: $(INSTALLED) ## write docs/commands.md anew from the help texts
	$(PYTHON) -m gdb_leak.render.reference >target/commands.md
	mv target/commands.md docs/commands.md

clean: ## remove everything that make has made
	rm -rf target .venv dist .demo .glibc .glibc-unstable .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

setup:
	@scripts/setup

setup-lint:
	@scripts/setup lint

setup-bench:
	@scripts/setup bench

setup-test:
	@scripts/setup test

setup-matrix:
	@scripts/setup matrix

# The stamp is inside .venv, so that a new .venv gets the wheel again.
$(INSTALLED): $(SOURCES) target/sources | setup
	rm -rf target/wheel
	scripts/build-recorder
	@$(STAGE) 'compiling the native module (about 2 minutes)' \
		$(WITH_RUST) .venv/bin/maturin build --release --locked @quiet \
		--interpreter $(PYTHON) --out target/wheel
	$(PYTHON) -m pip install --quiet --disable-pip-version-check \
		--force-reinstall --no-deps target/wheel/*.whl
	@touch $@

# The list of sources, renewed when it changes: a file that was removed is a
# change that no prerequisite's date shows.
target/sources: FORCE
	@mkdir -p target
	@echo '$(SOURCES)' | cmp -s - $@ || echo '$(SOURCES)' >$@
FORCE:
