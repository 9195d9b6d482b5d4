#!/usr/bin/env bash
# `ousac refit`: what fitted numbers are worth under other settings, with and without a cache, and what is refused.
#
#   OUSAC=build/ousac BUILD=build bash tests/cli/test_refit.sh
#
# Works on a tiny model in a temporary directory and removes it.
set -u
. "$(dirname "$0")/../support/harness.bash"
export OPENBLAS_NUM_THREADS=1

hide_gnuplot
"$MAKE_DIT" dit >/dev/null || exit 1
M=(-m dit/model.safetensors --micro-batch 2)
"$OUSAC" schedule --steps 16 --scale 3 --cfg all --period 1 -o reference.json -q || exit 1
"$OUSAC" fit "${M[@]}" --reference reference.json --steps 6 --samples 8 --validation 8 --test 2 -q -o fitted.json >"$WORK/fit" || exit 1
refit=(refit "${M[@]}" --reference reference.json)

ousac "every setting" 0 . "${refit[@]}" -s fitted.json --samples 16:28 --fitting 8 --validation 8 --scales 2,4 --json -q -o refit.json
keep
json "settings" '[(x["setting"], x.get("value")) for x in r["rows"]] == [("as fitted", None), ("seed", 1), ("scale", 2), ("scale", 4), ("steps", 8), ("steps", 31)]'
json "as fitted, fitting again finds the same" 'abs(r["rows"][0]["ratio"]["mean"] - 1) < 1e-6 and r["rows"][0]["verdict"] == "not needed"'
json "a ratio is that of the errors" 'all(abs(x["ratio"]["mean"] - x["transferred"]["mean"] / x["refitted"]["mean"]) < 1e-6 * x["ratio"]["mean"] for x in r["rows"])'
json "intervals hold what they are of" 'all(x[k]["low"] <= x[k]["mean"] <= x[k]["high"] for x in r["rows"] for k in ("textbook", "transferred", "refitted"))'
json "a verdict is by its interval" 'all(x["verdict"] == ("fit again" if x["ratio"]["low"] > 1.1 else "not needed" if x["ratio"]["high"] < 1.1 else "undecided") for x in r["rows"][1:])'
json "numbers fitted to twice the steps are another reference's" '[x["verdict"] for x in r["rows"] if x["setting"] == "steps"][0] == "fit again"'
json "fitting again beats the textbook" 'all(x["refitted"]["mean"] < x["textbook"]["mean"] for x in r["rows"])'
json "error by the number of samples" '[p["samples"] for p in r["learning"]] == [2, 4, 8] and r["learning"][2]["test"]["mean"] == r["rows"][0]["refitted"]["mean"] and r["samples_enough"] in (2, 4, 8)'
check "the file is what is printed" cmp refit.json "$WORK/stdout"
ousac "inspect knows it" 0 'fits under other settings' inspect refit.json
ousac "verify too" 0 'ok' verify refit.json
ousac "it is no schedule" 3 'expected a bundle' plot schedule refit.json --term
ousac "as text" 0 'scale 2 .*(fit again|not needed|undecided)' "${refit[@]}" -s fitted.json --samples 16:20 --fitting 4 \
    --validation 4 --settings scale --scales 2
check "and no other setting" test "$(grep -cE '^(seed|reference of)' "$WORK/out")" = 0
ousac "scales of its own accord" 0 '^scale 4 ' "${refit[@]}" -s fitted.json --samples 16:20 --fitting 4 --validation 4 --settings scale

# --- with the cache of a bundle at work ---
"$OUSAC" schedule --steps 16 --scale 3 --cfg all --period 2 -o cached.json -q
ousac "a bundle" 0 . calibrate "${M[@]}" -s cached.json --samples 8 --validation 4 --test 4 --budget-step 0.5 --method uniform -q -o cached
ousac "is fitted" 0 . fit "${M[@]}" --reference reference.json -b cached/bundle.oca --samples 8 --validation 8 --test 2 -q -o cached_fitted.json
ousac "its numbers under another seed, cached" 0 . "${refit[@]}" -b cached/bundle.oca -s cached_fitted.json --samples 16:20 \
    --fitting 8 --validation 8 --settings seed --json -q
keep
json "all steps: what is left is the cache's" 'len(r["rows"]) == 2 and r["steps"] == 16 and all(x["textbook"]["mean"] > 0 and x["transferred"]["mean"] > 0 for x in r["rows"])'

# --- what is refused ---
ousac "no schedule" 2 'expected a fitted --schedule' "${refit[@]}" --samples 16:20
ousac "a schedule that is not fitted" 2 'has no fitted coefficients' "${refit[@]}" -s reference.json --samples 32:36
ousac "a bundle whose schedule is not fitted" 2 'has no fitted coefficients' "${refit[@]}" -b cached/bundle.oca --samples 32:36
ousac "a reference that is fitted" 2 'has fitted coefficients' refit "${M[@]}" --reference fitted.json -s fitted.json --samples 32:36
ousac "test samples among the others" 2 'expected test samples from 32 on' "${refit[@]}" -s fitted.json --samples 30:34
ousac "a scale that is none" 2 'expected numbers such as 2,4' "${refit[@]}" -s fitted.json --samples 32:36 --scales 2,x
ousac "a scale below 0" 2 'scale -1: expected one above 0' "${refit[@]}" -s fitted.json --samples 32:36 --scales=-1
ousac "an unknown setting" 2 'seed' "${refit[@]}" -s fitted.json --samples 32:36 --settings solver
finish
