#!/usr/bin/env python3
"""Against the pipeline that is run today, over models and budgets: what `ousac calibrate` makes of a reference, beside
fewer steps of it at the same cost, plain and fitted.

    python3 tests/bench/bench_reference.py PROGRAM DIRECTORY [--effort quick|full] [--test N] [--print]

A cell is one `ousac calibrate --reference data/schedules/constant.json --budget-total X`, kept in DIRECTORY/reference/; a
run that was stopped goes on behind the last cell finished, and a stopped cell where its search was. Leaves
DIRECTORY/quality.json with the cells that are done; --print makes none and prints those that are.
"""
import argparse
import json
import math
import os
import subprocess
import sys

MODELS = ("shapes-dit", "tiles-dit")
BUDGETS = (0.20, 0.30, 0.50)
REFERENCE = "data/schedules/constant.json"
METHODS = {"calibrated": "ousac", "fewer-steps": "fewer-steps-ddim", "fitted-steps": "fitted-steps"}


def cells():
    for model in MODELS:
        for budget in BUDGETS:
            yield model, budget


def run_cell(options, model, budget, only_kept):
    """The result of one cell, or None where it is not there and none is to be made."""
    name = "%s-%.2f-%s" % (model, budget, options.effort)
    directory = os.path.join(options.directory, "reference", name)
    target = directory + ".json"
    if not os.path.exists(target):
        if only_kept:
            return None
        os.makedirs(directory, exist_ok=True)
        command = [options.program, "calibrate", "--model", "data/%s/model.safetensors" % model, "--reference", REFERENCE,
                   "--budget-total", str(budget), "--effort", options.effort, "--test", str(options.test), "--json", "-o",
                   directory]
        with open(target + ".part", "w") as file:
            subprocess.run(command, check=True, stdout=file)
        os.replace(target + ".part", target)
    with open(target) as file:
        return json.load(file)


def rows_of(result):
    rows = []
    searched = result["search"]
    for line in result.get("evaluation", {}).get("headline", []):
        ours = line["method"] == "calibrated"
        row = {key: line[key] for key in ("macs_share", "seconds_share", "error", "low", "high", "median", "worst")}
        row["method"] = METHODS[line["method"]]
        row["ours"] = ours
        row["steps"] = line["steps"]
        # what finding it cost: branch evaluations of the fits and seconds of the whole search; plain steps cost nothing
        row["evaluations"] = searched["fit_evaluations"] if ours else 0
        row["seconds"] = {"calibrated": result["wall_s"], "fewer-steps": 0,
                          "fitted-steps": next(c["wall_s"] for c in searched["candidates"] if c["kind"] == "fitted steps")
                          }[line["method"]]
        rows.append(row)
    return rows


def geometric_mean(values):
    return math.exp(sum(map(math.log, values)) / len(values))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("directory")
    parser.add_argument("--effort", choices=("quick", "full"), default="full")
    parser.add_argument("--test", type=int, default=64)
    parser.add_argument("--print", action="store_true", dest="only_kept")
    options = parser.parse_args()
    os.makedirs(os.path.join(options.directory, "reference"), exist_ok=True)
    done = []
    for model, budget in cells():
        result = run_cell(options, model, budget, options.only_kept)
        if result is None:
            continue
        done.append({"model": model, "reference": REFERENCE, "budget": budget, "rows": rows_of(result)})
        path = os.path.join(options.directory, "quality.json")
        with open(path + ".part", "w") as file:
            json.dump({"kind": "ousac quality against a reference", "version": 1, "effort": options.effort, "cells": done},
                      file, indent=1)
        os.replace(path + ".part", path)

    print("| model, budget | method | steps | MACs, % | time, % | relative error [95 % interval] | median | worst |")
    print("|---|---|---|---|---|---|---|---|")
    ratios = {"fewer-steps-ddim": [], "fitted-steps": []}
    for cell in done:
        by_method = {row["method"]: row for row in cell["rows"]}
        for row in cell["rows"]:
            print("| %s, %.0f %% | %s | %d | %.1f | %.1f | %.4f [%.4f, %.4f] | %.4f | %.4f |"
                  % (cell["model"], 100 * cell["budget"], row["method"], row["steps"], 100 * row["macs_share"],
                     100 * row["seconds_share"], row["error"], row["low"], row["high"], row["median"], row["worst"]))
        for name in ratios:
            if name in by_method and "ousac" in by_method:
                ratios[name].append(by_method["ousac"]["error"] / by_method[name]["error"])
    for name, values in ratios.items():
        if values:
            print("ousac / %s: geometric mean %.3f, worst %.3f, of %d cells"
                  % (name, geometric_mean(values), max(values), len(values)))


if __name__ == "__main__":
    sys.exit(main())
