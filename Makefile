# Every task of this repository. `make help` lists the targets.

SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@echo 'With Rust alone:  cargo test    runs every test that needs nothing else, in a few minutes'
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo 'Tests that need more than Rust have a feature that says so:'
	@echo '  cargo test --features needs-git --test git                Git'
	@echo '  cargo test --features needs-go --test chart               Go (also: registry, dockerfile)'
	@echo '  cargo test --features needs-chromium --test page          Chromium and its driver'
	@echo '  cargo test --features needs-cluster --test integration    Debian 12, root and Go (also: scale, end_to_end)'

.PHONY: build
build: ## Compile the controller and the kubectl plugin
	GROUNDSWELL_COMMIT=$$(git describe --always --dirty --abbrev=12 --exclude='*' 2>/dev/null || true) cargo build --locked --release

.PHONY: generate
generate: ## Write all generated files: CRDs, the chart's copies, deploy/, the API reference (needs Go)
	GENERATE=1 cargo test --locked --quiet --features needs-go --test generated
	GENERATE=1 cargo test --locked --quiet --bin kubectl-family -- schemas page_of_commands
	GENERATE=1 INSTA_UPDATE=always cargo test --locked --quiet --features needs-go --test chart

.PHONY: screenshots
screenshots: ## Write the pictures of the plugin's page to docs/images (needs Debian's Chromium)
	dev/packages page
	cargo test --locked --features needs-chromium --test page -- --ignored the_pictures

.PHONY: end-of-life
end-of-life: ## Refresh the dates until which distributions are supported
	dev/end-of-life

.PHONY: lint
lint: ## Check formatting and lints
	cargo fmt --check
	cargo clippy --locked --all-targets --all-features -- --deny warnings

.PHONY: test
test: ## Run every test, on a real API server and a real cluster too (needs Debian 12, root and Go)
	dev/test

.PHONY: bench
bench: ## Run the benchmarks: one decision, the plugin, and a cascade compared with a bare loop (docs/benchmarks.md)
	dev/bench

.PHONY: simulate
simulate: ## Run the simulation over SEEDS seeds, starting at FROM; SEED=n replays one
	cargo test --locked --profile cluster --test simulation -- --nocapture $(if $(SEED),replay,the_invariants)

.PHONY: simulate-estate
simulate-estate: ## Simulate a day of 1,000 images, drawn from SEED, and print how long patches take
	cargo test --locked --profile cluster --test simulation -- --nocapture --ignored every_patch_of_a_day

.PHONY: fuzz
fuzz: ## Read random Dockerfiles as BuildKit reads them, SEEDS of each kind (20000), from FROM on (needs Go); then dev/fuzz
	SEEDS=$(or $(SEEDS),20000) cargo test --locked --features needs-go --test dockerfile -- --nocapture
	dev/fuzz

.PHONY: mutants
mutants: ## Break the engine on purpose, in many ways, and check that the simulation notices each
	dev/mutants

.PHONY: demo
demo: ## Show everything live, from an empty machine to a patched application
	dev/demo

.PHONY: demo-down
demo-down: ## Remove the demo and its cluster
	dev/demo down

.PHONY: image
image: ## Build the operator's image IMAGE with this machine's container engine; PUSH=1 pushes it
	dev/images/with-engine "$(IMAGE)"

.PHONY: images
images: ## Build the operator's image and push it to the development cluster
	dev/images/operator

.PHONY: self-build
self-build: ## Build the Dockerfile in the development cluster, and let the operator patch itself
	dev/self-build

.PHONY: cluster-up
cluster-up: ## Start the development cluster
	dev/cluster up

.PHONY: cluster-down
cluster-down: ## Stop the development cluster and remove everything of it
	dev/cluster down

.PHONY: cluster-status
cluster-status: ## Show what of the development cluster is running
	dev/cluster status
