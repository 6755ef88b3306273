#!/usr/bin/env bash
# Writes what Portunus is made of, as CycloneDX 1.5 in JSON, to target/sbom/portunus.cdx.json: every crate of the
# binary for this machine's kind, with version, licence, origin and checksum.
set -euo pipefail
cd "$(dirname "$0")/.."
CYCLONEDX_VERSION=0.5.9
cyclonedx=target/tools/bin/cargo-cyclonedx

if [[ "$("$cyclonedx" cyclonedx --version 2>/dev/null || true)" != *"$CYCLONEDX_VERSION" ]]; then
    echo "sbom: building cargo-cyclonedx $CYCLONEDX_VERSION once, into target/tools"
    cargo install cargo-cyclonedx --quiet --locked --version "$CYCLONEDX_VERSION" --root target/tools
fi
target=$(rustc -vV | sed -n 's/^host: //p')
# It writes beside Cargo.toml and nowhere else.
trap 'rm -f portunus-sbom.json' EXIT
"$cyclonedx" cyclonedx --quiet --format json --spec-version 1.5 --target "$target" --override-filename portunus-sbom
mkdir -p target/sbom
mv portunus-sbom.json target/sbom/portunus.cdx.json
echo "sbom: target/sbom/portunus.cdx.json has $(grep -c '"scope"' target/sbom/portunus.cdx.json) crates"
