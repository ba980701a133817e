#!/bin/bash
# Takes a Debian guest (shared/vm) with Troupe as packaged down, again and again,
# while pods come and go, and looks each time at what it then holds (e2e/reboots).
# Its arguments are that program's, e.g. `-rounds 5 -seed 7 -v`. VM names shared/vm,
# KERNEL the guest's kernel (stable or new). Needs root and what `make build` makes.
set -euo pipefail
cd "$(dirname "$0")/.."
vm=${VM:-$PWD/../shared/vm}
[ -x "$vm/run" ] || vm=/work/shared/vm
[ -x "$vm/run" ] || { echo "no shared/vm: set VM to the folder that makes and boots the guest" >&2; exit 2; }
[ "$(id -u)" = 0 ] || { echo "needs root, to make the guest" >&2; exit 2; }
"$vm/build"
mkdir -p .cache/vm
CGO_ENABLED=0 go build -trimpath -tags containers_image_openpgp,exclude_graphdriver_btrfs,grpcnotrace -ldflags '-s -w' -o .cache/vm/reboots ./e2e/reboots
exec .cache/vm/reboots -cache "${VM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/runtime-vm}" -kernel "${KERNEL:-stable}" -out .cache/vm "$@"
