#!/usr/bin/env bash
# The calibration commands on the shipped model: a small pipeline from end to end, and what they refuse.
#
#     OUSAC=build/ousac DATA=data bash tests/cli/test_pipeline.sh
#
# Each check prints one line; the last line counts them.
set -u

. "$(dirname "$0")/../support/harness.bash"

# The files of a directory, sorted, each followed by a blank.
files() {
    find "$1" -mindepth 1 -printf '%f\n' | sort | tr '\n' ' '
}

absent() {
    [ ! -e "$1" ]
}

# --- schedules: sparse guidance, another one, one without any cached evaluation, one that is not decided ---
"$OUSAC" schedule --steps 10 --scale 5 --cfg 0:9:3 --period 3 --name sparse -o "$WORK/s.json" 2>/dev/null
"$OUSAC" schedule --steps 10 --scale 3 --period 3 --name constant -o "$WORK/constant.json" 2>/dev/null
"$OUSAC" schedule --steps 10 --scale 5 --cfg 0:9:3 --period 3 --name renamed -o "$WORK/renamed.json" 2>/dev/null
"$OUSAC" schedule --steps 7 --scale 5 --cfg 0:6:3 --period 3 --name seven -o "$WORK/seven.json" 2>/dev/null
"$OUSAC" schedule --steps 4 --scale 3 --uncached --name none -o "$WORK/none.json" 2>/dev/null
"$OUSAC" schedule --steps 4 --scale 3 --gates auto -o "$WORK/auto.json" 2>/dev/null

# --- profiling: shards add up to the whole ---
profile=(profile --model "$MODEL" --schedule "$WORK/s.json")
ousac "pilot carries the step weights" 0 "pilot of 8 samples" \
    "${profile[@]}" --pilot -o "$WORK/weights.oca"
ousac "profile of all samples, own pilot" 0 "profile of 8 samples.*step weights: pilot" \
    "${profile[@]}" --samples 0:8 -o "$WORK/p.oca"
ousac "first shard" 0 "step weights: file" "${profile[@]}" --samples 0:4 --weights "$WORK/weights.oca" -o "$WORK/p0.oca"
ousac "second shard, one thread" 0 "step weights: file" \
    "${profile[@]}" --samples 4:8 --weights "$WORK/weights.oca" --threads 1 -o "$WORK/p1.oca"
ousac "merge of the shards" 0 "" merge "$WORK/p1.oca" "$WORK/p0.oca" -o "$WORK/merged.oca"
ousac "merged shards equal the whole" 0 "" diff --tolerance 1e-10 "$WORK/p.oca" "$WORK/merged.oca"
ousac "plain weights are other weights" 0 "step weights: plain" \
    "${profile[@]}" --samples 8:12 --weights-plain -o "$WORK/plain.oca"
ousac "merge refuses other weights" 4 "weights" merge "$WORK/p.oca" "$WORK/plain.oca" -o "$WORK/never.oca"
ousac "profile --json" 0 "" "${profile[@]}" --samples 0:4 --weights "$WORK/weights.oca" --json -o "$WORK/p0b.oca"
keep
json "profile --json is JSON with the cost of the run" \
    'r["run"]["forwards"] == 4 * 13 and r["samples"] == [0, 4] and r["run"]["pilot"] == [0, 8]'
check "profiling is reproducible" "$OUSAC" diff --tolerance 0 "$WORK/p0.oca" "$WORK/p0b.oca"

# --- as many samples as it takes ---
ousac "samples are recorded until the factors settle" 0 \
    "^converged at the tolerance, 500 %, of what uniform ranks at a step of 25.00 % leave" \
    "${profile[@]}" --samples auto --tolerance 5 --weights "$WORK/weights.oca" -o "$WORK/auto16.oca"
ousac "the fixed range" 0 "" "${profile[@]}" --samples 0:16 --weights "$WORK/weights.oca" --threads 1 -o "$WORK/fixed16.oca"
check "makes the very same profile" "$OUSAC" diff --tolerance 0 "$WORK/auto16.oca" "$WORK/fixed16.oca"
digest() { "$OUSAC" inspect --json "$1" | "$PYTHON" -c 'import json, sys; print(json.load(sys.stdin)["digest"])'; }
check "by its digest too" test -n "$(digest "$WORK/fixed16.oca")" -a \
    "$(digest "$WORK/auto16.oca")" = "$(digest "$WORK/fixed16.oca")"
ousac "rounds until there are no more samples" 0 "" "${profile[@]}" --samples auto --tolerance 1e-6 --samples-max 35 \
    --weights "$WORK/weights.oca" --json -o "$WORK/auto32.oca"
keep
json "are told, and the excess falls with the samples" '(lambda c: c["converged"] is False and c["tolerance"] == 1e-6 and
    [x["samples"] for x in c["rounds"]] == [16, 32] and r["samples"] == [0, 32] and
    all(0 < x["excess"] <= x["upper"] and x["excess"] <= x["worst"] for x in c["rounds"]) and
    0.3 < c["rounds"][1]["excess"] / c["rounds"][0]["excess"] < 0.8)(r["run"]["convergence"])'
ousac "what was found is kept in the file" 0 "converge" inspect --json "$WORK/auto32.oca"
ousac "too few to judge by" 2 "at least 4 micro-batches, 16 samples" \
    "${profile[@]}" --samples auto --samples-max 15 -o "$WORK/never.oca"
ousac "nothing to judge" 2 "no layer is corrected" profile --model "$MODEL" --schedule "$WORK/none.json" --samples auto \
    -o "$WORK/never.oca"
ousac "neither a range nor auto" 2 "FIRST:END .* or auto, not .automatic." \
    "${profile[@]}" --samples automatic -o "$WORK/never.oca"

# --- allocating ---
allocate=(allocate --model "$MODEL" --profile "$WORK/p.oca")
ousac "uniform plan" 0 "^uniform .*<- chosen" "${allocate[@]}" --method uniform --forecast off -o "$WORK/uniform.oca"
ousac "a plan with a forecast" 0 "^uniform\+forecast .*<- chosen" \
    "${allocate[@]}" --method uniform --forecast on --name forecast -o "$WORK/forecast.oca"
ousac "unknown forecast" 2 "off, on or auto" "${allocate[@]}" --forecast perhaps -o "$WORK/never.oca"
ousac "a budget that cannot pay the forecast" 2 "forecast alone costs" \
    "${allocate[@]}" --forecast on --budget-step 0.01 -o "$WORK/never.oca"
ousac "knapsack plan with its certificate" 0 "dual bound" \
    "${allocate[@]}" --method knapsack --forecast off --budget-step 0.3 --name knapsack -o "$WORK/knapsack.oca"
ousac "auto plan, validated behind the calibration" 0 "validated on samples 8:16.*plan ships" \
    "${allocate[@]}" --budget-step 0.25 -o "$WORK/plan.oca"
ousac "allocate --json" 0 "" "${allocate[@]}" --budget-total 0.5 --json -o "$WORK/total.oca"
keep
json "a total budget is kept, by every candidate" \
    'r["total"] <= 0.5 + 1e-9 and len(r["candidates"]) == 4 and
     all(c["bound"] <= c["modelled_error"] * (1 + 1e-9) for c in r["candidates"])'
json "auto ships what is best end to end" \
    '(lambda e: len(e) == 4 and r["method"] == min(e, key=e.get))(
         {c["method"]: c["relative_error"] for c in r["candidates"]})'
ousac "budget above the ceiling" 2 "--budget-step 1.5: expected from 0\.00[0-9]+ .* to 1 " \
    "${allocate[@]}" --budget-step 1.5 -o "$WORK/never.oca"
ousac "budget below the floor" 2 "--budget-step 0.0001: expected from" \
    "${allocate[@]}" --budget-step 0.0001 -o "$WORK/never.oca"
ousac "total budget below the floor" 2 "--budget-total 0.1: .*expected from 0\.3[0-9]+ .* to 0\.6[0-9]+ " \
    "${allocate[@]}" --budget-total 0.1 -o "$WORK/never.oca"
ousac "both budgets" 2 "not both" "${allocate[@]}" --budget-step 0.2 --budget-total 0.5 -o "$WORK/never.oca"
ousac "unknown method" 2 "expects auto, or some of uniform, knapsack, regions and descent" "${allocate[@]}" --method best -o "$WORK/never.oca"
ousac "validation on calibration samples" 2 "calibrated on samples 0:8" \
    "${allocate[@]}" --validate 4:12 -o "$WORK/never.oca"
ousac "a pilot is no profile" 4 "moment" \
    allocate --model "$MODEL" --profile "$WORK/weights.oca" -o "$WORK/never.oca"

# --- placing the refreshes ---
place=(place --model "$MODEL" --samples 8 --probe-samples 4 --horizon 6 --evaluations 6)
ousac "placement of an undecided schedule" 0 "" \
    "${place[@]}" --schedule "$WORK/auto.json" --period 2 --json -o "$WORK/decided.json"
keep
json "as many evaluations as the even spacing" 'r["even"]["forwards_full"] == 4 and
    sum(r["placed"][k] for k in ("forwards_full", "forwards_cached")) ==
    sum(r["even"][k] for k in ("forwards_full", "forwards_cached"))'
json "the best one measured is written" \
    'r["placed"]["relative_error"] == min(e["relative_error"] for e in r["evaluations"]) and
    (r["written"] == "placed") == (r["placed"]["relative_error"] < r["even"]["relative_error"])'
json "no more runs than allowed" '1 < len(r["evaluations"]) <= 6'
check "its gates are decided" sh -c "! grep -q auto '$WORK/decided.json'"
ousac "placement of a number of full evaluations" 0 "cond +full at [0-9]+ of 10: 0" \
    "${place[@]}" --schedule "$WORK/s.json" --full 6 --name six -o "$WORK/six.json"
ousac "it has them" 0 "" inspect "$WORK/six.json"
ousac "too many full evaluations" 2 "expected from [0-9]+ to 13" \
    "${place[@]}" --schedule "$WORK/s.json" --full 15 -o "$WORK/never.json"
ousac "too few for the horizon" 2 "expected from 3 to 13" \
    "${place[@]}" --schedule "$WORK/s.json" --full 2 -o "$WORK/never.json"

# --- packing ---
pack=(pack --model "$MODEL" --profile "$WORK/p.oca")
ousac "bundle of two plans" 0 "2 plans.*verified" \
    "${pack[@]}" --plan "$WORK/plan.oca" "$WORK/knapsack.oca" -o "$WORK/bundle.oca"
ousac "the bundle verifies" 0 "" verify "$WORK/bundle.oca"
cp "$WORK/bundle.oca" "$WORK/first.oca"
"$OUSAC" "${pack[@]}" --plan "$WORK/plan.oca" "$WORK/knapsack.oca" -o "$WORK/bundle.oca" >/dev/null 2>&1
check "packing is deterministic" cmp "$WORK/first.oca" "$WORK/bundle.oca"
ousac "bundle in bf16" 0 "" "${pack[@]}" --plan "$WORK/plan.oca" --dtype bf16 --json -o "$WORK/bf16.oca"
keep
json "pack --json" 'r["dtype"] == "bf16" and r["verified"] is True and r["plans"][0]["name"] == "default"'
ousac "two plans of one name" 2 "default" "${pack[@]}" "$WORK/plan.oca" "$WORK/uniform.oca" -o "$WORK/never.oca"
ousac "no plan" 2 "at least one plan" "${pack[@]}" -o "$WORK/never.oca"
ousac "unknown dtype" 2 "f32, bf16, f16 or i8" "${pack[@]}" "$WORK/plan.oca" --dtype f8 -o "$WORK/never.oca"
ousac "a plan of another profile" 4 "not allocated from" \
    pack --model "$MODEL" --profile "$WORK/plain.oca" "$WORK/plan.oca" -o "$WORK/never.oca"

# --- factors as published ---
ousac "shards with magnitudes" 0 "" \
    "${profile[@]}" --samples 0:4 --weights "$WORK/weights.oca" --magnitudes -o "$WORK/m0.oca"
ousac "shards with magnitudes, in JSON" 0 '"magnitudes":[[:space:]]*true' \
    "${profile[@]}" --samples 4:8 --weights "$WORK/weights.oca" --magnitudes --json -o "$WORK/m1.oca"
ousac "shards with magnitudes add up" 0 "" merge "$WORK/m0.oca" "$WORK/m1.oca" -o "$WORK/magnitudes.oca"
ousac "but not with others" 4 "magnitudes" merge "$WORK/m0.oca" "$WORK/p1.oca" -o "$WORK/never.oca"
for factors in svd ca-svd cd-svd; do
    ousac "plan for $factors factors" 0 "error model: .*($factors)" \
        allocate --model "$MODEL" --profile "$WORK/magnitudes.oca" --method uniform --forecast off \
        --factors $factors --name $factors -o "$WORK/plan-$factors.oca"
    ousac "bundle of $factors factors" 0 "\"factors\":[[:space:]]*\"$factors\"" pack --model "$MODEL" \
        --profile "$WORK/magnitudes.oca" --factors $factors --plan "$WORK/plan-$factors.oca" --json \
        -o "$WORK/bundle-$factors.oca"
done
check "other factors are other factors" test "$(md5sum "$WORK"/bundle-*svd.oca | cut -d' ' -f1 | sort -u | wc -l)" = 3
ousac "$factors factors are evaluated" 0 "calibrated against exact" \
    eval --model "$MODEL" --bundle "$WORK/bundle-$factors.oca" --samples 16:20
ousac "factors that the profile cannot make" 4 "ca-svd factors need" \
    "${allocate[@]}" --factors ca-svd -o "$WORK/never.oca"
ousac "unknown factors" 2 "--factors expects delta-cov, svd, ca-svd or cd-svd" \
    "${pack[@]}" --plan "$WORK/plan.oca" --factors pca -o "$WORK/never.oca"
ousac "calibrate records what the factors need" 0 "calibrated" calibrate --model "$MODEL" --schedule "$WORK/s.json" \
    --samples 4 --validation 4 --test 4 --method uniform --forecast off --factors cd-svd -o "$WORK/published"

# --- another solver ---
"$OUSAC" schedule --steps 10 --scale 5 --cfg 0:9:3 --period 3 --solver dpmpp-2m -o "$WORK/2m.json" 2>/dev/null
ousac "a schedule of another solver is another schedule" 0 "transfer: the bundle was made for schedule \"sparse\"" \
    eval --model "$MODEL" --bundle "$WORK/bundle.oca" --samples 16:20 --schedule "$WORK/2m.json" --recalibrate-samples 0
ousac "calibrate for dpmpp-2m" 0 "" calibrate --model "$MODEL" --schedule "$WORK/2m.json" --samples 8 --validation 4 \
    --test 4 --json -o "$WORK/all-2m"
keep
json "calibration beats reuse under dpmpp-2m, at most half of its error" \
    '(lambda e: e["calibrated", "exact"] < 0.5 * e["reuse", "exact"])(
         {(c["run"], c["against"]): c["relative_error"]["mean"] for c in r["evaluation"]["errors"]})'

# --- evaluating ---
evaluate=(eval --model "$MODEL" --bundle "$WORK/bundle.oca")
ousac "evaluation" 0 "calibrated against exact" "${evaluate[@]}" --samples 16:20 -o "$WORK/eval.json"
ousac "eval --json" 0 "" "${evaluate[@]}" --samples 16:20 --plan knapsack --json
keep
json "calibration beats reuse, at most half of its error" \
    '(lambda e: e["calibrated", "exact"] < 0.5 * e["reuse", "exact"])(
         {(c["run"], c["against"]): c["relative_error"]["mean"] for c in r["errors"]})'
json "executed MACs are the modelled ones, and shares add up" \
    'all(v["macs"] == v["macs_modelled"] for v in r["runs"].values()) and
     (lambda s: abs(1 - s["guidance_saving"] - s["caching_saving"] + s["calibration_overhead"] - s["total"]) < 1e-12)(
         r["shares"]) and r["held_out"]'
json "counters say what the schedule says" \
    'r["runs"]["calibrated"]["evaluations"] == {"full": 28, "cached": 24, "reuse": 0, "extrapolate": 0} and
     r["runs"]["reference"]["evaluations"]["full"] == 80'
cp "$WORK/eval.json" "$WORK/stdout"
json "eval.json is JSON" 'r["kind"] == "ousac evaluation" and r["plan"]["name"] == "default"'
ousac "bf16 factors, another seed" 0 "seed 7, held out" \
    eval --model "$MODEL" --bundle "$WORK/bf16.oca" --samples 0:4 --seed 7
ousac "a reference schedule" 0 "reference: constant, uncached" \
    "${evaluate[@]}" --samples 16:20 --reference "$WORK/constant.json"
ousac "calibration samples are refused" 2 "calibration used samples 0:8" "${evaluate[@]}" --samples 4:8
ousac "validation samples are refused" 2 "validation used samples 8:16" "${evaluate[@]}" --samples 12:20
ousac "unless forced" 0 "NOT known to be held out" "${evaluate[@]}" --samples 4:8 --force
ousac "the same schedule under another name is no transfer" 0 "calibrated against exact" \
    "${evaluate[@]}" --samples 16:20 --schedule "$WORK/renamed.json"
keep
check "and is not reported as one" sh -c "grep -q 'calibrated against exact' '$WORK/stdout' && ! grep -q transfer '$WORK/stdout'"

# --- under a schedule that the bundle was not made for ---
evaluate=(eval --model "$MODEL" --bundle "$WORK/with-forecast.oca")
ousac "a bundle with a forecast" 0 "" "${pack[@]}" --plan "$WORK/forecast.oca" -o "$WORK/with-forecast.oca"
ousac "another scale, another period, other guided steps" 0 \
    "transferred / recalibrated: .*threshold 1.1: (recalibrat|undecided)" \
    "${evaluate[@]}" --samples 16:24 --schedule "$WORK/constant.json" -o "$WORK/moved.json"
cp "$WORK/moved.json" "$WORK/stdout"
json "every run is there, and either calibration beats reuse" \
    '(lambda e: 0 < e["recalibrated"] < 0.5 * e["reuse"] and 0 < e["transferred"] < 0.5 * e["reuse"])(
         {k: v["relative_error"]["mean"] for k, v in r["transfer"]["runs"].items()})'
json "the ratio is that of the errors, in its interval" \
    '(lambda t: t["ratio"]["low"] <= t["ratio"]["mean"] <= t["ratio"]["high"] and
         abs(t["ratio"]["mean"] * t["runs"]["recalibrated"]["relative_error"]["mean"] /
             t["runs"]["transferred"]["relative_error"]["mean"] - 1) < 1e-9)(r["transfer"])'
json "the verdict is what the interval says" \
    '(lambda t: t["verdict"] == ("recalibrate" if t["ratio"]["low"] > t["threshold"] else
         "not needed" if t["ratio"]["high"] < t["threshold"] else "undecided") and
         (t["more_samples"] is None or t["verdict"] == "undecided"))(r["transfer"])'
json "it says what was moved and what was recorded" \
    '(lambda t: t["from"]["name"] == "sparse" and t["forecast"] == "mapped" and t["calibration"] == [0, 16] and
         t["forwards"] == (8 + 16) * 20)(r["transfer"]) and r["schedule"]["name"] == "constant" and
     {c["run"]: c["relative_error"] for c in r["errors"] if c["against"] == "exact"}["calibrated"] ==
         r["transfer"]["runs"]["transferred"]["relative_error"]'
ousac "another number of steps, without a recalibration" 0 "" \
    "${evaluate[@]}" --samples 16:20 --schedule "$WORK/seven.json" --recalibrate-samples 0 --json
keep
json "has no verdict" 'r["transfer"]["verdict"] == "not measured" and "ratio" not in r["transfer"] and
    r["schedule"]["steps"] == 7'
ousac "a threshold far away is decided" 0 "threshold 100: recalibration is not needed" \
    "${evaluate[@]}" --samples 16:20 --schedule "$WORK/constant.json" --recalibrate-samples 4 --threshold 100
ousac "an uncached schedule corrects nothing" 0 "nothing is corrected, so recalibration is not needed" \
    "${evaluate[@]}" --samples 16:20 --schedule "$WORK/none.json"
ousac "the recalibration's samples are not evaluated" 2 "recalibration would use samples 0:16; expected samples from 16" \
    "${evaluate[@]}" --samples 8:24 --seed 7 --schedule "$WORK/constant.json"
ousac "a bundle is sampled under no other schedule" 4 "schedule" sample --model "$MODEL" \
    --bundle "$WORK/with-forecast.oca" --schedule "$WORK/constant.json" --samples 4 -o "$WORK/never.png"

# --- what eval refuses ---
evaluate=(eval --model "$MODEL" --bundle "$WORK/bundle.oca")
ousac "an unknown plan" 2 "no plan named.*default, knapsack" "${evaluate[@]}" --samples 16:20 --plan other
ousac "samples off the micro-batch" 2 "multiple of the micro-batch" "${evaluate[@]}" --samples 17:20
"$PYTHON" - "$MODEL" "$WORK/other.safetensors" <<'PYTHON'
import struct, sys
data = bytearray(open(sys.argv[1], "rb").read())
# Every second bf16 value of the second half with its sign turned: a model of the same layout, but another.
start = 8 + struct.unpack("<Q", data[:8])[0]
half = start + (len(data) - start) // 8 * 4
data[half + 3::4] = bytes(b ^ 0x80 for b in data[half + 3::4])
open(sys.argv[2], "wb").write(data)
PYTHON
ousac "another model is refused" 4 "model" eval --model "$WORK/other.safetensors" --config "$DATA/shapes-dit/config.json" \
    --bundle "$WORK/bundle.oca" --samples 16:20
ousac "weights of another model are refused" 4 "another model" profile --model "$WORK/other.safetensors" \
    --config "$DATA/shapes-dit/config.json" --schedule "$WORK/s.json" --weights "$WORK/weights.oca" --samples 0:4 \
    -o "$WORK/never.oca"
ousac "weights of another schedule are refused" 4 "another schedule" profile --model "$MODEL" \
    --schedule "$WORK/constant.json" --weights "$WORK/weights.oca" --samples 0:4 -o "$WORK/never.oca"
ousac "weights of another seed are refused" 4 "another seed" \
    "${profile[@]}" --seed 1 --weights "$WORK/weights.oca" --samples 0:4 -o "$WORK/never.oca"

# --- the whole pipeline ---
ousac "calibrate" 0 "" calibrate --model "$MODEL" --schedule "$WORK/s.json" --samples 8 --validation 4 --test 4 \
    --json -o "$WORK/all/of/it"
keep
json "calibrate --json: three disjoint ranges" \
    'r["profiling"]["pilot"] == [0, 8] and r["allocation"]["validation"] == [8, 12] and
     r["evaluation"]["samples"] == [12, 16] and r["evaluation"]["held_out"]'
check "calibrate writes its files and nothing else" \
    test "$(find "$WORK/all/of/it" -mindepth 1 -maxdepth 1 -printf '%f\n' | sort | tr '\n' ' ')" = \
    "bundle.oca cost.json eval.json plan.oca plots profile.oca report.html samples.oca samples.png schedule.json weights.oca "
ousac "its bundle verifies" 0 "" verify "$WORK/all/of/it/bundle.oca"
check "its profile is the one that the commands make" "$OUSAC" diff --tolerance 0 "$WORK/p.oca" "$WORK/all/of/it/profile.oca"
check "samples.png is a PNG" test "$(head -c 8 "$WORK/all/of/it/samples.png" | od -An -tx1 | tr -d ' \n')" = 89504e470d0a1a0a
ousac "calibrate with as many samples as it takes" 0 "" calibrate --model "$MODEL" --schedule "$WORK/s.json" \
    --samples auto --tolerance 5 --validation 4 --test 4 --method uniform --forecast off --json -o "$WORK/settled"
keep
json "puts the other ranges behind them" 'r["profiling"]["convergence"]["converged"] and
     r["profiling"]["convergence"]["rounds"][-1]["samples"] == 16 and
     r["allocation"]["validation"] == [16, 20] and r["evaluation"]["samples"] == [20, 24]'
ousac "a schedule without cached evaluations has nothing to budget" 2 "no cached evaluation" \
    calibrate --model "$MODEL" --schedule "$WORK/none.json" --budget-total 0.5 -o "$WORK/nothing"
ousac "gates left to a plan take samples to decide" 2 "auto.json leaves its gates to a plan.* takes 24 samples" \
    calibrate --model "$MODEL" --schedule "$WORK/auto.json" --samples 20 -o "$WORK/nothing"
ousac "what deciding them takes of memory" 0 "placing refreshes" calibrate --model "$MODEL" --schedule "$WORK/auto.json" \
    --dry-run -o "$WORK/nothing"
check "what is refused leaves no directory" absent "$WORK/nothing"
ousac "calibrate decides gates, within the cost of even spacing" 0 "" calibrate --model "$MODEL" \
    --schedule "$WORK/auto.json" --period 2 --evaluations 4 --samples 24 --validation 4 --test 4 --json -o "$WORK/decided"
keep
json "the plan costs no more than even spacing at the uniform rank of the budget" \
    '0.5 < r["allocation"]["total"] <= (4 + 4 * 0.25) / 8'
check "and its schedule has none left" sh -c "! grep -q auto '$WORK/decided/schedule.json'"

# --- outputs that cannot be, interruption ---
ousac "no such directory" 1 "cannot write into" "${profile[@]}" --samples 0:4 -o "$WORK/none/p.oca"
ousac "a directory as output" 1 "is a directory" "${allocate[@]}" -o "$WORK"
ousac "an error as JSON" 2 '"status":[[:space:]]*"usage"' "${allocate[@]}" --budget-step 2 --json -o "$WORK/never.oca"
check "nothing was written where a command failed" absent "$WORK/never.oca"

mkdir "$WORK/stop"
# A shell script's background jobs ignore SIGINT, so a small program sends it.
"$PYTHON" - "$OUSAC" "${profile[@]}" --samples 0:4000 --weights-plain --checkpoint-every 0 -o "$WORK/stop/p.oca" \
    >"$WORK/out" 2>"$WORK/err" <<'PYTHON'
import os, signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.SIG_DFL)
job = subprocess.Popen(sys.argv[1:])
end = time.time() + 60
while not os.path.exists(sys.argv[-1] + ".part") and time.time() < end:
    time.sleep(0.1)
job.send_signal(signal.SIGINT)
sys.exit(job.wait() % 256)
PYTHON
code=$?
check "a profile interrupted by SIGINT exits with 130" test $code -eq 130
check "and leaves its state alone" test "$(files "$WORK/stop")" = "p.oca.part "
check "which is a profile of what was done" "$OUSAC" verify "$WORK/stop/p.oca.part"
rm "$WORK/stop/p.oca.part"

"$OUSAC" calibrate --model "$MODEL" --schedule "$WORK/s.json" --samples 4000 --checkpoint-every 0 -o "$WORK/stop" \
    >"$WORK/out" 2>"$WORK/err" &
job=$!
for _ in $(seq 100); do
    [ -e "$WORK/stop/weights.oca" ] && break
    sleep 0.1
done
kill -TERM $job
wait $job
code=$?
check "a calibrate interrupted by SIGTERM exits with 130" test $code -eq 130
check "and leaves what was finished, and its state" \
    test "$(files "$WORK/stop")" = "profile.oca.part schedule.json weights.oca "
check "which are whole" "$OUSAC" verify "$WORK/stop/weights.oca" "$WORK/stop/profile.oca.part"

finish
