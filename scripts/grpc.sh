#!/usr/bin/env bash
# Builds the gRPC server and client of the tests (tests/grpc) to target/tools/grpc-echo.
set -euo pipefail
cd "$(dirname "$0")/../tests/grpc"
go vet ./...
go build -o ../../target/tools/grpc-echo .
