#!/usr/bin/env bash
# The CUDA plug-in's sources run on the processor (tests/gpu/emulation): every operation but those whose unit tests run on
# the emulation as they are, then the pipeline on tiny models. Needs no GPU, and takes the place of none.
#
#     OUSAC=build/ousac BUILD=build DATA=data bash tests/gpu/test_emulated.sh
set -eu

BUILD=${BUILD:-build}
HERE=$(dirname "$0")
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
# Absolute, since tests change their directory.
OUSAC_CUDA_PLUGIN=$(realpath "$BUILD/tests/plugins/emulated_cuda.so")
export OUSAC_CUDA_PLUGIN OUSAC_GPU_REQUIRED=1
WITHOUT="attention_bf16 low_rank_bf16" bash "$HERE/test_backend.sh"
"$BUILD/tests/tools/make_dit" "$WORK"
"${OUSAC:-build/ousac}" schedule --steps 8 --scale 5 --cfg 0:8:3 --period 3 --name short -o "$WORK/short.json" >/dev/null
MODEL=$WORK/model.safetensors SCHEDULE=$WORK/short.json SAMPLES=4 bash "$HERE/test_pipeline.sh"
"$BUILD/tests/tools/make_pixart" "$WORK/pixart"
MODEL=$WORK/pixart/diffusion_pytorch_model.safetensors INPUTS=$WORK/pixart/inputs.safetensors SCHEDULE=$WORK/short.json \
    BUDGET=0.5 SAMPLES=4 bash "$HERE/test_pipeline.sh"
OUSAC=${OUSAC:-build/ousac} bash "$HERE/test_commands.sh"
echo "4 passed, 0 failed"
