#!/bin/bash
# The FLUX engine against diffusers (flux_torch.py): forwards and trajectories, relative error at most 1e-4. Skipped (77)
# where no Python with torch and diffusers is found. OUSAC, BUILD, TORCH_PYTHON as `make test` sets them.
set -u
SCRATCH=$(mktemp -d)
trap 'rm -rf "$SCRATCH"' EXIT
export SCRATCH OUSAC=${OUSAC:-build/ousac} OCA_LIBRARY=${BUILD:-build}/lib/liboca.so
"${TORCH_PYTHON:-python3}" tests/interop/flux_torch.py
