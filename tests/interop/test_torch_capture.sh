#!/usr/bin/env bash
# Capture from sampling loops in PyTorch that are not ours, on a small random DiT of diffusers, against profiles of the same
# model hosted; the cases are in tests/interop/hosted/capture.py. Skipped (77) where no Python with torch and diffusers is
# found. BUILD, OUSAC, TORCH_PYTHON as `make test` sets them.
set -u
. "$(dirname "$0")/hosted.bash"
hosted_begin "torch diffusers"
hosted capture.py
