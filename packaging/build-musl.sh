#!/usr/bin/env bash
# Builds the static binary: target/x86_64-unknown-linux-musl/release/ringbearer, which runs on any
# Linux of that architecture and needs no file of it. Takes some minutes (fat link-time optimisation).
#
#   packaging/build-musl.sh            for this machine's architecture
#   packaging/build-musl.sh aarch64    for another, where its musl compiler is installed
set -euo pipefail
cd "$(dirname "$0")/.."

target=${1:-$(uname -m)}-unknown-linux-musl

# ring compiles C.
if ! command -v musl-gcc >/dev/null; then
    echo "musl-gcc is missing: apt-get install musl-tools" >&2
    exit 1
fi
rustup target add "$target"
cargo build --release --locked --bin ringbearer --target "$target"

binary=${CARGO_TARGET_DIR:-target}/$target/release/ringbearer
# A binary that asks for a loader is not static, whatever was meant.
if readelf -l "$binary" | grep -q INTERP; then
    echo "$binary is linked dynamically" >&2
    exit 1
fi
"$binary" --version
ls -l "$binary"
