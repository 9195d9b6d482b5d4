#!/usr/bin/env bash
# Site maps on small random instances of their classes in diffusers; the cases are in tests/interop/hosted/host_maps.py.
# Skipped (77) where no Python with torch and diffusers is found. BUILD, TORCH_PYTHON as `make test` sets them.
set -u
. "$(dirname "$0")/hosted.bash"
hosted_begin "torch diffusers"
hosted host_maps.py
