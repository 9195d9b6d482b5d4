#!/usr/bin/env bash
# Site maps on small random instances of their classes in diffusers; the cases are in tests/interop/hosted/host_maps.py.
# Skipped (77) where no Python with torch and diffusers is found. BUILD, TORCH_PYTHON as `make test` sets them.
set -u
ROOT=$(cd "$(dirname "$0")/../.." && pwd) || exit 2
python=${TORCH_PYTHON:-python3}
"$python" -c 'import torch, diffusers' 2>/dev/null || {
    echo "no Python with torch and diffusers"
    exit 77
}
[ -z "${SANITIZE:-}" ] || {
    echo "a sanitized library does not load into Python"
    exit 77
}
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
build=$(realpath "${BUILD:-build}")
make -s -C "$ROOT" library BUILD="$build" >"$work/log" 2>&1 || {
    cat "$work/log"
    exit 1
}
OUSAC_LIBRARY=$build/lib/libousac.so.0 OCA_LIBRARY=$build/lib/libousac.so.0 WORK=$work PYTHONPATH=$ROOT/bindings/python \
    PYTHONDONTWRITEBYTECODE=1 "$python" "$ROOT/tests/interop/hosted/host_maps.py" -v 2>&1 || exit 1
echo "1 passed, 0 failed"
