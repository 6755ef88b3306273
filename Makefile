# `make` prints what there is. The bodies are in scripts/.
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help run build quick test proof bench fmt lint deny clean

help: ## print this
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## build, start three backends and Portunus on examples/verona, print what to try
	@scripts/run.sh

build: ## the release binary: target/release/portunus
	cargo build --release

quick: ## the inner loop: format, lints, tests of the pure code
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	cargo test --lib
	cargo test --test it -- translate layers

test: ## everything that proves the project, small; installs what it needs where it may
	@scripts/test.sh

proof: ## the same scenarios at full size, with times, rates and memory beside their goals
	scripts/grpc.sh
	PORTUNUS_SCALE=full cargo test --release --test it -- proof:: --nocapture --test-threads=1

bench: build ## side by side with nginx, HAProxy, Envoy, Traefik and Caddy (takes a while)
	bash benches/load/setup.sh
	python3 benches/load/run.py

fmt: ## format the code
	cargo fmt
	gofmt -w tests/grpc

lint: ## clippy and go vet
	cargo clippy --all-targets -- -D warnings
	cd tests/grpc && go vet ./...

deny: ## check the dependencies: licences, bans, sources, advisories
	@scripts/setup.sh
	@scripts/deny.sh

clean: ## remove everything that was built
	cargo clean
