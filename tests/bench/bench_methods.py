#!/usr/bin/env python3
"""Quality at equal cost, over cells of (guidance schedule, refresh period, budget of a cached step).

    python3 tests/bench/bench_methods.py PROGRAM MODEL DIRECTORY [--full] [--evaluations N] [--test N]

Every cell is one `ousac compare`, kept in DIRECTORY/methods/; a run that was stopped goes on behind the last
cell finished. The nine cells pair three schedules, periods 2, 3, 4 and budgets 0.15, 0.25, 0.40 so that any two of
these meet once; --full takes all 27. Leaves DIRECTORY/methods.json and prints the table of README.md.
"""
import argparse
import hashlib
import json
import math
import os
import subprocess
import sys

SCHEDULES = {
    "constant": ["--steps", "30", "--scale", "3", "--cfg", "all"],
    "sparse": ["--steps", "50", "--scale", "5", "--cfg", "0:45:5"],
    "interval": ["--steps", "30", "--scale", "4", "--cfg", "6:18", "--solver", "dpmpp-2m"],
}
PERIODS = (2, 3, 4)
BUDGETS = (0.15, 0.25, 0.40)


def cells(full):
    names = list(SCHEDULES)
    for i, name in enumerate(names):
        for j, period in enumerate(PERIODS):
            for k, budget in enumerate(BUDGETS):
                if full or (i + j + k) % 3 == 0:
                    yield name, period, budget


def key_of(arguments, model, schedule):
    digest = hashlib.sha256()
    for path in (model, schedule):
        with open(path, "rb") as file:
            digest.update(file.read())
    digest.update("\0".join(arguments).encode())
    return digest.hexdigest()


def run_cell(program, model, directory, name, period, budget, options):
    schedule = os.path.join(directory, "methods", name + ".json")
    subprocess.run([program, "schedule", *SCHEDULES[name], "--period", "3", "--name", name, "-o", schedule], check=True,
                   stdout=subprocess.DEVNULL)
    target = os.path.join(directory, "methods", "%s-%d-%.2f.json" % (name, period, budget))
    arguments = ["--period", str(period), "--budget-step", str(budget), "--evaluations", str(options.evaluations),
                 "--samples", "64:%d" % (64 + options.test)]
    key = key_of(arguments, model, schedule)
    if os.path.exists(target):
        with open(target) as file:
            cell = json.load(file)
        if cell.get("key") == key:
            print("%s: kept" % target, flush=True)
            return cell
    subprocess.run([program, "compare", "--model", model, "--schedule", schedule, "-o", target + ".part", *arguments],
                   check=True)
    with open(target + ".part") as file:
        cell = json.load(file)
    cell["key"] = key
    with open(target + ".part", "w") as file:
        json.dump(cell, file, indent=1)
    os.replace(target + ".part", target)
    return cell


def row(cell, **wanted):
    found = [r for r in cell["rows"] if all(r[k] == v for k, v in wanted.items())]
    return found[0] if found else None


def geometric_mean(values):
    return math.exp(sum(map(math.log, values)) / len(values))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("directory")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--evaluations", type=int, default=40)
    parser.add_argument("--test", type=int, default=64)
    options = parser.parse_args()
    os.makedirs(os.path.join(options.directory, "methods"), exist_ok=True)
    done = [run_cell(options.program, options.model, options.directory, *cell, options) for cell in cells(options.full)]

    columns = ("of constant, %", "reuse", "extrap.", "svd", "cd-svd", "ca-svd", "regions", "best", "ours", "/ ca-svd", "/ regions", "/ best")
    print("\n| cell | " + " | ".join(columns) + " |\n|---" + "|---" * len(columns) + "|")
    ratios = {"ca-svd": [], "regions": [], "best": []}
    for cell in done:
        baselines = [r for r in cell["rows"] if not r["ours"] and not r["placed"] and r["method"] != "exact"]
        named = {
            "reuse": row(cell, method="reuse", placed=False),
            "extrap.": row(cell, method="extrapolation", placed=False),
            "svd": row(cell, method="svd"),
            "cd-svd": row(cell, method="cd-svd"),
            "ca-svd": row(cell, method="ca-svd", asked="uniform", placed=False),
            "regions": row(cell, asked="regions"),
            "best": min(baselines, key=lambda r: r["error"]),
            "ours": row(cell, shipped=True),
        }
        ours = named["ours"]["error"]
        for name in ratios:
            ratios[name].append(ours / named[name]["error"])
        print("| %s, %d, %.2f | %.1f | " % (cell["schedule"], cell["period"], cell["budget"], 100 * named["ours"]["macs_total"])
              + " | ".join("%.4f" % named[c]["error"] for c in columns[1:9])
              + " | " + " | ".join("%.2f" % ratios[name][-1] for name in ("ca-svd", "regions", "best")) + " |")
    summary = {name: {"geometric_mean": geometric_mean(values), "worst": max(values)} for name, values in ratios.items()}
    for name, values in summary.items():
        print("ours / %s: geometric mean %.3f, worst %.3f" % (name, values["geometric_mean"], values["worst"]))
    with open(os.path.join(options.directory, "methods.json.part"), "w") as file:
        json.dump({"kind": "ousac quality", "version": 1, "cells": done, "ratios": summary}, file, indent=1)
    os.replace(os.path.join(options.directory, "methods.json.part"), os.path.join(options.directory, "methods.json"))


if __name__ == "__main__":
    sys.exit(main())
