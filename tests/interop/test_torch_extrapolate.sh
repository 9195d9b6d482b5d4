#!/usr/bin/env bash
# Schedules that reuse and extrapolate what modules gave, without a bundle and with one, against hooks that do so by hand; the
# cases are in tests/interop/hosted/extrapolated.py. BACKEND names torch.compile's (default "eager"). Skipped (77) where no
# Python with torch, diffusers and transformers is found. BUILD, OUSAC, TORCH_PYTHON as `make test` sets them.
set -u
. "$(dirname "$0")/hosted.bash"
hosted_begin "torch diffusers transformers"
hosted extrapolated.py
