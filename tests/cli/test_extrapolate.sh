#!/usr/bin/env bash
# The gate that extrapolates: as the result of a search, alone in a file, and beside cached evaluations in a bundle.
#
#   OUSAC=build/ousac BUILD=build DATA=data bash tests/cli/test_extrapolate.sh
#
# Works in a temporary directory and removes it. The search is of data/shapes-pixart, on which extrapolation is better than
# fitted steps; a file of times, under which no cache pays, keeps it short.
set -u
. "$(dirname "$0")/../support/harness.bash"
export OPENBLAS_NUM_THREADS=1

hide_gnuplot
"$MAKE_DIT" dit >/dev/null || exit 1
P=(-m "$DATA/shapes-pixart/diffusion_pytorch_model.safetensors" --inputs "$DATA/shapes-pixart/inputs.safetensors")
"$OUSAC" schedule --steps 24 --scale 4 --cfg all --uncached -o today.json -q || exit 1

# --- a search that it wins ---
"$OUSAC" time "${P[@]}" --repeat 1 -q -o time.json >/dev/null || exit 1
"$PYTHON" - <<'PY'
import json
made = json.load(open("time.json"))
spread = lambda s: {"median_s": s, "least_s": s, "most_s": s, "count": 1}
for part, s in (("full", 0.01), ("refresh", 0.0105), ("reuse", 0.0005), ("extrapolate", 0.0006), ("alone", 0.01), ("step", 0.0001)):
    made[part] = spread(s)
for point in made["cached"]:
    point["plain"] = point["forecast"] = spread(0.012 + 0.00002 * point["rank"])
made["line"] = {kind: {"fixed_s": 0.012, "per_rank_s": 0.00002, "residual": 0.0} for kind in ("plain", "forecast")}
json.dump(made, open("dear.json", "w"))
PY
search=(calibrate "${P[@]}" --reference today.json --budget-time 0.45 --time dear.json --effort quick --test 8)
ousac "calibrate: extrapolated steps are the result" 0 . "${search[@]}" --json -q -o found
keep
json "calibrate: of all the reference's steps, within the time" '[(c["kind"], c["steps"], c["time_share"] <= 0.45) for c in r["search"]["candidates"] if c["taken"]] == [("extrapolated", 24, True)]'
json "calibrate: better than before its fit, and than fitted steps" '(lambda e, f: e["error"] < e["unfitted"] and e["decided"] < f["decided"])(*(next(c for c in r["search"]["candidates"] if c["kind"] == k) for k in ("extrapolated", "fitted steps")))'
json "calibrate: judged beside fitted and fewer steps" '[h["method"] for h in r["headline"]] == ["extrapolated", "fitted-steps", "fewer-steps"] and all(h["low"] <= h["error"] <= h["high"] for h in r["headline"]) and r["headline"][0]["error"] < r["headline"][2]["error"]'
json "calibrate: its time is measured" '0 < r["time"]["wall_share_least"] <= r["time"]["wall_share"] < 1'
json "calibrate: the stages lead to it" '[s["stage"] for s in r["stages"]] == ["fewer steps", "fitted steps", "more steps, extrapolated", "extrapolated and fitted"] and r["stages"][3]["error"] < r["stages"][2]["error"]' found/search.json
check "calibrate: a schedule of version 4, and no bundle" sh -c 'grep -q "\"version\": 4" found/schedule.json && grep -q extrapolate found/schedule.json && test ! -e found/bundle.oca'
page="$ROOT/tests/cli/check_report.py"
check "calibrate: with a page about it" "$PYTHON" "$page" found/report.html --bare --search found/search.json --plotted curve stages samples schedule
check "calibrate: whose answer is that schedule" grep -q 'steps, most of them extrapolated,.*No factors are better at this budget' found/report.html

# --- the schedule alone ---
ousac "inspect: how many evaluations are extrapolated" 0 '[0-9]+ full, [0-9]+ reused, [0-9]+ extrapolated forwards a sample' inspect found/schedule.json
ousac "inspect: gate by gate" 0 '"extrapolate"' inspect found/schedule.json --json
ousac "plot: its gates" 0 'schedule.tsv' plot schedule found/schedule.json --tables -o tables
# shellcheck disable=SC2016 # a program of awk
check "plot: by number" awk -F'\t' 'NR > 1 && $6 == 3 { n++ } END { exit n < 5 }' tables/schedule.tsv
ousac "sample: exact, and as the gates say" 0 . sample "${P[@]}" -s found/schedule.json --samples 0:4 --json -o s.png
keep
json "sample: which costs what it says" '[row["row"] for row in r["rows"]] == ["exact", "reuse"] and r["rows"][1]["forwards"]["extrapolate"] > 0 and r["rows"][1]["macs_per_sample"] < 0.6 * r["rows"][0]["macs_per_sample"]'
ousac "fit: it is fitted with its gates at work" 0 . fit "${P[@]}" --reference today.json -s found/schedule.json --numbers scale --samples 4 --validation 4 --test 4 --json -q -o more.json
keep
json "fit: from where the search left it" 'r["test"]["before"] < 0.2'
sed 's/"version": 4/"version": 3/' found/schedule.json >old.json
ousac "a version before 4 has no such gate" 3 'step [0-9]+: a gate "extrapolate" needs version 4' inspect old.json

# --- beside cached evaluations ---
M=(-m dit/model.safetensors --micro-batch 2)
"$OUSAC" schedule --steps 12 --scale 3 --cfg all --period 3 -o cached.json -q || exit 1
"$PYTHON" - <<'PY'
import json
made = json.load(open("cached.json"))
for i in (5, 8, 11):
    made["steps"][i]["gate"] = {"cond": "extrapolate", "uncond": "cached"} if i == 8 else "extrapolate"
json.dump(dict(made, version=4), open("mixed.json", "w"))
PY
ousac "calibrate: under a schedule of every gate" 0 'executed and modelled MACs agree' calibrate "${M[@]}" -s mixed.json --budget-step 0.4 \
    --samples 8 --validation 4 --test 8 --method uniform -o mixed
ousac "verify: its bundle" 0 . verify mixed/bundle.oca
ousac "eval: what ran" 0 . eval "${M[@]}" -b mixed/bundle.oca --samples 64:72 --json -o eval.json
keep
# Five evaluations of eight samples are extrapolated; the first two steps between refreshes are cached.
json "eval: by gate" '(lambda e: e["extrapolate"] == 5 * 8 and e["full"] == 8 * 8 and e["cached"] == 11 * 8 and e["reuse"] == 0)(r["runs"]["calibrated"]["evaluations"])'
ousac "profile: of such a schedule" 0 . profile "${M[@]}" -s mixed.json --samples 4 -q -o mixed.oca

finish
