#!/usr/bin/env bash
# The whole pipeline on CUDA against the CPU: spectra, subspaces, end-to-end errors. Skipped (77) where no device can be
# opened; with OUSAC_GPU_REQUIRED=1 that is a failure.
#
#     OUSAC=build/ousac DATA=data [MODEL=FILE] [SCHEDULE=FILE] [INPUTS=FILE] [BUDGET=X] [SAMPLES=N] \
#         [OUSAC_CUDA_PLUGIN=FILE] bash tests/gpu/test_pipeline.sh
set -u

OUSAC=${OUSAC:-build/ousac}
DATA=${DATA:-data}
MODEL=${MODEL:-$DATA/shapes-dit/model.safetensors}
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
SAMPLES=${SAMPLES:-16}
run=(--model "$MODEL" --schedule "${SCHEDULE:-$DATA/schedules/sparse.json}" ${INPUTS:+--inputs "$INPUTS"})
budget=(${BUDGET:+--budget-step "$BUDGET"})

"$OUSAC" sample "${run[@]}" --samples 1 --device cuda -o "$WORK/probe.png" >"$WORK/out" 2>&1
status=$?
if [ $status = 6 ] && [ -z "${OUSAC_GPU_REQUIRED:-}" ]; then
    head -n 1 "$WORK/out"
    exit 77
fi
if [ $status != 0 ]; then
    cat "$WORK/out"
    exit 1
fi
python=
for candidate in "${PYTHON:-python3}" /usr/bin/python3; do
    if [ -z "$python" ] && "$candidate" -c 'import numpy' 2>/dev/null; then python=$candidate; fi
done
if [ -z "$python" ]; then
    echo "no Python with numpy"
    exit 77
fi

for device in cpu cuda; do
    at=$WORK/$device
    "$OUSAC" calibrate "${run[@]}" --samples "$SAMPLES" --validation 4 --test "$SAMPLES" --method uniform --forecast on "${budget[@]}" \
        --dtype f32 --threads 2 -q --device $device -o "$at" >"$WORK/out" 2>&1 || { cat "$WORK/out"; exit 1; }
    for file in profile bundle; do
        "$OUSAC" export --safetensors "$at/$file.oca" -o "$at/$file.safetensors" >"$WORK/out" 2>&1 ||
            { cat "$WORK/out"; exit 1; }
    done
done
if "$python" "$(dirname "$0")/compare.py" "$WORK/cpu" "$WORK/cuda"; then
    echo "1 passed, 0 failed"
else
    exit 1
fi
