#!/usr/bin/env bash
# `ousac time`, and `ousac calibrate` under a budget in time: what is measured, what is decided by given files (so that no
# decision here depends on this machine), resumption, and what is refused.
#
#   OUSAC=build/ousac BUILD=build bash tests/cli/test_time.sh
#
# Works on a tiny model in a temporary directory and removes it.
set -u
PLUGIN=$(realpath "${BUILD:-build}")/tests/plugins/emulated_cuda.so
. "$(dirname "$0")/../support/harness.bash"
export OPENBLAS_NUM_THREADS=1

hide_gnuplot
"$MAKE_DIT" dit >/dev/null || exit 1
"$OUSAC" schedule --steps 24 --scale 3 --cfg all --period 1 -o reference.json -q || exit 1
M=(-m dit/model.safetensors --micro-batch 2 --threads 2)

# --- time ---
ousac "time: measures" 0 . time "${M[@]}" --repeat 2 --ranks 1,2,4 --json -q -o time.json
keep
json "time: what, where" 'r["content"]["kind"] == "ousac time" and r["content"]["machine"]["threads"] == 2 and r["content"]["machine"]["micro_batch"] == 2 and r["content"]["machine"]["device"] == "cpu" and r["content"]["machine"]["processor"] and r["content"]["clock"] == "processor"'
json "time: every part" 'all(0 < r["content"][p]["least_s"] <= r["content"][p]["median_s"] <= r["content"][p]["most_s"] for p in ("full", "refresh", "reuse", "extrapolate", "alone"))'
json "time: the ranks asked for" '[c["rank"] for c in r["content"]["cached"]] == [1, 2, 4] and all(c[f]["count"] > 0 for c in r["content"]["cached"] for f in ("plain", "forecast"))'
json "time: the line leaves what it says" 'all(abs(c[f]["median_s"] / (l["fixed_s"] + l["per_rank_s"] * c["rank"]) - 1) <= l["residual"] + 1e-6 for f, l in r["content"]["line"].items() for c in r["content"]["cached"])'
check "time: the file is the same" "$PYTHON" -c 'import json; assert json.load(open("time.json")) == json.load(open("stdout"))["content"]'
ousac "time: inspect shows it" 0 'a rank; at most' inspect time.json
ousac "time: inspect --json" 0 '"kind":.*"ousac time"' inspect time.json --json
ousac "time: under a schedule's steps" 0 'mode cfg' time "${M[@]}" --repeat 1 -s reference.json -q -o steps.json
if [ -e "$PLUGIN" ]; then
    export OUSAC_CUDA_PLUGIN=$PLUGIN
    ousac "time: of a device, by the wall clock" 0 '"clock":.*"wall"' time "${M[@]}" --device cuda --repeat 1 --ranks 1,4 --json -q -o device.json
    ousac "time: the device is named" 4 'device.json: "machine.device" is cuda; expected cpu' calibrate "${M[@]}" --reference reference.json --budget-time 0.4 --time device.json -o x
    unset OUSAC_CUDA_PLUGIN
else
    skip "no emulated device: $PLUGIN"
fi
ousac "time: ranks that are none" 2 'ousac time: --ranks 1,x: expected 2 to 16 whole numbers' time "${M[@]}" --ranks 1,x -o x.json
ousac "time: ranks that fall" 2 '2 after 4; expected ranks that rise' time "${M[@]}" --ranks 4,2 -o x.json
ousac "time: a rank that no layer takes" 2 'from 1 to' time "${M[@]}" --ranks 1,5000 -o x.json
ousac "time: over its model" 2 . time "${M[@]}" -o dit/model.safetensors
check "time: nothing is left of what failed" test ! -e x.json

# --- files of one's own: `times NAME CACHED` of a machine where a cached evaluation takes that share of a full one ---
times() {
    "$PYTHON" - "$1" "$2" <<'PY'
import json, sys
made = json.load(open("time.json"))
full, fixed, slope = 0.01, 0.01 * float(sys.argv[2]), 0.00002
spread = lambda s: {"median_s": s, "least_s": s, "most_s": s, "count": 1}
for part, s in (("full", full), ("refresh", 1.05 * full), ("reuse", 0.0005), ("extrapolate", 0.0006), ("alone", full), ("step", 0.0001)):
    made[part] = spread(s)
for point in made["cached"]:
    point["plain"], point["forecast"] = spread(fixed + slope * point["rank"]), spread(fixed + slope * (point["rank"] + 2))
made["line"] = {"plain": {"fixed_s": fixed, "per_rank_s": slope, "residual": 0.0},
                "forecast": {"fixed_s": fixed + 2 * slope, "per_rank_s": slope, "residual": 0.0}}
made["machine"]["processor"] = "a machine of one's own"
json.dump(made, open(sys.argv[1], "w"))
PY
}
times cheap.json 0.1 && times dear.json 1.2 || exit 1

# --- calibrate ---
search=(calibrate "${M[@]}" --reference reference.json --effort quick --samples 8 --validation 4 --test 8)
ousac "calibrate: caching that saves no time is left out" 0 'caching saves no time here' "${search[@]}" --budget-time 0.4 --time dear.json -o none
ousac "calibrate: and that is said beside the measured share" 0 'budget: 40.0 % of the reference.s time, on a machine of one.s own.*' "${search[@]}" --budget-time 0.4 --time dear.json -q -o none
keep
check "calibrate: with what was measured" grep -qE 'by the cost model 39.6 %; measured [0-9.]+ % of its wall time' stdout
ousac "calibrate: fewer steps are the result" 0 . "${search[@]}" --budget-time 0.4 --time dear.json --json -q -o none
keep
# 9 steps are 37.5 % of the time; 11, of which 8 are guided, (11 x 0.0001 + 19 x 0.01) / (24 x 0.0201), 39.6 %.
json "calibrate: as many as the time pays for, some of them not guided" '[(c["kind"], c["steps"], c["guided"], c["taken"]) for c in r["search"]["candidates"]] == [("fewer steps", 9, 9, False), ("fitted steps", 9, 9, False), ("some guided", 11, 8, True), ("extrapolated", 24, 24, False)] and r["search"]["candidates"][0]["time_share"] == 9 / 24'
json "calibrate: the share is measured" '0 < r["time"]["wall_share_least"] <= r["time"]["wall_share"] <= r["time"]["wall_share_most"] and r["time"]["budget"] == 0.4 and r["time"]["caching_saves_time"] is False and r["files"]["time"] == "dear.json"'
json "calibrate: a result without a cache is judged" '[h["method"] for h in r["headline"]] == ["fitted-steps", "fewer-steps"]'
ousac "calibrate: its curves are drawn by time too" 0 'curve.tsv' plot curve none --tables -o tables
# shellcheck disable=SC2016 # a program of awk
check "calibrate: by the cost model" awk -F'\t' '$3 == "seconds" && $7 == "validation" && $8 == 12 && $9 == 0.5 { n++ } END { exit n != 2 }' tables/curve.tsv
check "calibrate: no bundle, no measurements of its own" test ! -e none/bundle.oca -a ! -e none/time.json -a ! -e none/search.part

ousac "calibrate: caching that saves time" 0 . "${search[@]}" --budget-time 0.4 --time cheap.json --json -q -o found
keep
json "calibrate: is a candidate, within the time" '[c["kind"] for c in r["search"]["candidates"]] == ["fewer steps", "fitted steps", "some guided", "extrapolated", "cached"] and all(c["time_share"] <= 0.4 for c in r["search"]["candidates"]) and r["search"]["candidates"][4]["rank"] in (1, 2, 3, 4)'
# By hand: steps, refreshes and cached evaluations of both branches at the prices of the file.
json "calibrate: its share of the time is the file's" 'any(abs((c["steps"] * 0.0001 + c["full"] * 0.0105 + (2 * c["steps"] - c["full"]) * (0.001 + 0.00002 * (c["rank"] + f))) / (24 * (0.0001 + 2 * 0.01)) / c["time_share"] - 1) < 1e-6 for c in r["search"]["candidates"][4:] for f in (0, 2))'
# Of an extrapolated one: reuse until a branch has two full evaluations behind it.
json "calibrate: so is an extrapolated one's" 'all(0.0005 - 1e-9 <= (c["time_share"] * 24 * 0.0201 - c["steps"] * 0.0001 - c["full"] * 0.0105) / (2 * c["steps"] - c["full"]) <= 0.0006 + 1e-9 for c in r["search"]["candidates"] if c["kind"] == "extrapolated")'
if [ -e found/bundle.oca ]; then
    ousac "calibrate: the plan says so" 0 'a budget of 0.4 of the reference.s time on a machine of one.s own, cpu, f32, 2 threads, micro-batches of 2' inspect found/plan.oca
    ousac "calibrate: and the bundle" 0 'a budget of 0.4 of the reference.s time on a machine of one.s own' inspect found/bundle.oca --json
    ousac "calibrate: the bundle verifies" 0 . verify found/bundle.oca
    json "calibrate: at the rank that was priced" 'r["evaluation"]["plan"]["method"].startswith("uniform")'
else
    skip "no cached candidate was taken: nothing to say of its plan"
fi
ousac "calibrate: measures at the start" 0 . "${search[@]}" --budget-time 0.4 --json -q -o own
keep
json "calibrate: and keeps what it measured" 'r["files"]["time"] == "own/time.json"'
ousac "calibrate: as a file that can be given" 0 'a rank; at most' inspect own/time.json

# --- an interrupted search goes on, under the same times alone ---
long=(calibrate "${M[@]}" --reference reference.json --effort full --samples 8 --validation 4 --test 8)
"$OUSAC" "${long[@]}" --budget-time 0.4 --time cheap.json -q -o undisturbed >/dev/null || exit 1
"$OUSAC" "${long[@]}" --budget-time 0.4 --time cheap.json -q -o again >/dev/null 2>&1 &
job=$!
for _ in $(seq 6000); do
    if [ -e again/search.part ] || ! kill -0 $job 2>/dev/null; then break; fi
    sleep 0.01
done
kill -TERM $job 2>/dev/null
wait $job
if [ -e again/search.part ]; then
    mkdir other && cp again/search.part other/
    cp -r other macs
    cp -r other share
    goes='candidates of an interrupted search'
    ousac "calibrate: an interrupted search goes on" 0 "$goes" "${long[@]}" --budget-time 0.4 --time cheap.json -o again
    check "calibrate: to the same schedule" cmp again/schedule.json undisturbed/schedule.json
    "$OUSAC" "${long[@]}" --budget-time 0.4 --time dear.json -o other >out 2>err
    check "calibrate: not under another file" sh -c "! grep -q '$goes' err"
    "$OUSAC" "${long[@]}" --budget-time 0.3 --time dear.json -o share >out 2>err
    check "calibrate: nor another share" sh -c "! grep -q '$goes' err"
    "$OUSAC" "${long[@]}" --budget-total 0.4 -o macs >out 2>err
    check "calibrate: nor a budget in MACs" sh -c "! grep -q '$goes' err"
else
    skip "the search was over before it could be interrupted"
fi

# --- what is refused, before anything is written ---
timed=("${search[@]}" --budget-time 0.4)
edit() { # NAME OLD NEW: cheap.json with one text for another
    sed "s/$2/$3/" cheap.json >"$1"
}
edit threads.json '"threads": 2' '"threads": 3'
edit device.json '"device": "cpu"' '"device": "cuda"'
edit compute.json '"compute": "f32"' '"compute": "bf16"'
edit batch.json '"micro_batch": 2' '"micro_batch": 4'
edit mode.json '"mode": "cfg"' '"mode": "cond"'
edit key.json '"reuse"' '"reused"'
edit value.json '"median_s": 0.01,' '"median_s": -1,'
"$PYTHON" -c 'import json; t = json.load(open("cheap.json")); t["model"] = "0" * 64; json.dump(t, open("model.json", "w"))'
ousac "refused: another model" 4 'ousac calibrate: model.json: "model" is 000000000000..., another model' "${timed[@]}" --time model.json -o x
ousac "refused: another number of threads" 4 'threads.json: "machine.threads" is 3; expected 2' "${timed[@]}" --time threads.json -o x
ousac "refused: another device" 4 'device.json: "machine.device" is cuda; expected cpu' "${timed[@]}" --time device.json -o x
ousac "refused: another compute type" 4 'compute.json: "machine.compute" is bf16; expected f32' "${timed[@]}" --time compute.json -o x
ousac "refused: another micro-batch" 4 'batch.json: "machine.micro_batch" is 4; expected 2' "${timed[@]}" --time batch.json -o x
ousac "refused: another mode" 4 'mode.json: "mode" is cond; expected cfg' "${timed[@]}" --time mode.json -o x
ousac "refused: a key that is none" 3 'key.json: "reused": unknown key' "${timed[@]}" --time key.json -o x
ousac "refused: a time below 0" 3 'value.json: "full.median_s": expected a number above 0' "${timed[@]}" --time value.json -o x
ousac "refused: a file that is none" 3 'reference.json: ' "${timed[@]}" --time reference.json -o x
ousac "refused: a file that is not there" 1 'nowhere.json' "${timed[@]}" --time nowhere.json -o x
ousac "refused: the whole time" 2 'budget 1: .*above 0 and below 1' "${search[@]}" --budget-time 1 -o x
ousac "refused: no time" 2 'budget 0: .*above 0 and below 1' "${search[@]}" --budget-time 0 -o x
ousac "refused: less than a step takes" 2 'below what one of the reference.s 24 steps costs' "${search[@]}" --budget-time 0.03 -o x
ousac "refused: two budgets" 2 'expected one of --budget-time, --budget-total and --budget-step' "${timed[@]}" --budget-total 0.4 -o x
ousac "refused: a budget of a step beside it" 2 'not several' "${timed[@]}" --budget-step 0.4 -o x
ousac "refused: under a schedule" 2 'expected --reference without --schedule' calibrate "${M[@]}" -s reference.json --budget-time 0.4 -o x
ousac "refused: times without a budget in time" 2 'expected --budget-time with it' "${search[@]}" --budget-total 0.4 --time cheap.json -o x
ousac "refused: ranks that were not timed" 2 'expected uniform among --method' "${timed[@]}" --method knapsack -o x
ousac "refused: no reference" 2 'expected --schedule, or --reference' calibrate "${M[@]}" --budget-time 0.4 -o x
ousac "refused: a plan of memory before evaluations were timed" 2 'expected --time beside --budget-time' "${timed[@]}" --dry-run -o x
ousac "refused: a limit of memory before that" 2 'expected --time beside --budget-time' "${timed[@]}" --memory 4GiB -o x
check "refused: nothing was written" test ! -e x

# --- what a search in time will do ---
ousac "dry run: by given times" 0 . "${timed[@]}" --time cheap.json --dry-run --json -o x
keep
json "dry run: the budget is in time, and holds a cache" 'r["search"]["budget_time"] == 0.4 and r["search"]["fewer_steps"] >= 1 and len(r["search"]["cached"]) == 1'
json "dry run: what a run comes to" 'r["search"]["fewer_steps"] == '"$("$PYTHON" -c 'import json; print(json.load(open("found/search.json"))["candidates"][0]["steps"])')"
ousac "dry run: where caching saves no time there is none" 0 . "${timed[@]}" --time dear.json --dry-run --json -q -o x
keep
json "dry run: fewer steps alone" 'r["search"]["cached"] == []'
ousac "dry run: people are told" 0 'none: the budget holds no cache' "${timed[@]}" --time dear.json --dry-run -o x
check "dry run: nothing was written" test ! -e x
finish
