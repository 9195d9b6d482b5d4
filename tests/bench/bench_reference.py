#!/usr/bin/env python3
"""Against the pipeline that is run today, over models and budgets: what `ousac calibrate` makes of a reference, beside
fewer steps of it at the same cost, plain and fitted, and the published methods (`ousac compare --reference`).

    python3 tests/bench/bench_reference.py PROGRAM DIRECTORY [--effort quick|full] [--models A,B] [--budgets X,Y]
                                           [--test N] [--print] [--write FILE]

A cell is a model and a budget. Its runs are kept in DIRECTORY/reference/, the published methods row by row; a run that
was stopped goes on behind the last row finished, and a stopped search where it was. Leaves DIRECTORY/quality.json
with the rows that are there, and prints them however it ends. --print makes none; --write also puts the table into
FILE, between its markers.
"""
import argparse
import json
import math
import os
import subprocess
import sys

MODELS = {
    "shapes-dit": {"model": "data/shapes-dit/model.safetensors"},
    "tiles-dit": {"model": "data/tiles-dit/model.safetensors"},
    "shapes-pixart": {"model": "data/shapes-pixart/diffusion_pytorch_model.safetensors",
                      "inputs": "data/shapes-pixart/inputs.safetensors"},
    "shapes-flux": {"model": "data/shapes-flux/model.safetensors", "inputs": "data/shapes-flux/prompts.safetensors",
                    "schedule": ["--solver", "flow-euler", "--steps", "20", "--scale", "3"]},
}
BUDGETS = (0.20, 0.30, 0.50)
REFERENCE = "data/schedules/constant.json"
FIRST_TEST = {"quick": 56, "full": 112}  # behind all that calibrate fits and chooses on, at its defaults
PUBLISHED = ("fewer-steps", "fewer-steps-dpmpp", "reuse", "extrapolation", "goc", "svd", "ca-svd", "cd-svd",
             "svd+placement+forecast", "ca-svd+placement+forecast", "cd-svd+placement+forecast", "ousac-published")
BASELINES = ("fewer steps", "fitted-steps", "ousac-published", "the best of the others")
MARKERS = ("<!-- yardstick -->", "<!-- /yardstick -->")


def save(path, value):
    with open(path + ".part", "w") as file:
        json.dump(value, file, indent=1)
    os.replace(path + ".part", path)


def load(path):
    if not os.path.exists(path):
        return None
    with open(path) as file:
        return json.load(file)


def cell_of(made):
    """The one cell of a file of `ousac compare --reference`; older ones were that cell, under other names."""
    if made is None or "cells" in made:
        return made and made["cells"][0]
    return {**made, "budget": made["budget_total"]}


class Cell:
    def __init__(self, options, model, budget):
        self.options, self.model, self.budget = options, model, budget
        self.path = os.path.join(options.directory, "reference", "%s-%.2f" % (model, budget))
        self.reference = REFERENCE
        self.first = FIRST_TEST[options.effort]

    def arguments(self):
        of = MODELS[self.model]
        if "schedule" in of:
            self.reference = os.path.join(self.options.directory, "reference", self.model + ".json")
            if not os.path.exists(self.reference) and not self.options.only_kept:
                subprocess.run([self.options.program, "schedule", *of["schedule"], "--uncached", "--name", "today", "-o",
                                self.reference], check=True, stdout=subprocess.DEVNULL)
        found = ["--model", of["model"], "--reference", self.reference, "--budget-total", str(self.budget)]
        return found + (["--inputs", of["inputs"]] if "inputs" in of else [])

    def calibrate(self):
        """What calibrate found, or None where it has not been run."""
        directory = "%s-%s" % (self.path, self.options.effort)
        target = directory + ".json"
        arguments = self.arguments()
        if not os.path.exists(target) and not self.options.only_kept:
            os.makedirs(directory, exist_ok=True)
            with open(target + ".part", "w") as file:
                subprocess.run([self.options.program, "calibrate", *arguments, "--effort", self.options.effort, "--test",
                                str(self.options.test), "--fine", "0", "--json", "-o", directory], check=True, stdout=file)
            os.replace(target + ".part", target)
        return load(target)

    def fits(self, kept):
        test = [self.first, self.first + self.options.test]
        return kept is not None and kept["test"] == test and kept["budget"] == self.budget

    def published(self):
        """Rows of the published methods by name: those kept, and those made now."""
        of = "%s-%s-published" % (self.path, self.options.effort)
        target, part = of + ".json", of + ".rows"
        kept = cell_of(load(target))
        rows = {row["method"]: row for row in kept["rows"]} if self.fits(kept) else {}

        def take_up():
            """What a run wrote row by row, this one or one that was stopped."""
            written = load(part)
            made = cell_of(written)
            if self.fits(made):
                rows.update((row["method"], row) for row in made["rows"])
                made["rows"] = [rows[name] for name in PUBLISHED if name in rows]
                save(target, {**{key: written[key] for key in ("kind", "version") if key in written}, "cells": [made]})
            if made is not None:
                os.remove(part)

        take_up()
        missing = [name for name in PUBLISHED if name not in rows]
        if missing and not self.options.only_kept:
            test = "%d:%d" % (self.first, self.first + self.options.test)
            try:
                subprocess.run([self.options.program, "compare", *self.arguments(), "--method", ",".join(missing),
                                "--samples", test, "-o", part], check=True, stdout=subprocess.DEVNULL)
            finally:
                take_up()
        return rows


def rows_of_calibrate(result):
    """Ours and fitted steps; plain fewer steps are measured beside the published methods, within the budget."""
    searched = result["search"]
    fitted = next(c["wall_s"] for c in searched["candidates"] if c["kind"] == "fitted steps")
    lines = result.get("evaluation", result).get("headline", [])
    found = [("ousac", line) for line in lines[:1]]  # with a bundle or without: the result is the first
    found += [("fitted-steps", line) for line in lines if line["method"] == "fitted-steps"]
    for method, line in found:
        ours = method == "ousac"
        row = {key: line[key] for key in ("steps", "macs_share", "seconds_share", "error", "low", "high", "median", "worst")}
        # what finding it cost: branch evaluations of the fits and seconds of the whole search
        yield {**row, "method": method, "ours": ours, "evaluations": searched["fit_evaluations"] if ours else 0,
               "seconds": result.get("wall_s", searched["wall_s"]) if ours else fitted}


def name_of(row, solver):
    return "fewer-steps-ddim" if row["method"] == "fewer-steps" and solver == "ddim" else row["method"]


def gather(cell):
    """The cell's rows so far, the published methods first: of the effort they have only the test samples."""
    found = {"model": cell.model, "reference": cell.reference, "budget": cell.budget, "rows": [], "left_out": {}}
    solver = "flow-euler" if "schedule" in MODELS[cell.model] else "ddim"
    for row in cell.published().values():
        if "left_out" in row:
            found["left_out"][row["method"]] = row["left_out"]
        else:
            found["rows"].append({**row, "method": name_of(row, solver)})
    result = cell.calibrate()
    if result:
        found["rows"] += list(rows_of_calibrate(result))
    found["reference"] = cell.reference
    return found


def geometric_mean(values):
    return math.exp(sum(map(math.log, values)) / len(values))


def ratios(cells):
    """The error of ours over those of BASELINES, in each cell that has both."""
    found = {name: [] for name in BASELINES}
    for cell in cells:
        by_method = {row["method"]: row["error"] for row in cell["rows"]}
        if "ousac" not in by_method:
            continue
        others = {name: error for name, error in by_method.items() if name != "ousac"}
        others["fewer steps"] = others.get("fewer-steps-ddim", others.get("fewer-steps"))
        if len(others) > 2:
            others["the best of the others"] = min(error for error in others.values() if error is not None)
        for name in BASELINES:
            if others.get(name):
                found[name].append(by_method["ousac"] / others[name])
    return {name: values for name, values in found.items() if values}


def table(cells, times):
    yield "| model, budget | method | steps | MACs, %% | %srelative error [95 %% interval] | median | worst | evaluations |" % (
        "time, % | " if times else "")
    yield "|---" * (9 if times else 8) + "|"
    for cell in cells:
        head = "%s, %.0f %%" % (cell["model"], 100 * cell["budget"])
        for row in sorted(cell["rows"], key=lambda row: row["error"]):
            yield "| %s | %s | %d | %.1f | %s%.4f [%.4f, %.4f] | %.4f | %.4f | %d |" % (
                head, row["method"], row["steps"], 100 * row["macs_share"],
                "%.1f | " % (100 * row["seconds_share"]) if times else "", row["error"], row["low"], row["high"],
                row["median"], row["worst"], row["evaluations"])
            head = ""


def summary(cells):
    for name, values in ratios(cells).items():
        yield "ousac / %s: geometric mean %.3f, worst %.3f, of %d cells" % (
            name, geometric_mean(values), max(values), len(values))
    for cell in cells:
        for name, reason in cell["left_out"].items():
            yield "%s, %.0f %%: %s left out: %s" % (cell["model"], 100 * cell["budget"], name, reason)


def write(path, cells):
    with open(path) as file:
        text = file.read()
    if any(text.count(marker) != 1 for marker in MARKERS):
        sys.exit("%s: expected one line %s and one line %s" % ((path,) + MARKERS))
    before, rest = text.split(MARKERS[0])
    after = rest.split(MARKERS[1])[1]
    lines = [MARKERS[0], *table(cells, 0), "", *("- " + line for line in summary(cells)), MARKERS[1]]
    with open(path + ".part", "w") as file:
        file.write(before + "\n".join(lines) + after)
    os.replace(path + ".part", path)


def words(known):
    def parse(text):
        found = text.split(",")
        for word in found:
            if word not in known:
                raise argparse.ArgumentTypeError("%r: expected some of %s" % (word, ",".join(known)))
        return found
    return parse


def shares(text):
    found = [float(word) for word in text.split(",")]
    if not all(0 < share < 1 for share in found):
        raise argparse.ArgumentTypeError("%r: expected shares above 0 and below 1" % text)
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("directory")
    parser.add_argument("--effort", choices=("quick", "full"), default="full")
    parser.add_argument("--models", type=words(list(MODELS)), default=list(MODELS))
    parser.add_argument("--budgets", type=shares, default=list(BUDGETS))
    parser.add_argument("--test", type=int, default=64)
    parser.add_argument("--print", action="store_true", dest="only_kept")
    parser.add_argument("--write", metavar="FILE")
    options = parser.parse_args()
    os.makedirs(os.path.join(options.directory, "reference"), exist_ok=True)
    cells = [Cell(options, model, budget) for model in options.models for budget in options.budgets]
    code = 0
    try:
        if not options.only_kept:
            for cell in cells:
                gather(cell)
    except (KeyboardInterrupt, subprocess.CalledProcessError) as problem:
        print("stopped: %s" % (problem or "interrupted"), file=sys.stderr)
        code = 130 if isinstance(problem, KeyboardInterrupt) else 1
    options.only_kept = True
    done = [found for found in map(gather, cells) if found["rows"]]
    save(os.path.join(options.directory, "quality.json"),
         {"kind": "ousac quality against a reference", "version": 1, "effort": options.effort, "cells": done})
    print("\n".join([*table(done, 1), *summary(done)]))
    if options.write and done:
        write(options.write, done)
    return code


if __name__ == "__main__":
    sys.exit(main())
