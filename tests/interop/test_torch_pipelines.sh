#!/usr/bin/env bash
# Pipelines with text (PixArt-alpha and -Sigma, SD3, FLUX, QwenImage, Wan) on small random instances, from prompts to the
# samples of their own calls; the cases are in tests/interop/hosted/pipelines_text.py. Skipped (77) where no Python with torch,
# diffusers and transformers is found. BUILD, OUSAC, TORCH_PYTHON as `make test` sets them.
set -u
. "$(dirname "$0")/hosted.bash"
hosted_begin "torch diffusers transformers"
hosted pipelines_text.py
