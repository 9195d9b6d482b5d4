#!/usr/bin/env bash
# Memory: what --dry-run says is not exceeded, --memory is kept, and packing does not hold the model, however deep.
#
#   OUSAC=build/ousac BUILD=build bash tests/cli/test_memory.sh
#
# A random model of 12 blocks, 173 MB, is profiled, allocated and packed; peaks are the resident memory that the system
# counted. Works in a temporary directory and removes it.
set -u
. "$(dirname "$0")/../support/harness.bash"
MiB=1048576
# A sanitizer has memory of its own.
counted=1
grep -qa -e __asan_init -e __tsan_init "$OUSAC" && counted=0

# peak COMMAND...: runs it and sets $peak to the most resident bytes it had, $code to how it ended.
peak() {
    read -r code peak < <("$PYTHON" -c 'import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=open("out", "w"), stderr=open("err", "w"))
print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)' "$@")
}
# of KEY: a member of the JSON object that the last command printed.
of() { "$PYTHON" -c 'import json, sys; print(json.load(open("out"))[sys.argv[1]])' "$1"; }
# predict COMMAND...: $predicted from a dry run, which must write nothing.
predict() {
    rm -f written.oca
    if "$OUSAC" "$@" -o written.oca --dry-run --json >out 2>err; then predicted=$(of peak_bytes); else predicted=0; fi
    check "a dry run of $1 writes nothing" test ! -e written.oca
}
# run WHAT COMMAND...: the prediction holds, and is within a factor of two; the result is written.oca.
run() {
    local what=$1
    shift
    predict "$@"
    peak "$OUSAC" "$@" -q -o written.oca
    check "$what" test "$code" = 0
    if [ $counted = 1 ]; then
        echo "$what: predicted $((predicted / MiB)) MiB, was $((peak / MiB)) MiB"
        check "$what: below what was said" test "$peak" -le "$predicted"
        check "$what: not far below" test "$predicted" -le $((2 * peak))
    else skipped=$((skipped + 2)); fi
}

{
    "$MAKE_DIT" deep 1 12 448 && "$MAKE_DIT" shallow 1 4 448 &&
        "$OUSAC" schedule --steps 3 --scale 3 --cfg 0:3:2 --period 3 -o s.json -q
} >out 2>err || {
    cat err >&2
    exit 1
}
model=deep/model.safetensors
size=$(stat -c %s $model)
profile=(profile -m "$model" -s s.json --samples 0:4 --micro-batch 2 --pilot-samples 2 --threads 2)

# --- a profile, with its moments in memory and out of it ---
run "a profile" "${profile[@]}"
mv written.oca p.oca
whole=$predicted
run "a profile with its moments on disk" "${profile[@]}" --spill .
check "both are equal" "$OUSAC" diff p.oca written.oca -q >/dev/null
spilled=$predicted
check "moments on disk take less" test "$spilled" -lt "$whole"
limit=$(((whole + spilled) / 2))
predict "${profile[@]}" --memory $limit
check "a limit between the two sends them there" test "$(of spilled) $(of threads)" = "True 2"
peak "$OUSAC" "${profile[@]}" --memory $limit -q -o written.oca
check "the limit is kept" test "$code" = 0 -a \( $counted = 0 -o "$peak" -le $limit \)
check "and changes nothing" "$OUSAC" diff p.oca written.oca -q >/dev/null
check "nothing is left beside it" test -z "$(find . -name '.ousac*')"
predict "${profile[@]}" --memory $((spilled - MiB))
check "a lower one takes a thread" test "$(of threads)" = 1
rm -f written.oca
"$OUSAC" "${profile[@]}" --memory 100MiB -o written.oca >out 2>err
check "a limit below the weights is refused" test $? = 1
check "in one line that says what is needed" grep -q "^ousac profile: --memory 0.098 GiB: needs up to 0...* GiB" err
check "which is all" test "$(wc -l <err)" = 1 -a ! -e written.oca
"$OUSAC" "${profile[@]}" --memory 6furlongs -o written.oca >out 2>err
check "a size that is none is refused" test $? = 2

# --- a plan from the spectra, and the bundle: neither holds the model ---
below_model() { test $counted = 0 -o "$peak" -lt $((size / 2)); }
run "a plan from the spectra" allocate -m $model -p p.oca --method knapsack --forecast off --threads 1
check "a plan from the spectra: without the model" below_model
mv written.oca plan.oca
pack=(pack -m "$model" -p p.oca --plan plan.oca --threads 1)
run "a bundle" "${pack[@]}"
check "a bundle: without the model" below_model
deep=$peak
mv written.oca b.oca
# Whether two threads are at their largest at the same time is chance, so only the bound is checked.
predict pack -m $model -p p.oca --plan plan.oca --threads 2
peak "$OUSAC" pack -m $model -p p.oca --plan plan.oca --threads 2 -q -o written.oca
check "a bundle on two threads" test "$code" = 0
check "a bundle on two threads: below what was said" test $counted = 0 -o "$peak" -le "$predicted"
check "the same bundle" cmp b.oca written.oca
run "a bundle of every direction" "${pack[@]}" --keep-all
check "a bundle of every direction: without the model" below_model
check "every one verifies" "$OUSAC" verify b.oca written.oca -q >/dev/null

# --- the whole pipeline ---
calibrate=(calibrate -m shallow/model.safetensors -s s.json --samples 2 --validation 2 --test 2 --micro-batch 2)
"$OUSAC" "${calibrate[@]}" -o all --dry-run --json >out 2>err
predicted=$(of peak_bytes)
check "a dry run of calibrate writes nothing" test ! -e all
peak "$OUSAC" "${calibrate[@]}" -o all -q
check "calibrate" test "$code" = 0
[ $counted = 0 ] || echo "calibrate: predicted $((predicted / MiB)) MiB, was $((peak / MiB)) MiB"
check "calibrate: below what was said" test $counted = 0 -o "$peak" -le "$predicted"

# --- and with a search before it, whose fits keep the caches of all their samples ---
{ "$MAKE_DIT" small 1 2 288 && "$OUSAC" schedule --steps 4 --scale 3 --uncached -o today.json -q; } >out 2>err || exit 1
search=(calibrate -m small/model.safetensors --reference today.json --budget-total 0.5 --effort quick --samples 2
    --validation 2 --test 2 --micro-batch 1)
"$OUSAC" "${search[@]}" -o searched --dry-run --json >out 2>err
predicted=$(of peak_bytes)
check "a dry run of a search writes nothing" test ! -e searched
check "it says what fills the memory" grep -q "samples walking together" out
"$OUSAC" "${search[@]}" -o searched --memory $((predicted / 3)) >out 2>err
check "a search beyond the limit is refused" test $? = 1 -a ! -e searched
check "with what is needed at least" grep -q "^ousac calibrate: --memory .* needs up to .* while fitting" err
peak "$OUSAC" "${search[@]}" --memory "$predicted" -o searched -q
check "a search within the limit" test "$code" = 0
if [ $counted = 1 ]; then
    echo "a search: predicted $((predicted / MiB)) MiB, was $((peak / MiB)) MiB"
    check "a search: below what was said" test "$peak" -le "$predicted"
    check "a search: not far below" test "$predicted" -le $((2 * peak))
else skipped=$((skipped + 2)); fi

# --- depth costs no memory ---
model=shallow/model.safetensors
{
    "$OUSAC" profile -m $model -s s.json --samples 0:2 --micro-batch 2 --weights-plain -o p4.oca -q &&
        "$OUSAC" allocate -m $model -p p4.oca --method knapsack --forecast off -o plan4.oca -q
} >out 2>err
check "a shallow model" test $? = 0
peak "$OUSAC" pack -m $model -p p4.oca --plan plan4.oca --threads 1 -q -o b4.oca
if [ $counted = 1 ]; then
    # 8 blocks more are 115 MB of weights and 26 MB of moments.
    check "8 blocks more cost no memory" test $((deep - peak)) -lt $((8 * MiB))
else skipped=$((skipped + 1)); fi

finish
