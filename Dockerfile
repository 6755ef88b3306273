# syntax=docker/dockerfile:1
# A static binary on an empty base: nothing else is in the image, no shell, no C library, no certificates (the
# API server's CA comes with the Pod's token). The tests don't build this file; they run the same static binary
# in an empty root. arm64 has not been built at all yet.
#
#   docker build --tag portunus:0.1.0 .
#   docker buildx build --platform linux/amd64,linux/arm64 --tag REGISTRY/portunus:0.1.0 --push .

# The builder runs on the machine's own architecture and compiles for the one that is asked for.
FROM --platform=$BUILDPLATFORM rust:1.95.0-bookworm AS build
ARG BUILDARCH
ARG TARGETARCH
WORKDIR /src
# The C compiler of the other architecture, for aws-lc and mimalloc.
RUN case "$BUILDARCH-$TARGETARCH" in \
      amd64-arm64) packages="gcc-aarch64-linux-gnu g++-aarch64-linux-gnu libc6-dev-arm64-cross" ;; \
      arm64-amd64) packages="gcc-x86-64-linux-gnu g++-x86-64-linux-gnu libc6-dev-amd64-cross" ;; \
      *) packages="" ;; \
    esac \
 && apt-get update \
 && apt-get install --yes --no-install-recommends cmake $packages \
 && rm -rf /var/lib/apt/lists/*
ENV CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
    CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER=x86_64-linux-gnu-gcc \
    RUSTFLAGS="-C target-feature=+crt-static"
COPY Cargo.toml Cargo.lock ./
COPY benches benches
COPY src src
# `--target` even for the machine's own: else RUSTFLAGS hold for build scripts and macros too, and those can't
# be static.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target,id=portunus-$TARGETARCH \
    case "$TARGETARCH" in \
      amd64) target=x86_64-unknown-linux-gnu ;; \
      arm64) target=aarch64-unknown-linux-gnu ;; \
      *) echo "no build for $TARGETARCH" >&2; exit 1 ;; \
    esac \
 && rustup target add "$target" \
 && cargo build --release --locked --bin portunus --target "$target" \
 && cp "target/$target/release/portunus" /portunus

FROM scratch
COPY --from=build --chown=0:0 --chmod=0755 /portunus /portunus
USER 65532:65532
EXPOSE 8080 8443 10254
ENTRYPOINT ["/portunus"]
CMD ["serve"]
