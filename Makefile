# `make` prints what there is. The bodies are in scripts/.
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help run build quick test scenarios cluster proof soak fuzz pgo bench fmt lint deny sbom clean

help: ## print this
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

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

scenarios: ## Portunus in a real control plane with a Pod network, on this machine
	@scripts/scenarios.sh

cluster: ## the same cluster, left up to try things in; prints its kubeconfig
	cargo build
	@scripts/cluster.sh up --image portunus=target/debug/portunus

proof: ## the same scenarios at full size, with times, rates and memory beside their goals
	scripts/grpc.sh
	scripts/suites.sh
	PORTUNUS_SCALE=full cargo test --release --test it -- proof:: autobahn:: --nocapture --test-threads=1
	PORTUNUS_PROFILE=release PORTUNUS_SCALE=full PORTUNUS_CLUSTER_WITHOUT=kube-proxy,coredns scripts/scenarios.sh scale:: --nocapture
	PORTUNUS_PROFILE=release PORTUNUS_SCALE=full scripts/scenarios.sh --skip scale:: --nocapture

soak: ## half an hour of mixed traffic, changes, faults and attacks; a part of `make proof`
	PORTUNUS_SCALE=full cargo test --release --test it -- proof::soak --nocapture

fuzz: ## each fuzz target for ten minutes, as many at once as there are cores
	@scripts/fuzz.sh 600

pgo: ## the fastest binary: target/pgo/portunus, optimised by a profile of the load bench's traffic
	bash benches/load/setup.sh
	scripts/pgo.sh

bench: build pgo ## side by side with nginx, HAProxy, Envoy, Pingora, Traefik and Caddy; writes docs/bench (an hour)
	python3 benches/load/run.py --publish --rules 10000 --portunus target/pgo/portunus --baseline target/release/portunus

fmt: ## format the code
	cargo fmt
	gofmt -w tests/grpc tests/cluster

lint: ## clippy and go vet
	cargo clippy --all-targets -- -D warnings
	cd tests/grpc && go vet ./...
	cd tests/cluster && go vet ./...

deny: ## check the dependencies: licences, bans, sources, advisories
	@scripts/setup.sh
	@scripts/deny.sh

sbom: ## what Portunus is made of, as CycloneDX: target/sbom/portunus.cdx.json
	@scripts/sbom.sh

clean: ## remove everything that was built
	cargo clean
