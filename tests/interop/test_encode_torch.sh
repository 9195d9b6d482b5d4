#!/bin/bash
# examples/encode_prompts.py on pipelines of diffusers with small random text encoders. Skipped (77) where no Python with
# torch, diffusers, transformers and safetensors is found. OUSAC, TORCH_PYTHON as `make test` sets them.
set -u
python=${TORCH_PYTHON:-python3}
"$python" -c 'import torch, diffusers, transformers, safetensors' 2>/dev/null || {
    echo "no Python with torch, diffusers, transformers and safetensors"
    exit 77
}
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
OUSAC=${OUSAC:-build/ousac} PYTHONDONTWRITEBYTECODE=1 "$python" tests/interop/hosted/encode_prompts.py "$work" 2>&1 || exit 1
echo "1 passed, 0 failed"
