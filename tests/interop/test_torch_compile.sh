#!/usr/bin/env bash
# Bundles at work under torch.compile, on small random pipelines; the cases are in tests/interop/hosted/compiled.py. BACKEND
# names torch.compile's (default "eager", which compiles no code). Skipped (77) where no Python with torch, diffusers and
# transformers is found. BUILD, OUSAC, TORCH_PYTHON as `make test` sets them.
set -u
. "$(dirname "$0")/hosted.bash"
hosted_begin "torch diffusers transformers"
hosted compiled.py
