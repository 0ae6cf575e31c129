#!/bin/bash
# From nothing to a served completion: checks what is committed, gets an engine, builds cpu-vllm and
# lets it answer. Called by `make demo` with the path of imgbuild.
set -euo pipefail

imgbuild=$1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cell=cpu-vllm

say() { printf '\n==> %s\n' "$*"; }

say "Locks and rendered files are what matrix.yaml asks for"
"$imgbuild" lock --check
"$imgbuild" render --check

found=$("$imgbuild" doctor --json)
if ! grep -qE '"(docker|buildah)": null' <<<"$found"; then
    say "No container engine here: installing Buildah and Podman"
    "$here/engines.sh" install buildah
elif ! grep -q '"mmdebstrap": true' <<<"$found"; then
    say "For a base without a registry: installing mmdebstrap"
    "$here/engines.sh" install bootstrap || say "Going on without; a registry must answer"
fi

say "Building $cell"
"$imgbuild" build --matrix "$cell"

say "Serving a tiny model from it"
"$imgbuild" smoke --matrix "$cell"
