#!/usr/bin/env bash
# --device: what is refused, and that no part of the pipeline mistakes memory of the backend for its own. The second
# runs every command that computes on a plug-in whose memory the host cannot touch and whose results are the CPU's.
#
#     OUSAC=build/ousac BUILD=build DATA=data bash tests/cli/test_device.sh
#
# Each check prints one line; the last line counts them.
set -u

. "$(dirname "$0")/../support/harness.bash"

# none NAME CODE TEXT ARGUMENT...: the program refuses, and no file is left.
none() {
    refused "$1" "$2" "$3" "$OUSAC" "${@:4}" -o "$WORK/never"
    check "$1: leaves nothing" test ! -e "$WORK/never"
}

"$BUILD/tests/tools/make_dit" "$WORK" || exit 1
MODEL=$WORK/model.safetensors
SCHEDULE=$DATA/schedules/sparse.json
run=(--model "$MODEL" --schedule "$SCHEDULE")

# --- refusals ---
none 'a device that is none' 2 'expected cpu, cuda' sample "${run[@]}" --device gpu
export OUSAC_CUDA_PLUGIN=$WORK/absent.so
none 'a missing plug-in' 6 'absent.so cannot be loaded' sample "${run[@]}" --device cuda
none 'a missing plug-in, profiling' 6 'absent.so cannot be loaded' profile "${run[@]}" --samples 4 --device cuda:0
export OUSAC_CUDA_PLUGIN=$BUILD/tests/plugins/wrong_abi.so
none 'a plug-in of another version' 6 'interface is version' sample "${run[@]}" --device cuda
export OUSAC_CUDA_PLUGIN=$BUILD/tests/plugins/strict.so
none 'a device that the plug-in lacks' 6 'no device 7' sample "${run[@]}" --device cuda:7
OUSAC_CUDA_PLUGIN=$WORK/absent.so check 'auto without a plug-in is the CPU' \
    "$OUSAC" sample "${run[@]}" --samples 1 --device auto -o "$WORK/auto.png"
"$OUSAC" sample "${run[@]}" --json --device cuda:7 -o "$WORK/never" >"$WORK/json" 2>"$WORK/err"
check 'the error under --json' grep -q "unsupported" "$WORK/json"

# --- the whole pipeline, where the host may not touch the backend's memory ---
small=(--samples 8 --validation 4 --test 4 --threads 2 -q)
for device in cpu cuda; do
    at=$WORK/$device
    check "calibrate on $device" "$OUSAC" calibrate "${run[@]}" "${small[@]}" --device $device -o "$at"
    check "scaled factors on $device" "$OUSAC" calibrate "${run[@]}" "${small[@]}" --factors cd-svd --forecast off \
        --method uniform --device $device -o "$at.cd"
    check "place on $device" "$OUSAC" place "${run[@]}" --samples 4 --full 8 -q --device $device -o "$at.json"
done
for file in weights profile plan bundle samples; do
    check "$file.oca on other memory is the CPU's" "$OUSAC" diff "$WORK/cpu/$file.oca" "$WORK/cuda/$file.oca"
done
check "the scaled bundle on other memory is the CPU's" "$OUSAC" diff "$WORK/cpu.cd/bundle.oca" "$WORK/cuda.cd/bundle.oca"
check "the placement on other memory is the CPU's" "$OUSAC" diff "$WORK/cpu.json" "$WORK/cuda.json"

# --- every command, where plans have factors of low rank ---
for device in cpu cuda; do
    DEVICE=$device bash "$ROOT/tests/gpu/test_commands.sh" "$WORK/all.$device" >log 2>&1 || fail "commands on $device" "$(cat log)"
    check "the commands on $device were run" grep -qE '^[1-9][0-9]* passed, 0 failed' log
done
for file in dit/bundle.oca scaled/bundle.oca {delta-cov,svd,ca-svd,cd-svd}.{auto,i8}.oca p.oca placed.json fitted.json fitted.cached.json searched/schedule.json \
    pixart/bundle.oca flux/bundle.oca; do
    check "$file on other memory is the CPU's" "$OUSAC" diff --tolerance 0 "$WORK/all.cpu/$file" "$WORK/all.cuda/$file"
done

finish
