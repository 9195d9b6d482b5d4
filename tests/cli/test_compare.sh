#!/usr/bin/env bash
# Methods at equal cost on the shipped model: `ousac compare` against the same figures made step by step by the
# other commands, and what it refuses.
#
#     OUSAC=build/ousac DATA=data bash tests/cli/test_compare.sh
#
# Each check prints one line; the last line counts them.
set -u

. "$(dirname "$0")/../support/harness.bash"

"$OUSAC" schedule --steps 4 --scale 4 --cfg 0:1 --period 2 --name short -o "$WORK/s.json" 2>/dev/null
compare=(compare --model "$MODEL" --period 2 --budget-step 0.3 --evaluations 8)
cell=("${compare[@]}" --schedule "$WORK/s.json" --calibration 24)

ousac "a cell" 0 "" "${cell[@]}" --samples 56:64 --placed "$WORK/placed.json" --json -o "$WORK/cell.json"
keep
check "the file says what was printed" "$PYTHON" -c 'import json, sys
a, b = (json.load(open(p)) for p in sys.argv[1:])
assert a == b' "$WORK/stdout" "$WORK/cell.json"
json "nothing but the exact run costs more than the cell" \
    'all(q["macs_total"] <= r["budget_total"] * (1 + 1e-12) for q in r["rows"] if q["method"] != "exact") and
     r["rows"][0]["method"] == "exact" and r["rows"][0]["error"] == 0'
# 5 evaluations over 8 of constant guidance; full at steps 0 (both branches) and 2, so 3 full and 2 cached ones at no
# more than 0.3 of a full one.
json "its budget is that of even spacing" '3 / 8 < r["budget_total"] <= (3 + 2 * 0.3) / 8'
json "every published method is there" \
    '{(q["method"], q["asked"]) for q in r["rows"] if not q["ours"] and not q["placed"]} >=
     {("reuse", ""), ("extrapolation", ""), ("svd", "uniform"), ("ca-svd", "uniform"), ("ca-svd", "regions"),
      ("cd-svd", "uniform")}'
json "searches keep to their runs" 'all(q["evaluations"] <= 8 for q in r["rows"])'
json "of ours the one that validation prefers is shipped" \
    'sum(q["shipped"] for q in r["rows"]) == 1 and
     min((q for q in r["rows"] if q["ours"]), key=lambda q: q["validation"])["shipped"]'
json "regions never ship what validation finds worse than uniform ranks" \
    'next(q for q in r["rows"] if q["asked"] == "regions")["validation"] <=
     next(q for q in r["rows"] if q["method"] == "ca-svd" and q["asked"] == "uniform")["validation"]'
json "intervals hold their figures, and the exact run, which has none to err by, has none" \
    'all(q["low"] is None and q["high"] is None and q["error"] == 0 if q["method"] == "exact" else q["low"] <= q["error"] <= q["high"] for q in r["rows"])'
check "the schedule that was searched loads" "$OUSAC" inspect "$WORK/placed.json"

# The same figures by hand: profile, plan, bundle in float32, evaluation.
for method in ca-svd delta-cov; do
    ousac "calibrate by $method" 0 "" calibrate --model "$MODEL" --schedule "$WORK/s.json" --factors $method \
        --method uniform --forecast off --budget-step 0.3 --samples 24 --validation 32 --test 8 --dtype f32 -o "$WORK/$method"
    check "$method: the comparison's figures are those of calibrate" "$PYTHON" -c 'import json, sys
cell, evaluation = (json.load(open(p)) for p in sys.argv[1:3])
row = next(q for q in cell["rows"] if q["method"] == sys.argv[3] and q["asked"] == "uniform" and not q["placed"])
assert evaluation["samples"] == cell["test"], evaluation["samples"]
errors = {(e["run"], e["against"]): e["relative_error"] for e in evaluation["errors"]}
for mine, other in ((row, errors["calibrated", "exact"]),
                    (next(q for q in cell["rows"] if q["method"] == "reuse"), errors["reuse", "exact"])):
    assert abs(mine["error"] / other["mean"] - 1) < 1e-4, (mine, other)
assert abs(row["macs_total"] / (evaluation["macs_per_sample"]["schedule_cached"] /
           evaluation["macs_per_sample"]["constant_guidance"]) - 1) < 1e-12' \
        "$WORK/cell.json" "$WORK/$method/eval.json" $method
done

# --- ranks searched on the end-to-end error ---
ousac "regions and descent, compared with uniform ranks" 0 "the (uniform|regions|descent) plan ships" allocate --model "$MODEL" \
    --profile "$WORK/delta-cov/profile.oca" --method regions,descent --forecast off --evaluations 20 --budget-step 0.3 \
    --json -o "$WORK/plan.oca"
keep
json "all three were made and measured" \
    '[c["method"] for c in r["candidates"]] == ["uniform", "regions", "descent"] and
     all(c["relative_error"] > 0 for c in r["candidates"])'
json "they kept to their runs" 'all(c["evaluations"] <= 20 for c in r["candidates"]) and r["candidates"][1]["evaluations"] > 1'
json "and to the budget" 'all(c["cached_step"] <= 0.3 for c in r["candidates"])'

# --- what is refused ---
ousac "test samples that calibrated" 2 "expected test samples from 56 on" "${cell[@]}" --samples 52:60
ousac "too few calibration samples" 2 "expected at least 8 samples" "${compare[@]}" --schedule "$WORK/s.json" --calibration 4 --samples 56:64
ousac "a budget without a rank" 2 "budget-step" compare --model "$MODEL" --schedule "$WORK/s.json" --budget-step 0.001
ousac "no such schedule" 1 "missing.json" "${compare[@]}" --schedule "$WORK/missing.json" --samples 56:64
ousac "help" 0 "equal cost" compare --help

# --- against a reference ---
"$OUSAC" schedule --steps 6 --scale 3 --uncached --name today -o "$WORK/today.json" 2>/dev/null
reference=(compare --model "$MODEL" --reference "$WORK/today.json" --validation 4)
against=("${reference[@]}" --calibration 24 --samples 28:32)
ousac "the published methods against a reference" 0 "" "${against[@]}" --budget-total 0.5 \
    --method reuse,fewer-steps,goc,ca-svd,fewer-steps-dpmpp,extrapolation --json -o "$WORK/rows.json"
keep
check "the file holds the rows that were printed" "$PYTHON" -c 'import json, sys
a, b = (json.load(open(p)) for p in sys.argv[1:])
assert a == b' "$WORK/stdout" "$WORK/rows.json"
json "it is what plots read" \
    'r["kind"] == "ousac quality against a reference" and len(r["cells"]) == 1 and
     (r["cells"][0]["model"], r["cells"][0]["reference"], r["cells"][0]["budget"]) == ("shapes-dit", "today", 0.5)'
json "one row a method, in their order" \
    '[q["method"] for q in r["cells"][0]["rows"]] ==
     ["fewer-steps", "fewer-steps-dpmpp", "reuse", "extrapolation", "goc", "ca-svd"]'
json "none costs more than the budget, and none is ours" \
    'all(0 < q["macs_share"] <= 0.5 * (1 + 1e-12) and not q["ours"] for q in r["cells"][0]["rows"])'
json "samples are disjoint" \
    '[r["cells"][0][key] for key in ("calibration", "validation", "test")] == [[0, 24], [24, 28], [28, 32]]'
json "intervals hold their figures" \
    'all(q["low"] <= q["error"] <= q["high"] and q["median"] <= q["worst"] for q in r["cells"][0]["rows"])'
json "what is chosen was measured for it" \
    'all((q["evaluations"] > 0) == ("validation" in q) for q in r["cells"][0]["rows"])'
ousac "the same again, one of them alone" 0 "" "${against[@]}" --budget-total 0.5 --method goc --threads 1 --json
check "gives the same figures" "$PYTHON" -c 'import json, sys
a, b = (next(q for q in json.load(open(p))["cells"][0]["rows"] if q["method"] == "goc") for p in sys.argv[1:])
for key in ("error", "low", "high", "median", "worst", "macs_share", "validation", "evaluations", "settings"):
    assert a[key] == b[key], key' "$WORK/rows.json" "$WORK/stdout"
ousac "they are drawn" 0 'curve.tsv' plot curve "$WORK/rows.json" --tables -o "$WORK/tables"
# shellcheck disable=SC2016 # a program of awk
check "each of them, in MACs and in time" awk -F'\t' 'NR > 1 { n++ } END { exit n != 12 }' "$WORK/tables/curve.tsv"
check "the bench gathers them" "$PYTHON" -c 'import json, os, subprocess, sys
bench, program, rows, work = sys.argv[1:]
made = json.load(open(rows))
cell = made["cells"][0]
cell.update(test=[112, 176], budget=0.3)
os.makedirs(work + "/bench/reference")
json.dump(made, open(work + "/bench/reference/tiles-dit-0.30-full-published.rows", "w"))  # as a stopped run leaves them
old = {key: value for key, value in cell.items() if key not in ("model", "budget")}  # as they were written before
old.update(budget_total=0.3, rows=cell["rows"][:2])
open(work + "/page.md", "w").write("a\n<!-- yardstick -->\n<!-- /yardstick -->\nb\n")
for turn in range(3):  # taken up, kept, and kept as it was before
    if turn == 2:
        json.dump(old, open(work + "/bench/reference/tiles-dit-0.30-full-published.json", "w"))
        made["cells"] = [old]
    out = subprocess.run([sys.executable, bench, program, work + "/bench", "--print", "--write", work + "/page.md"],
                         check=True, stdout=subprocess.PIPE, universal_newlines=True).stdout
    assert "fewer-steps-ddim" in out and ("goc" in out) == (turn < 2) and "ousac /" not in out, out
    cell, = json.load(open(work + "/bench/quality.json"))["cells"]
    assert cell["model"] == "tiles-dit" and len(cell["rows"]) == len(made["cells"][0]["rows"]), cell
    page = open(work + "/page.md").read()
    assert page.startswith("a\n<!-- yardstick -->\n| model") and page.endswith("<!-- /yardstick -->\nb\n"), page
broken = subprocess.run([sys.executable, bench, program, work + "/bench", "--print", "--write", rows],
                        stderr=subprocess.PIPE, universal_newlines=True)
assert broken.returncode and "expected one line" in broken.stderr, broken' \
    "$ROOT/tests/bench/bench_reference.py" "$OUSAC" "$WORK/rows.json" "$WORK"

ousac "neither schedule nor reference" 2 "expected one of --schedule" compare --model "$MODEL"
ousac "both" 2 "expected one of --schedule" "${against[@]}" --schedule "$WORK/s.json" --budget-total 0.5
ousac "no budget" 2 "expected --budget-total" "${against[@]}"
ousac "a budget of everything" 2 "above 0 and below 1" "${against[@]}" --budget-total 1
ousac "a budget of less than a step" 2 "below what one of the reference's 6 steps costs" "${against[@]}" --budget-total 0.1
ousac "no such method" 2 "method" "${against[@]}" --budget-total 0.5 --method goc,magic
ousac "an option of the other way" 2 "--period: expected --schedule" "${against[@]}" --budget-total 0.5 --period 3
ousac "and the reverse" 2 "--method: expected --reference" "${cell[@]}" --method goc
ousac "test samples that were chosen on" 2 "expected test samples from 28 on" "${reference[@]}" --budget-total 0.5 --calibration 24 --samples 24:28
ousac "too few calibration samples" 2 "expected at least 24 samples" "${reference[@]}" --budget-total 0.5 --calibration 20 --samples 28:32

finish
