#!/bin/sh
# Runs the public TUF conformance suite against our rules.
#
#   git clone https://github.com/theupdateframework/tuf-conformance
#   os/tuf/conformance.sh tuf-conformance [pytest's arguments]
#
# Needs python3 with venv, and `faketime`. The second run has the suite sign everything with Ed25519 and the client know
# nothing else, as a node does.
set -eu
suite=$(cd "$1" && pwd)
shift
here=$(cd "$(dirname "$0")" && pwd)
cd "$here"
cargo build --quiet --release --locked -p os-tuf --example conformance_client
client=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/release/examples/conformance_client
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -R "$suite/." "$work/suite"
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "$work/suite"
cd "$work/suite"

echo "== as it is"
"$work/venv/bin/python" -m pytest tuf_conformance --entrypoint "$client" -q "$@"

echo "== Ed25519 alone"
sed -i 's/keytype: str = "ecdsa", scheme: str = "ecdsa-sha2-nistp256"/keytype: str = "ed25519", scheme: str = "ed25519"/' \
    tuf_conformance/_internal/repository_simulator.py
# These are about other kinds of keys: a node knows none.
TUF_ED25519_ONLY=1 "$work/venv/bin/python" -m pytest tuf_conformance --entrypoint "$client" -q "$@" \
    --deselect 'tuf_conformance/test_keys.py::test_keytype_and_scheme[rsa/rsassa-pss-sha256]' \
    --deselect 'tuf_conformance/test_keys.py::test_keytype_and_scheme[ecdsa/ecdsa-sha2-nistp256]' \
    --deselect tuf_conformance/test_static_repositories.py
