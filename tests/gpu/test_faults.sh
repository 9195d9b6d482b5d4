#!/usr/bin/env bash
# What goes wrong on a device, on the emulation (tests/gpu/emulation/README.md): none there, one that cannot do bfloat16,
# memory that is short at any allocation, a device lost at any moment; and that graphs and bfloat16 change no more than
# they should.
#
#     OUSAC=build/ousac BUILD=build bash tests/gpu/test_faults.sh
set -u

. "$(dirname "$0")/../support/harness.bash"
export OUSAC_CUDA_PLUGIN=$BUILD/tests/plugins/emulated_cuda.so

"$BUILD/tests/tools/make_dit" dit >/dev/null || exit 1
"$OUSAC" schedule --steps 4 --scale 3 --cfg 0:4:2 --period 2 -o s.json -q || exit 1
model=(-q -m dit/model.safetensors -s s.json)
common=("${model[@]}" --device cuda)
sample=(sample "${model[@]}" --samples 2)
profile=(profile "${common[@]}" --samples 0:6 --micro-batch 2 --weights-plain --reproducible)

# --- no device, and one that cannot ---
refused "no device" 6 "no device that can be used: no CUDA-capable device" env OUSAC_EMULATED_DEVICES=0 "$OUSAC" "${sample[@]}" --device cuda -o no.png
refused "no such device" 6 "no device 3: this machine has 1" "$OUSAC" "${sample[@]}" --device cuda:3 -o no.png
check "auto is the CPU where there is none" env OUSAC_EMULATED_DEVICES=0 "$OUSAC" "${sample[@]}" --device auto -o auto.png
refused "no bfloat16" 6 "compute capability 7.5: bfloat16 products need 8.0" \
    env OUSAC_EMULATED_CAPABILITY=75 "$OUSAC" "${sample[@]}" --device cuda --compute bf16 -o no.png
refused "no code for it" 6 "built for other devices than this one: no kernel image" \
    env OUSAC_EMULATED_CAPABILITY=61 "$OUSAC" "${sample[@]}" --device cuda -o no.png
check "nothing is left" test ! -e no.png

# --- short of memory, wherever it ends ---
refusals=0
# A thread's workspace is 32 MiB; weights, caches and moments of the tiny model are far smaller.
for bytes in 0 30000 90000 150000 $(seq $((32 << 20)) 50000 $((36 << 20))); do
    OUSAC_EMULATED_BYTES=$bytes "$OUSAC" "${profile[@]}" --threads 1 -o short.oca >out 2>err
    code=$?
    [ $code = 0 ] && break
    refusals=$((refusals + 1))
    if [ $code != 1 ] || [ "$(wc -l <err)" != 1 ] || ! grep -q memory err || [ -e short.oca ]; then
        fail "$bytes bytes of device memory: exit code $code, expected 1 and one line about memory"
    fi
done
check "it runs with enough of it" test "$code" = 0
check "and there was too little before" test "$refusals" -gt 8
check "the profile is whole" "$OUSAC" verify short.oca

# --- a device lost in mid-run ---
check "undisturbed" "$OUSAC" "${profile[@]}" --threads 1 -o whole.oca
lost=0 resumed=0
for after in 0 5 250 500 800 1100; do
    rm -f lost.oca lost.oca.part
    OUSAC_EMULATED_LOST_AFTER=$after "$OUSAC" "${profile[@]}" --threads 1 -o lost.oca >out 2>err
    code=$?
    cp err message
    [ $code = 0 ] && continue
    lost=$((lost + 1))
    if [ $code != 1 ] || [ "$(wc -l <err)" != 1 ] || [ -e lost.oca ] ||
        ! grep -qE 'the device stopped working, seen at|no memory' err; then
        fail "lost after $after: exit code $code, expected 1 and one line"
        continue
    fi
    if [ -e lost.oca.part ]; then
        resumed=$((resumed + 1))
        check "lost after $after: says what is kept" \
            grep -qE 'lost.oca.part keeps [24] of 6 samples: the same command goes on' message
        check "lost after $after: a whole state" "$OUSAC" verify lost.oca.part
    fi
    check "after $after: goes on" "$OUSAC" "${profile[@]}" --threads 1 -o lost.oca
    check "after $after: to the same bytes" cmp whole.oca lost.oca
done
check "it was lost" test "$lost" -gt 3
check "and some runs left a state" test "$resumed" -gt 1
refused "two threads: lost" 1 "the device stopped working" \
    env OUSAC_EMULATED_LOST_AFTER=900 "$OUSAC" "${profile[@]}" --threads 2 -o two.oca
check "two threads: goes on" "$OUSAC" "${profile[@]}" --threads 2 -o two.oca
check "two threads: to the same bytes" cmp whole.oca two.oca
refused "lost while sampling" 1 "the device stopped working" env OUSAC_EMULATED_LOST_AFTER=150 "$OUSAC" "${sample[@]}" --device cuda -o no.png
check "nothing is left of it" test ! -e no.png

# --- graphs change nothing ---
check "a recording without graphs" env OUSAC_CUDA_GRAPHS=0 "$OUSAC" "${profile[@]}" --threads 1 -o eager.oca
check "is the same file" cmp whole.oca eager.oca
calibrate=(calibrate "${common[@]}" --samples 4 --validation 2 --test 2 --micro-batch 2 --budget-step 0.6 --dtype f32)
for graphs in 0 1; do
    for forecast in off on; do
        OUSAC_CUDA_GRAPHS=$graphs "$OUSAC" "${calibrate[@]}" --method uniform --forecast $forecast --threads 1 \
            -o run$graphs.$forecast >out 2>err || fail "calibrate, graphs $graphs, forecast $forecast"
    done
    OUSAC_CUDA_GRAPHS=$graphs "$OUSAC" place "${common[@]}" --samples 2 --probe-samples 2 --evaluations 2 --full 2 --micro-batch 2 --threads 1 \
        -o placed$graphs.json >out 2>err || fail "place, graphs $graphs"
done
for forecast in off on; do
    check "the bundle with graphs, forecast $forecast" cmp run0.$forecast/bundle.oca run1.$forecast/bundle.oca
    check "samples with graphs, forecast $forecast" "$OUSAC" diff --tolerance 0 run0.$forecast/samples.oca run1.$forecast/samples.oca
done
check "the placement with graphs" cmp placed0.json placed1.json

# --- bfloat16 ---
exits "a bfloat16 profile" 0 "$OUSAC" "${profile[@]}" --compute bf16 -o b.oca
cp out effect
check "says what it changed" test -e b.oca
"$OUSAC" profile -m dit/model.safetensors -s s.json --device cuda --samples 0:4 --compute bf16 --pilot-samples 4 -o e.oca >effect 2>err
check "by how much" grep -qE '^bf16 against f32 on samples 0:4: delta energy [-+0-9.e]+, at most [0-9.e-]+ .*; final samples [0-9.e-]+$' effect
check "that is something" "${PYTHON:-python3}" -c 'import re, sys
output = float(re.search(r"final samples ([0-9.e-]+)", open("effect").read()).group(1))
sys.exit(not 1e-5 < output < 0.05)'
refused "one precision a profile" 4 "f32 and the other in bf16+attention" "$OUSAC" merge whole.oca b.oca -o m.oca
# Factors by the plain SVD depend on the weights alone, which must be the checkpoint's and not the rounded ones.
for compute in f32 bf16; do
    check "a bundle made in $compute" "$OUSAC" "${calibrate[@]}" --compute $compute --factors svd --method uniform --forecast off -o $compute
    check "and exported" "$OUSAC" export --safetensors $compute/bundle.oca -o $compute.safetensors
done
cat >factors.py <<'PYTHON'
import json, struct, sys

def factors(path):
    data = open(path, "rb").read()
    size = struct.unpack("<Q", data[:8])[0]
    return {name: (entry["shape"], data[8 + size + entry["data_offsets"][0]:8 + size + entry["data_offsets"][1]])
            for name, entry in json.loads(data[8:8 + size]).items() if name.startswith("factor/")}

a, b = factors(sys.argv[1]), factors(sys.argv[2])
sys.exit(not a or a != b)
PYTHON
check "its factors are those of the exact weights" "${PYTHON:-python3}" factors.py f32.safetensors bf16.safetensors
check "auto takes bfloat16 to the device" "$OUSAC" "${sample[@]}" --device auto --compute bf16 -o auto16.png

finish
