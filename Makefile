# The two commands are `make demo` and `make test`; the rest is for developers.

CARGO_TARGET_DIR ?= target
export CARGO_TARGET_DIR
DIPTYCH := $(CARGO_TARGET_DIR)/release/diptych
RUNS ?= runs
VENV ?= $(CARGO_TARGET_DIR)/python
PYTHON := $(VENV)/bin/python

.PHONY: build demo experiment test lint tools faults throughput foreign-stage parity bench

build:
	cargo build --release --bins

demo: build
	$(DIPTYCH) run recipes/demo.toml --out $(RUNS)/demo
	@echo "Open $(RUNS)/demo/report.html in a browser."

experiment: build
	$(DIPTYCH) run recipes/experiment.toml --out $(RUNS)/experiment

test: tools lint
	scripts/test.sh

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

# The diffusers library as the diffusion stage; downloads torch into a folder outside of the tree.
foreign-stage: build
	scripts/foreign_stage.sh $(DIPTYCH)

# Rendering against diffusers and transformers, part by part; PARITY_PYTHON names a Python that has
# them, otherwise they are downloaded into a folder outside of the tree.
parity:
	scripts/parity.sh

tools:
	scripts/install-tools.sh

# Kills things in the middle of runs, a hundred times and more; half an hour.
faults: build
	cargo build --release --package tests --bins
	$(CARGO_TARGET_DIR)/release/faults

# Samples a second, and memory, with stages that cost nothing.
throughput: build
	cargo build --release --package tests --bins
	$(CARGO_TARGET_DIR)/release/throughput

# Speed against diffusers, in turns, as a table and bench.json; downloads torch as parity does.
bench:
	scripts/bench.sh
