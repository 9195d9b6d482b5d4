#!/usr/bin/env bash
# Bundles at work under torch.compile, on small random pipelines; the cases are in tests/interop/hosted/compiled.py. BACKEND
# names torch.compile's (default "eager", which compiles no code). Skipped (77) where no Python with torch, diffusers and
# transformers is found. BUILD, OUSAC, TORCH_PYTHON as `make test` sets them.
set -u
ROOT=$(cd "$(dirname "$0")/../.." && pwd) || exit 2
python=${TORCH_PYTHON:-python3}
"$python" -c 'import torch, diffusers, transformers' 2>/dev/null || {
    echo "no Python with torch, diffusers and transformers"
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
OUSAC=$(realpath "${OUSAC:-build/ousac}") OUSAC_LIBRARY=$build/lib/libousac.so.0 OCA_LIBRARY=$build/lib/libousac.so.0 WORK=$work \
    PYTHONPATH=$ROOT/bindings/python PYTHONDONTWRITEBYTECODE=1 "$python" "$ROOT/tests/interop/hosted/compiled.py" -v 2>&1 || exit 1
echo "1 passed, 0 failed"
