#!/usr/bin/env bash
# Bundles at work in PyTorch: the shipped model in diffusers' layout inside an unmodified DiTPipeline against `ousac sample`
# and `ousac eval`; the cases are in tests/interop/hosted/apply_dit.py. Skipped (77) where no Python with torch and
# diffusers is found. BUILD, OUSAC, DATA, TORCH_PYTHON as `make test` sets them.
set -u
. "$(dirname "$0")/hosted.bash"
hosted_begin "torch diffusers"
hosted_shipped
hosted apply_dit.py
