#!/usr/bin/env bash
# Builds the Debian package from a binary: target/debian/ringbearer_*.deb. Needs cargo-deb
# (cargo install --locked cargo-deb).
#
#   packaging/build-deb.sh                    from target/release/ringbearer
#   packaging/build-deb.sh PATH/ringbearer    from another, such as the static one of build-musl.sh
set -euo pipefail
cd "$(dirname "$0")/.."

binary=${1:-target/release/ringbearer}
into=target/package

rm -rf "$into"
mkdir -p "$into/man"
install -m 755 "$binary" "$into/ringbearer"
"$binary" man --all "$into/man"
"$binary" completions bash >"$into/ringbearer.bash"
"$binary" completions zsh >"$into/_ringbearer"
"$binary" completions fish >"$into/ringbearer.fish"
# In Debian's own form; what has changed is in CHANGELOG.md.
version=$(cargo pkgid | sed 's/.*[#@]//')
date=$(date -R -d "@${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}")
cat >"$into/changelog" <<END
ringbearer ($version-1) unstable; urgency=medium

  * See CHANGELOG.md in the source.

 -- Ringbearer maintainers <maintainers@ringbearer.invalid>  $date
END
cargo deb --no-build --no-strip --locked
