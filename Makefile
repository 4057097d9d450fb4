# The two commands are `make demo` and `make test`; the rest is for developers.

CARGO_TARGET_DIR ?= target
export CARGO_TARGET_DIR
DIPTYCH := $(CARGO_TARGET_DIR)/release/diptych
RUNS ?= runs
VENV ?= $(CARGO_TARGET_DIR)/python
PYTHON := $(VENV)/bin/python

.PHONY: build demo experiment test lint tools foreign-stage

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

tools:
	scripts/install-tools.sh
