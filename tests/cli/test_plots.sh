#!/usr/bin/env bash
# Plots and reports, by structure: of a calibration from end to end, of awkward profiles and bundles, and without gnuplot.
#
#     OUSAC=build/ousac BUILD=build bash tests/cli/test_plots.sh
#
# Works on tiny random models in a temporary directory and removes it. Each check prints one line; the last counts them.
# shellcheck disable=SC2016 # single quotes hold programs of awk and sh
set -u
. "$(dirname "$0")/../support/harness.bash"
TOOLS=$BUILD/tests/tools
if ! command -v gnuplot >/dev/null; then
    echo "gnuplot is not installed"
    exit 77
fi
export OPENBLAS_NUM_THREADS=1
# report NAME OPTION... -- FILE...: a report of the files has the structure that check_report.py is told to expect.
report() {
    local name=$1 options=()
    shift
    while [ "$1" != -- ]; do
        options+=("$1")
        shift
    done
    shift
    rm -rf report && mkdir report
    check "report: $name" "$OUSAC" report "$@" -o report/report.html
    check "structure: $name" "$PYTHON" "$ROOT/tests/cli/check_report.py" report/report.html "${options[@]}"
}
# A plot's SVG, PNG and table are whole.
whole() {
    tail -n 2 "$1.svg" | grep -q '</svg>' &&
        [ "$(head -c 8 "$1.png" | od -An -tx1 | tr -d ' \n')" = 89504e470d0a1a0a ] && [ -s "$1.tsv" ]
}
# plan DIRECTORY MODEL RANK: a profile of samples 0:4 under DIRECTORY/s.json, and a bundle of that rank.
plan() {
    local to=$1 model=$2 rank=$3
    check "profile of $to" "$OUSAC" profile -m "$model/model.safetensors" -s "$to/s.json" --samples 0:4 \
        --pilot-samples 4 -q -o "$to/profile.oca"
    check "bundle of $to" "$TOOLS/make_bundle" "$model/model.safetensors" "$to/profile.oca" "$rank" "$to/bundle.oca"
}

all=(curve samples pareto macs schedule delta error ranks spectra spectrum)
local_plots=(macs schedule delta error ranks spectra spectrum)

# --- models: two blocks, one, fifty-seven, and one with a layer whose output never changes ---
"$TOOLS/make_dit" two && "$TOOLS/make_dit" one 1 1 && "$TOOLS/make_dit" many 1 57 || exit 2
mkdir dead
cp two/config.json dead
"$PYTHON" - two/model.safetensors dead/model.safetensors <<'PYTHON' || exit 2
import json, struct, sys
data = bytearray(open(sys.argv[1], "rb").read())
size = struct.unpack("<Q", data[:8])[0]
first, end = json.loads(data[8:8 + size])["blocks.0.mlp.fc2.weight"]["data_offsets"]
data[8 + size + first:8 + size + end] = bytes(end - first)
open(sys.argv[2], "wb").write(data)
PYTHON
mkdir run once plain cond zero dead57 many57 one1
"$OUSAC" schedule --steps 6 --scale 4 --cfg 0:6:2 --period 3 --name sparse -q -o s.json || exit 2
for to in zero dead57 many57 one1; do cp s.json $to/; done
"$OUSAC" schedule --steps 1 --scale 4 --period 1 --name once -q -o once/s.json
"$OUSAC" schedule --steps 6 --cfg none --period 3 --name "no guidance" -q -o cond/s.json
"$OUSAC" schedule --steps 4 --scale 4 --uncached --name uncached -q -o plain/s.json

# --- a calibration from end to end ---
ousac "calibrate ends with the path of its report" 0 'run/report\.html$' calibrate -m two/model.safetensors -s s.json \
    --samples 4 --validation 4 --test 4 --budget-step 0.5 -o run
check "its report is whole" "$PYTHON" "$ROOT/tests/cli/check_report.py" run/report.html --eval run/eval.json --plotted "${all[@]}"
for plot in "${all[@]}"; do
    check "calibrate writes the plot $plot" whole "run/plots/$plot"
done
cp run/report.html first.html
ousac "report of the directory" 0 'run/report\.html$' report run -o run/report.html
check "the same files give the same report" cmp first.html run/report.html
ousac "report --json" 0 '"plotted":[[:space:]]*10' report run -o run/report.html --json

# --- what the tables say, recomputed from the files by an independent decoder ---
check "the tables are of the profile" "$PYTHON" - "$ROOT/tests/interop" run <<'PYTHON'
import csv, json, math, struct, sys
sys.path.insert(0, sys.argv[1])
import oca_decode
run = sys.argv[2]
profile = oca_decode.Archive(open(run + "/profile.oca", "rb").read())
bundle = oca_decode.Archive(open(run + "/bundle.oca", "rb").read())
decoded = {}

def doubles(archive, name):
    if (archive, name) not in decoded:
        try:
            raw = archive.tensors[name].decode()
        except oca_decode.NoZstd:
            print("neither the zstandard module nor the zstd program is here")
            sys.exit(77)
        decoded[archive, name] = struct.unpack("<%dd" % (len(raw) // 8), raw)
    return decoded[archive, name]

def rows(name):
    return list(csv.DictReader(open(f"{run}/plots/{name}.tsv"), delimiter="\t"))

def near(a, b):
    return abs(a - b) <= 1e-7 * max(abs(a), abs(b), 1e-300)

arch = json.loads(profile.metadata["arch"])
modules, sites = len(arch["modules"]), len(arch["sites"])
out2, delta2 = doubles(profile, "step/module2"), doubles(profile, "step/dmodule2")
branch = {"cond": 0, "uncond": 1}
compared = 0
for row in rows("delta"):
    at = (int(row["step"]) * 2 + branch[row["branch"]]) * modules + int(row["row"])
    if row["relative_delta"] != "nan":
        assert near(float(row["relative_delta"]), math.sqrt(delta2[at] / out2[at])), row
        compared += 1
assert compared > modules, compared
for row in rows("spectra"):
    curve = doubles(bundle, "curve/" + row["site"])
    left = math.sqrt(math.fsum(curve[int(row["rank"]):]) / math.fsum(curve))
    assert near(float(row["share_left"]), left) or left < 1e-7, row
rank = {r["site"]: int(r["rank"]) for r in rows("ranks") if r["plan"] == "0"}
kept = {r["site"]: int(r["rank"]) for r in rows("spectra") if r["kept"] == "1"}
assert kept == rank and len(kept) == sites, (kept, rank)
# The error before: step-weighted, over evaluations that are not full.
gates = {(int(r["step"]), r["branch"]): r["gate"] for r in rows("delta")}
weight, y2, dy2 = doubles(profile, "step/weight"), doubles(profile, "step/y2"), doubles(profile, "step/dy2")
groups = len(arch["groups"])
for row in rows("error"):
    module = next(m for m in arch["modules"] if m["name"] == row["module"])
    before = after = all2 = 0
    for s in range(module["first_site"], module["first_site"] + module["sites"]):
        site = arch["sites"][s]
        curve = doubles(bundle, "curve/" + site["name"])
        dense = rank[site["name"]] * (site["m"] + site["n"]) >= site["m"] * site["n"]
        share = 0 if dense else math.fsum(curve[rank[site["name"]]:]) / math.fsum(curve)
        for (step, name), gate in gates.items():
            if gate in ("nan", "0"):
                continue
            at = step * 2 + branch[name]
            w = weight[at * groups + site["group"]]
            before += w * dy2[at * sites + s]
            after += w * dy2[at * sites + s] * share
            all2 += w * y2[at * sites + s]
    assert near(float(row["reuse"]), math.sqrt(before / all2)), row
    assert near(float(row["calibrated"]), math.sqrt(after / all2)), row
PYTHON

# --- as text ---
for plot in "${all[@]}"; do
    ousac "plot $plot --term" 0 "\($plot\)" plot "$plot" run --term --columns 100
    check "its lines fit, and it has some" awk 'length($0) > 101 { exit 1 } END { exit NR < 8 }' out
done
ousac "text says the numbers" 0 'error 0 .*E' plot pareto run --term

# --- awkward profiles and bundles ---
plan one1 one 4
report "one block" --plotted "${local_plots[@]}" -- one1
plan many57 many 4
report "57 blocks" --plotted "${local_plots[@]}" -- many57
plan cond two 4
report "no guided step" --plotted "${local_plots[@]}" -- cond
check "one branch, one panel" awk -F'\t' 'NR > 1 && $1 != "cond" { exit 1 }' report/plots/delta.tsv
plan zero two 0
report "ranks all zero" --plotted "${local_plots[@]}" -- zero
check "ranks of zero leave what reuse leaves" awk -F'\t' 'NR > 1 && ($8 != $9 || $7 != "reused") { exit 1 }' report/plots/error.tsv
plan dead57 dead 4
report "a site without deltas" --plotted "${local_plots[@]}" -- dead57
ousac "its spectrum says so" 0 "no data: no cached evaluation made a delta" \
    plot spectrum dead57 --site blocks.0.mlp.fc2 --term --columns 120
plan once two 4
report "one step" --plotted macs schedule ranks --empty delta error spectra spectrum -- once
plan plain two 4
report "nothing cached" --plotted macs schedule delta ranks --empty error spectra spectrum -- plain
report "a bundle alone" --plotted macs schedule error ranks spectra spectrum -- zero/bundle.oca
for case in one1 many57 once plain zero dead57; do
    ousac "$case as text" 0 "\(ranks\)" plot all $case --term
done

# --- several bundles, baselines, other inputs ---
ousac "two bundles side by side" 0 'side/error\.svg' plot error run zero -o side
check "it names both" grep -q 'attention, zero' side/error.svg
cat >quality.json <<'JSON'
{"cells": [
  {"schedule": "sparse", "period": 3, "budget": 0.25, "rows": [
    {"method": "exact", "allocator": null, "ours": false, "macs_total": 0.59, "error": 0, "low": 0, "high": 0},
    {"method": "reuse", "allocator": null, "ours": false, "macs_total": 0.2, "error": 0.24, "low": 0.2, "high": 0.3},
    {"method": "ca-svd", "allocator": "uniform", "ours": false, "macs_total": 0.29, "error": 0.08, "low": 0.07, "high": 0.1},
    {"method": "delta-cov", "allocator": "knapsack", "ours": true, "macs_total": 0.29, "error": 0.02, "low": 0.01, "high": 0.03}]},
  {"schedule": "sparse", "period": 3, "budget": 0.4, "rows": [
    {"method": "ca-svd", "allocator": "uniform", "ours": false, "macs_total": 0.36, "error": 0.05, "low": 0.04, "high": 0.06},
    {"method": "delta-cov", "allocator": "knapsack", "ours": true, "macs_total": 0.36, "error": 0.01, "low": 0.008, "high": 0.02},
    {"no method": 1}, 7]},
  {"schedule": "constant", "period": 2, "budget": 0.25, "rows": [
    {"method": "svd", "allocator": "uniform", "ours": false, "macs_total": 0.6, "error": 0.1}]}, null]}
JSON
report "baselines" --plotted "${local_plots[@]}" pareto -- zero quality.json
check "every point of the table of qualities" test "$(wc -l <report/plots/pareto.tsv)" = 8
# --- against what is run today ---
digest=$("$OUSAC" inspect two | sed -n 's/^digest *//p')
cat >search.json <<JSON
{"kind": "ousac search", "version": 1, "model_digest": "$digest", "reference": {"name": "today", "digest": "0", "steps": 50},
 "validation": [16, 32], "candidates": [
  {"kind": "fewer steps", "taken": false, "steps": 15, "macs_share": 0.3, "error": 0.09},
  {"kind": "fitted steps", "taken": false, "steps": 15, "macs_share": 0.3, "error": 0.03},
  {"kind": "cached", "taken": true, "steps": 25, "macs_share": 0.29, "error": 0.015}], "points": [
  {"kind": "fewer steps", "steps": 23, "macs_share": 0.46, "error": 0.05},
  {"kind": "fitted steps", "steps": 23, "macs_share": 0.46, "error": 0.02},
  {"kind": "fewer steps", "steps": 8, "macs_share": 0.16, "error": 0.2}], "stages": [
  {"stage": "fewer steps", "steps": 15, "macs_share": 0.3, "error": 0.09},
  {"stage": "fitted once more", "steps": 25, "macs_share": 0.29, "error": 0.018}]}
JSON
cat >methods.json <<'JSON'
{"kind": "ousac quality against a reference", "cells": [{"model": "shapes", "reference": "today.json", "test": [56, 120], "rows": [
  {"method": "goc", "ours": false, "steps": 20, "macs_share": 0.29, "seconds_share": 0.3, "error": 0.05, "low": 0.04, "high": 0.06},
  {"method": "ousac", "ours": true, "steps": 25, "macs_share": 0.28, "seconds_share": 0.4, "error": 0.01, "low": 0.009, "high": 0.02},
  {"method": "svd", "left_out": "no rank fits"}]}]}
JSON
report "a search" --plotted "${local_plots[@]}" curve stages -- zero search.json
check "a curve rises with its cost" awk -F'\t' '$6 == "fewer" { if ($9 < last) exit 1; last = $9; n++ } END { exit n != 3 }' report/plots/curve.tsv
check "what ships is marked" awk -F'\t' '$13 == 1 { n++; if ($6 != "ours") exit 1 } END { exit n != 1 }' report/plots/curve.tsv
check "what a stage leaves" awk -F'\t' 'NR == 3 && $7 != 0.2 { exit 1 }' report/plots/stages.tsv
ousac "plot curve of methods and a search" 0 'both/curve\.svg' plot curve search.json methods.json -o both
check "panels of MACs come before those of time" test "$(cut -f1,3 both/curve.tsv | tail -n +2 | uniq | tr '\t\n' ': ')" = "0:MACs 1:MACs 2:seconds "
check "and their methods" grep -q 'goc, 64 test samples' both/curve.svg
"$OUSAC" schedule --steps 24 --scale 3 --cfg all --period 1 --name today -q -o today.json || exit 2
ousac "a calibration whose result is without a cache" 0 'uncached/report\.html' calibrate -m two/model.safetensors --micro-batch 2 \
    --reference today.json --budget-total 0.042 --effort quick --test 8 --fine 93 -o uncached
check "its page is whole" "$PYTHON" "$ROOT/tests/cli/check_report.py" uncached/report.html --search uncached/search.json \
    --plotted curve stages samples schedule
for plot in curve stages samples schedule; do
    check "it draws the plot $plot" whole "uncached/plots/$plot"
done
check "and no other" test "$(find uncached/plots -name '*.svg' | wc -l)" = 4
ousac "a search of another model" 4 "is of model" report one1 search.json -o never.html
ousac "plot stages without a search" 2 "plot stages needs a search" plot stages zero --term
ousac "plot of a schedule file" 0 'drawn/schedule\.png' plot schedule plain/s.json -o "$WORK/drawn"
"$OUSAC" schedule --steps 6 --scale 4 --gates auto -q -o auto.json
ousac "a schedule that leaves gates to a plan" 0 "auto" plot schedule auto.json --term
mkdir "it's here"
ousac "a directory with a quote and a blank" 0 "schedule.svg" plot schedule s.json -o "it's here"
ousac "tables only" 0 'tables/ranks\.tsv' plot all zero --tables -o tables
check "and no plot" test -z "$(find tables -name '*.svg' -o -name '*.png')"

# --- what is refused ---
ousac "an unknown plot" 2 "no plot named heat; expected one of curve, " plot heat zero --term
ousac "a plot whose inputs are missing" 2 "plot pareto needs an evaluation" plot pareto zero --term
ousac "nothing to write to" 2 "--output DIR, or --term" plot ranks zero
ousac "no file" 2 "at least one file" plot ranks
ousac "an unknown site" 2 "no such site" plot spectrum zero --site blocks.9.attn.q --term
ousac "an unknown plan" 2 "no plan named other" plot ranks zero --plan other --term
ousac "a profile of another bundle" 4 "was made from profile" plot error one1/profile.oca zero/bundle.oca --term
ousac "an evaluation of another model" 4 "evaluates" report one1 run/eval.json -o never.html
ousac "a file of another kind" 3 "expected a bundle" plot all two/model.safetensors --term
ousac "an empty directory" 1 "none of the files" plot all side --term
ousac "a report without a bundle" 2 "of one bundle; the files hold 0" report run/eval.json -o never.html
ousac "a report into a directory that is missing" 1 "cannot write into" report zero -o none/report.html
echo '{"kind": "ousac evaluation"}' >bad.json
ousac "an evaluation without digests" 3 "expected \"model_digest\"" report zero bad.json -o never.html
check "nothing was written" test ! -e never.html

# --- without gnuplot ---
mkdir empty bare
PATH=$WORK/empty "$OUSAC" report run -o bare/report.html >out 2>err
check "a report without gnuplot succeeds" test $? -eq 0
check "with a clear message" grep -q "gnuplot was not found" err
check "and has all tables" "$PYTHON" "$ROOT/tests/cli/check_report.py" bare/report.html --bare --eval run/eval.json --plotted "${all[@]}"
PATH=$WORK/empty "$OUSAC" plot ranks zero -o bare/plots >out 2>err
check "a plot without gnuplot is unsupported" test $? -eq 6
check "its table is there all the same" test -s bare/plots/ranks.tsv
PATH=$WORK/empty "$OUSAC" calibrate -m two/model.safetensors -s s.json --samples 4 --validation 4 --test 4 \
    --budget-step 0.5 --method uniform -o bare/run >out 2>err
check "a calibration without gnuplot succeeds" test $? -eq 0
check "and writes its report" test -s bare/run/report.html
# A gnuplot that fails is no reason to fail either.
mkdir broken
printf '#!/bin/sh\n[ "$1" = --version ] && exit 0\necho "line 1: no such terminal" >&2\nexit 1\n' >broken/gnuplot
chmod +x broken/gnuplot
PATH=$WORK/broken:$PATH "$OUSAC" report zero -o bare/broken.html >out 2>err
check "a report with a broken gnuplot succeeds" test $? -eq 0
check "and says what gnuplot said" grep -q "line 1: no such terminal" err

finish
