# Everything that is done with this repository. `make help` lists it.

SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## Compile the controller and the kubectl plugin
	GROUNDSWELL_COMMIT=$$(git describe --always --dirty --abbrev=12 --exclude='*' 2>/dev/null || true) cargo build --locked --release

.PHONY: generate
generate: ## Write everything generated: CRDs, the chart's copies, deploy/, the API reference
	GENERATE=1 cargo test --locked --quiet --test generated
	GENERATE=1 INSTA_UPDATE=always cargo test --locked --quiet --test chart

.PHONY: lint
lint: ## Check formatting and lints
	cargo fmt --check
	cargo clippy --locked --all-targets -- --deny warnings

.PHONY: test
test: ## Run every test: unit, integration and scale (real API server), end to end (real cluster)
	dev/test

.PHONY: bench
bench: ## Run the benchmarks: the engine's pass, and a cascade beside a bare loop (docs/benchmarks.md)
	dev/bench

.PHONY: simulate
simulate: ## Run the simulation over SEEDS seeds, from FROM on; SEED=n replays one
	cargo test --locked --profile cluster --test simulation -- --nocapture $(if $(SEED),replay,the_invariants)

.PHONY: mutants
mutants: ## Break the engine on purpose, in many ways, and see that the simulation notices each
	dev/mutants

.PHONY: demo
demo: ## From nothing to a patched application, shown live
	dev/demo

.PHONY: demo-down
demo-down: ## Remove the demo and its cluster
	dev/demo down

.PHONY: images
images: ## Build the operator's image and push it to the development cluster
	dev/images/operator

.PHONY: cluster-up
cluster-up: ## Start the development cluster
	dev/cluster up

.PHONY: cluster-down
cluster-down: ## Stop the development cluster; nothing is left
	dev/cluster down

.PHONY: cluster-status
cluster-status: ## Show what runs of the development cluster
	dev/cluster status
