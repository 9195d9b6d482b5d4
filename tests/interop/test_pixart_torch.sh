#!/bin/bash
# The PixArt engine against diffusers' on random models and the shipped one: forwards and whole trajectories within 1e-4. Skipped (77)
# where no Python with torch and diffusers is found. OUSAC, BUILD, TORCH_PYTHON as `make test` sets them.
set -u
exec "${TORCH_PYTHON:-python3}" tests/interop/pixart_torch.py --ousac "${OUSAC:-build/ousac}" \
    --forward "${BUILD:-build}/tests/interop/inputs_forward" --shipped "${DATA:-data}/shapes-pixart"
