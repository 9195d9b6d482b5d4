#!/usr/bin/env bash
# --compute: bfloat16 linears change the statistics a little, say by how much, and are part of a profile's identity.
#
#   OUSAC=build/ousac BUILD=build bash tests/cli/test_compute.sh
#
# Exit status 77: skipped, this machine has no bfloat16 matrix units or no oneDNN.
set -u
. "$(dirname "$0")/../support/harness.bash"

profile() { # OUTPUT OPTION...
    local output=$1
    shift
    "$OUSAC" profile -m dit/model.safetensors -s s.json --pilot-samples 4 -o "$output" "$@" >out 2>err
}

"$MAKE_DIT" dit && "$OUSAC" schedule --steps 4 --scale 3 --cfg 0:4:2 --period 2 -o s.json -q || exit 1

profile bad.oca --samples 0:4 --compute f64
check "an unknown name is refused by its name" grep -q -- '--compute expects f32 or bf16, not .f64' err
check "and leaves nothing" test ! -e bad.oca

profile b.oca --samples 0:4 --compute bf16
status=$?
if grep -q 'compute bf16: ' err; then
    check "unsupported leaves nothing" test ! -e b.oca -a "$status" != 0
    finish >finished || { cat finished && exit 1; }
    tail -n 1 err
    exit 77
fi
check "a bfloat16 profile is made" test "$status" = 0 -a -s b.oca
check "it says what bfloat16 changed" grep -qE '^bf16 against f32 on samples 0:4: delta energy [-+0-9.e]+, at most' out
check "which is something, though the checkpoint is float32" grep -qE 'final samples [0-9.]*[1-9]' out
profile f.oca --samples 4:8 --weights b.oca
check "weights of the other precision are refused" grep -q 'step weights of another --compute' err
profile f.oca --samples 4:8 --weights-plain
profile g.oca --samples 0:4 --weights-plain --compute bf16
"$OUSAC" merge f.oca g.oca -o m.oca >out 2>err
check "a mixed merge is refused" grep -qE 'f.oca \(against g.oca\): one profile was computed in bf16 and the other in f32' err
check "and leaves nothing" test ! -e m.oca
profile h.oca --samples 4:8 --weights-plain --compute bf16
check "profiles of one precision merge" "$OUSAC" merge g.oca h.oca -o m.oca
check "and verify" "$OUSAC" verify m.oca
profile one.oca --samples 0:8 --weights-plain --compute bf16 --threads 1 --json
cp out one.json
profile two.oca --samples 0:8 --weights-plain --compute bf16 --threads 2 --json
digest() { grep -oE '"digest":[[:space:]]*"[0-9a-f]*"' "$1"; }
check "threads do not change a digest" test -n "$(digest one.json)" -a "$(digest one.json)" = "$(digest out)"
check "JSON names the effect" grep -q '"bf16_effect"' out
check "sampling takes it too" "$OUSAC" sample -m dit/model.safetensors -s s.json --samples 0:2 --compute bf16 -o s.png -q

finish
