#!/usr/bin/env bash
# The Python of README.md and docs/PYTORCH.md, run to the letter; the cases are in tests/interop/hosted/tutorial.py. Skipped
# (77) where no Python with torch, diffusers and transformers is found. BUILD, OUSAC, TORCH_PYTHON as `make test` sets them.
set -u
. "$(dirname "$0")/hosted.bash"
hosted_begin "torch diffusers transformers"
hosted tutorial.py
