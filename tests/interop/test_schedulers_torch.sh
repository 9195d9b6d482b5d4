#!/bin/bash
# `ousac schedule --from` against the schedulers of diffusers (schedulers_torch.py), trajectory by trajectory. Skipped (77)
# where no Python with torch and diffusers is found. OUSAC, BUILD, TORCH_PYTHON as `make test` sets them.
set -u
SCRATCH=$(mktemp -d)
trap 'rm -rf "$SCRATCH"' EXIT
export SCRATCH OUSAC=${OUSAC:-build/ousac} OCA_LIBRARY=${BUILD:-build}/lib/liboca.so
"${TORCH_PYTHON:-python3}" tests/interop/schedulers_torch.py
