#!/usr/bin/env bash
# `ousac fit`, and `ousac calibrate` from a reference and a budget: results, resumption, and what is refused.
#
#   OUSAC=build/ousac BUILD=build bash tests/cli/test_search.sh
#
# Works on a tiny model in a temporary directory and removes it.
set -u
. "$(dirname "$0")/../support/harness.bash"
export OPENBLAS_NUM_THREADS=1

hide_gnuplot
"$MAKE_DIT" dit >/dev/null || exit 1
"$OUSAC" schedule --steps 24 --scale 3 --cfg all --period 1 -o reference.json -q || exit 1
M=(-m dit/model.safetensors --micro-batch 2)

# --- fit ---
ousac "fit: fewer steps" 0 . fit "${M[@]}" --reference reference.json --steps 8 --samples 16 --validation 8 --test 8 \
    --newton 1 --json -q -o fitted.json
keep
json "fit: nearer on samples that nothing saw" 'r["test"]["after"] < 0.6 * r["test"]["before"] and r["steps"] == 8'
json "fit: by validation" 'r["validation"]["after"] <= r["validation"]["stepwise"] < r["validation"]["before"]'
json "fit: what it cost" 'r["evaluations"] > 1000 and r["columns"] > 0 and not r["diverged"] and r["wall_s"] > 0'
json "fit: how many samples are enough" '[p["samples"] for p in r["learning"]] == [2, 4, 8, 16] and r["samples_enough"] in (2, 4, 8, 16)'
ousac "fit: inspect shows the numbers" 0 '"hold"|"m"' inspect fitted.json --json
check "fit: version 2" grep -q '"version": 2' fitted.json
ousac "fit: the fitted schedule runs" 0 . sample "${M[@]}" -s fitted.json --samples 0:2 -o s.png
ousac "fit: numbers" 0 . fit "${M[@]}" --reference reference.json -s fitted.json --samples 4 --validation 4 --test 4 \
    --numbers scale -q -o scales.json
ousac "fit: unknown number" 2 'expected some of scale,hold,k,m,c,d' fit "${M[@]}" --reference reference.json --steps 8 --numbers scale,z -o x.json
ousac "fit: nothing to fit" 2 'expected --steps' fit "${M[@]}" --reference reference.json -o x.json
ousac "fit: more steps than there are" 2 '30 steps, expected 1 to the reference.s 24' fit "${M[@]}" --reference reference.json --steps 30 -o x.json
sed 's/"c": [-0-9.e]*/"c": 1e999/' fitted.json >infinite.json
ousac "fit: a coefficient that is not finite" 3 'step 0: "c" must be a finite number' fit "${M[@]}" --reference reference.json -s infinite.json -o x.json
check "fit: nothing is left of what failed" test ! -e x.json

# --- calibrate without a schedule ---
search=(calibrate "${M[@]}" --reference reference.json --budget-total 0.4 --effort quick --samples 8 --validation 4 --test 8)
ousac "calibrate: from a reference and a budget" 0 . "${search[@]}" --json -q -o found
keep
cp "$WORK/stdout" "$WORK/did"
json "calibrate: fewer steps are among the candidates" '[c["kind"] for c in r["search"]["candidates"]][:2] == ["fewer steps", "fitted steps"]'
json "calibrate: and more steps of which some are guided, at no more cost" '[(c["steps"], c["guided"]) for c in r["search"]["candidates"] if c["kind"] == "some guided"] == [(11, 8)]'
json "calibrate: all steps are extrapolated, at no more cost" '[(c["steps"], c["full"], c["rank"]) for c in r["search"]["candidates"] if c["kind"] == "extrapolated"] == [(24, 18, 0)]'
json "calibrate: what is taken is the best of them" '(lambda t: all(t[k] <= c[k] for c in r["search"]["candidates"] for k in ["decided_again" if "decided_again" in t and "decided_again" in c else "decided"]))(next(c for c in r["search"]["candidates"] if c["taken"]))'
json "calibrate: of candidates that are near, at least two were looked at again" 'len([c for c in r["search"]["candidates"] if "decided_again" in c]) != 1 and all(c["decided_again"] > 0 for c in r["search"]["candidates"] if "decided_again" in c)'
json "calibrate: within the budget" 'all(c["macs_share"] <= 0.4 for c in r["search"]["candidates"]) and (not "evaluation" in r or r["evaluation"]["shares"]["total"] <= 0.4)'
json "calibrate: the headline has fewer steps beside it" 'not "evaluation" in r or [h["method"] for h in r["evaluation"]["headline"]] == ["calibrated", "fewer-steps", "fitted-steps"] and all(0 < h["median"] <= h["worst"] and h["low"] <= h["error"] <= h["high"] and h["macs_share"] <= 0.4 + 0.5 / 24 for h in r["evaluation"]["headline"])'
json "calibrate: fewer steps at other costs, plain and fitted" 'sorted({p["kind"] for p in r["search"]["points"]}) == ["fewer steps", "fitted steps"] and len(r["search"]["points"]) == 4 and all(p["error"] > 0 and abs(p["macs_share"] - p["steps"] / 24) < 1e-9 for p in r["search"]["points"])'
json "calibrate: the headline compares" 'not "evaluation" in r or all(h["ratio"]["low"] <= h["ratio"]["mean"] <= h["ratio"]["high"] and abs(h["ratio"]["mean"] - r["evaluation"]["headline"][0]["error"] / h["error"]) < 1e-6 for h in r["evaluation"]["headline"][1:])'
cp found/search.json "$WORK/stdout"
json "calibrate: what was compared is kept" 'r["kind"] == "ousac search" and r["reference"]["steps"] == 24 and len(r["candidates"]) >= 2 and len(r["points"]) == 4'
json "calibrate: what each stage gained" '[s["stage"] for s in r["stages"]][:2] == ["fewer steps", "fitted steps"] and (len(r["stages"]) == 6 or [c for c in r["candidates"] if c["taken"]][0]["kind"] != "cached") and all(0 < s["macs_share"] <= 0.4 for s in r["stages"])'
ousac "calibrate: the curves are drawn from it" 0 'curve.tsv' plot curve found --tables -o tables
# shellcheck disable=SC2016 # a program of awk
check "calibrate: all of them" awk -F'\t' 'NR > 1 && $7 == "validation" { n++ } END { exit n < 6 }' tables/curve.tsv
check "calibrate: the schedule is fitted" grep -q '"version": 2' found/schedule.json
check "calibrate: nothing is left of the search" test ! -e found/search.part
if [ -e found/bundle.oca ]; then
    ousac "calibrate: the bundle verifies" 0 . verify found/bundle.oca
    ousac "eval: samples that the search decided on" 2 'search used samples 0:56' eval "${M[@]}" -b found/bundle.oca --samples 40:48
    again=$("$PYTHON" -c 'import json; print("%d:%d" % tuple(json.load(open("found/search.json")).get("again", (40, 44))))')
    ousac "eval: samples of a second look, where there was one" 2 'search used samples' eval "${M[@]}" -b found/bundle.oca --samples "$again"
    ousac "calibrate: its schedule is the one written" 0 equal diff found/schedule.json found/schedule.json
    ousac "eval: against a fine run" 0 . eval "${M[@]}" -b found/bundle.oca --samples 56:64 --reference reference.json --fine 93 --json -o fine_eval.json
    keep
    json "eval: the reference, ours, without a cache, and fewer steps" '[q["method"] for q in r["fine"]["rows"]] == ["reference", "calibrated", "exact", "fewer-steps"] and all(q["low"] <= q["error"] <= q["high"] for q in r["fine"]["rows"])'
    ousac "eval: the samples that it speaks of" 0 . sample "${M[@]}" -b found/bundle.oca --samples 56:64 --rows exact,calibrated --raw ours.oca -o x.png
    ousac "eval: a fine run of few steps" 2 "expected more steps than the reference's 24" eval "${M[@]}" -b found/bundle.oca --samples 56:64 --reference reference.json --fine 20
    ousac "calibrate: a bundle of another fit is told apart" 4 . sample "${M[@]}" -b found/bundle.oca -s fitted.json -o x.png
fi

# This model hardly needs its guidance: where that is left out at some steps, a cache is tried as well.
ousac "calibrate: the full effort, cached and guided at some steps" 0 . calibrate "${M[@]}" --reference reference.json --budget-total 0.4 \
    --effort full --samples 8 --validation 4 --test 8 --json -q -o both
keep
json "calibrate: it is a candidate, and better than fitted steps" '[c["error"] < r["search"]["candidates"][1]["error"] for c in r["search"]["candidates"] if c["kind"] == "cached" and c["guided"] < c["steps"]] == [True]'
json "calibrate: and keeps the budget" 'r["evaluation"]["shares"]["total"] <= 0.4 and r["evaluation"]["headline"][0]["error"] < r["evaluation"]["headline"][2]["error"]'
ousac "calibrate: its bundle verifies" 0 . verify both/bundle.oca

# What a dry run says that it would do is what it did.
ousac "calibrate: a dry run of a search" 0 . "${search[@]}" --dry-run --json -o dry
keep
check "calibrate: a dry run writes nothing" test ! -e dry
check "calibrate: it names the steps and the cost of what was done" "$PYTHON" -c 'import json, sys
did, said = (json.load(open(p)) for p in sys.argv[1:])
s, c = said["search"], did["search"]["candidates"]
assert s["effort"] == "quick" and s["reference_steps"] == 24 and s["budget_total"] == 0.4
assert c[0]["steps"] == c[1]["steps"] == s["fewer_steps"], c
assert [{"steps": k["steps"], "guided": k["guided"]} for k in c if k["kind"] == "some guided"] == s["some_guided"], c
assert all(k["steps"] in [o["steps"] for o in s["cached"]] for k in c if k["kind"] == "cached"), c
assert sorted({p["steps"] for p in did["search"]["points"]}) == s["other_steps"], s
fits = sum(k["evaluations"] for k in s["stages"] if k["stage"] in ("fewer steps, plain and fitted", "guidance at some steps", "extrapolated outputs", "the same at other costs", "fitting cached candidates"))
again = sum(k["evaluations"] for k in s["stages"] if k["stage"] == "a second look")
assert fits / 2 <= did["search"]["fit_evaluations"] <= fits + again, (fits, again, did["search"]["fit_evaluations"])
assert s["evaluations"] == sum(k["evaluations"] for k in s["stages"]) and said["macs"] == s["macs"]
assert said["files"][-1] == "dry/search.json" and said["peak_bytes"] > 0' "$WORK/did" "$WORK/stdout"
ousac "calibrate: a dry run says it to people" 0 'cached +[0-9]+ steps' "${search[@]}" --dry-run -o dry

# One step holds no cache: the schedule is all, and it is judged on test samples all the same.
ousac "calibrate: where no cache pays" 0 . calibrate "${M[@]}" --reference reference.json --budget-total 0.042 --effort quick --test 8 --fine 93 --json -q -o few
keep
json "calibrate: its result against the reference" '[h["method"] for h in r["headline"]] == ["fitted-steps", "fewer-steps"] and r["test"] == [56, 64] and "evaluation" not in r and all(h["steps"] == 1 and h["low"] <= h["error"] <= h["high"] and abs(h["macs_share"] - 1 / 24) < 1e-9 for h in r["headline"])'
json "calibrate: fitted steps are the better ones" 'r["headline"][0]["error"] < r["headline"][1]["error"] and r["headline"][1]["ratio"]["mean"] < 1'
json "calibrate: kept too" 'r["headline"][0]["method"] == "fitted-steps" and len(r["stages"]) == 2' few/search.json
ousac "calibrate: and drawn" 0 'curve.tsv' plot curve few --tables -o tables
# shellcheck disable=SC2016 # a program of awk
check "calibrate: as what ships" awk -F'\t' '$13 == 1 && $6 == "fitted" && $7 == "test" { n++ } END { exit n < 1 }' tables/curve.tsv
check "calibrate: without a bundle" test ! -e few/bundle.oca
page="$ROOT/tests/cli/check_report.py"
check "calibrate: with a page about it" "$PYTHON" "$page" few/report.html --bare --search few/search.json --plotted curve stages samples schedule
check "calibrate: which names what was written" "$PYTHON" -c 'import json, os, sys
files = json.load(open(sys.argv[1]))["files"]
assert sorted(files) == ["cost", "raw_samples", "report", "samples", "schedule", "search"], files
assert all(os.path.getsize(name) > 0 for name in files.values())' "$WORK/stdout"
ousac "report: the same page from the directory" 0 . report few -o again.html --plots again -q
check "report: to the last byte" cmp again.html few/report.html
ousac "report: a search with another schedule" 4 'search.json found schedule' report few/search.json found/schedule.json -o x.html
ousac "report: a search that has a bundle, without it" 2 'a report is of one bundle; the files hold 0' report found/search.json found/schedule.json -o x.html

# A fine run, its schedule and its distances made by hand.
"$PYTHON" -c 'import json
r = json.load(open("reference.json"))
steps, fine = r["steps"], []
for i, step in enumerate(steps):
    after = steps[i + 1]["timestep"] if i + 1 < len(steps) else step["timestep"]
    fine += [dict(step, timestep=step["timestep"] + k / 4 * (after - step["timestep"])) for k in range(4 if i + 1 < len(steps) else 1)]
json.dump(dict(r, steps=fine, step_count=len(fine)), open("fine.json", "w"))'
fine_samples() { ousac "fine: samples of the fine schedule" 0 . sample "${M[@]}" -s fine.json --samples "$1" --raw "$2" -o x.png; }
fine_samples 56:64 fine.oca
# by_hand FINE.oca RESULT.json SAMPLES.oca ROW=RUN...: distances that the result has, from the tensors
by_hand() {
    "$PYTHON" -c 'import json, math, struct, sys
sys.path.insert(0, sys.argv[1])
import oca_decode
def runs(path):
    out = {}
    for t in oca_decode.Archive(open(path, "rb").read()).tensors.values():
        data, count = t.decode(), t.shape[0]
        values = struct.unpack("<%df" % (len(data) // 4), data)
        out[t.name.split("/")[1]] = [values[i * len(values) // count:(i + 1) * len(values) // count] for i in range(count)]
    return out
try:
    fine, other = runs(sys.argv[2])["exact"], runs(sys.argv[4])
except oca_decode.NoZstd as missing:
    sys.exit(print(missing) or 77)
said = json.load(open(sys.argv[3]))["fine"]
assert said["steps"] == 93 and abs(said["macs_share"] - 93 / 24) < 1e-9, said
rows = {row["method"]: row for row in said["rows"]}
for pair in sys.argv[5:]:
    row, run = pair.split("=")
    squares = [sum((a - b) ** 2 for a, b in zip(x, y)) / sum(b * b for b in y) for x, y in zip(other[run], fine)]
    mean, worst = math.sqrt(sum(squares) / len(squares)), math.sqrt(max(squares))
    assert len(squares) == 8 and abs(rows[row]["error"] / mean - 1) < 1e-4 and abs(rows[row]["worst"] / worst - 1) < 1e-4, (row, mean, rows[row])
assert abs(rows["reference"]["error"] / rows["fewer-steps"]["error"] / rows["fewer-steps"]["ratio"]["mean"] - 1) < 1e-6, rows' \
        "$ROOT/tests/interop" "$@"
    local ended=$?
    if [ $ended = 77 ]; then
        skipped=$((skipped + 1))
        return 0
    fi
    return $ended
}
check "fine: distances are those of the samples" by_hand fine.oca few/search.json few/samples.oca reference=today fitted-steps=fitted-steps fewer-steps=fewer-steps
ousac "fine: no more steps than the reference" 2 "fine 24: expected more steps than the reference's 24" "${search[@]}" --fine 24 -o x
if [ -e found/bundle.oca ]; then
    check "fine: those of a bundle too" by_hand fine.oca fine_eval.json ours.oca calibrated=calibrated exact=exact
fi
check "fine: none unless asked for, with the quick effort" "$PYTHON" -c 'import json, os
assert "fine" not in json.load(open("found/eval.json" if os.path.exists("found/eval.json") else "found/search.json"))'

# How much a search spends follows the model's size, unless it is said.
for tokens in 256 4096; do
    mkdir -p "$WORK/s$tokens"
    "$OUSAC" synth --preset DiT-S/2 --depth 1 --tokens $tokens -o "$WORK/s$tokens/model.safetensors" -q >/dev/null || exit 1
done
# sized TOKENS SAID EXPECTED [OPTION...]
sized() {
    ousac "calibrate: effort of $1 tokens, $2" 0 '"effort":' calibrate -m "$WORK/s$1/model.safetensors" --reference reference.json \
        --budget-total 0.4 "${@:4}" --dry-run --json -o dry
    keep
    json "calibrate: is $3" "r['search']['effort'] == '$3'"
}
sized 256 "left to its size" full
sized 4096 "left to its size" quick
sized 4096 "said" full --effort full
sized 256 "said" quick --effort quick
ousac "calibrate: an effort left to the size is told" 0 . calibrate "${M[@]}" --reference reference.json --budget-total 0.042 --test 8 --json -o sized
check "calibrate: in one line" grep -qx "effort full: an evaluation takes [0-9.e+]* multiply-accumulates, and up to 1e+10 are searched in full" "$WORK/err"

# An interrupted search goes on, and ends where an undisturbed one does.
"${OUSAC}" "${search[@]}" -q -o again >/dev/null 2>&1 &
job=$!
for _ in $(seq 600); do
    if [ -e again/search.part ] || ! kill -0 $job 2>/dev/null; then break; fi
    sleep 0.05
done
kill -TERM $job 2>/dev/null
wait $job
ousac "calibrate: an interrupted search goes on" 0 . "${search[@]}" --json -q -o again
check "calibrate: to the same schedule" cmp again/schedule.json found/schedule.json

ousac "calibrate: neither a schedule nor a reference" 2 'expected --schedule, or --reference with --budget-total' calibrate "${M[@]}" -o x
ousac "calibrate: a budget below one step" 2 'below what one of the reference.s 24 steps costs' calibrate "${M[@]}" --reference reference.json --budget-total 0.03 -o x
ousac "calibrate: a budget above the whole" 2 'above 0 and below 1' calibrate "${M[@]}" --reference reference.json --budget-total 1.2 -o x
"$OUSAC" schedule --steps 24 --scale 3 --cfg 0:24:2 --period 1 -o mixed.json -q
ousac "calibrate: a reference whose conditioning varies" 2 'step 1: mode cond after cfg' calibrate "${M[@]}" --reference mixed.json --budget-total 0.4 -o x
ousac "calibrate: a reference that is fitted" 2 'has fitted coefficients' calibrate "${M[@]}" --reference fitted.json --budget-total 0.4 -o x
ousac "calibrate: a dry run in time wants measurements" 2 'expected --time beside --budget-time' calibrate "${M[@]}" --reference reference.json --budget-time 0.4 --dry-run -o x
ousac "calibrate: a dry run wants a number of samples" 2 'not --samples auto' calibrate "${M[@]}" --reference reference.json --budget-total 0.4 --samples auto --dry-run -o x
finish
