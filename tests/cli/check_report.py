#!/usr/bin/env python3
"""The structure of a report, by the Python standard library alone.

    python3 tests/cli/check_report.py REPORT.html [--eval EVAL.json | --search SEARCH.json] [--plotted NAME...]
                                      [--empty NAME...] [--bare]

Checks that the page is well-formed and self-contained, that every plot is there with its series and with axes that name
their units, that the table behind each is in the page and as data, and that the figures of the evaluation are its own.

--plotted   plots that must hold data           --empty   plots that must say why they hold none
--bare      made without gnuplot: tables only   --eval    the evaluation that the page must repeat
--search    a search that ended without a bundle, whose page has none of what belongs to one
"""
import argparse
import base64
import html.parser
import json
import re
import sys

VOID = {"meta", "img", "br", "hr", "link", "input"}
DRAWN = {"path", "use", "polygon", "rect", "image", "circle", "text", "line", "polyline"}
# What the axes of each plot say, units in parentheses.
AXES = {
    "curve": ["MACs of the trajectory (% of the reference's)", "relative error from the reference (no unit)"],
    "stages": ["relative error from the reference (no unit)"],
    "samples": ["sample (index of noise and conditioning)", "relative error (no unit)"],
    "pareto": ["MACs of the trajectory (% of the reference run)", "relative error of the final sample (no unit)"],
    "macs": ["MACs of one sample (% of the reference run)"],
    "schedule": ["denoising step (0 is the noisiest)", "scale w (no unit)"],
    "delta": ["denoising step (0 is the noisiest)", "block (index)"],
    "error": ["block (index)", r"re:(relative error of the layers|share of the delta left) \(no unit\)"],
    "ranks": ["site (linear layer)", "block (index)"],
    "spectra": ["rank (directions)", "share left (no unit)"],
    "spectrum": ["rank (directions)", "share of the delta's energy (no unit)"],
}
failures = []


def check(condition, what):
    if not condition:
        failures.append(what)


class Node:
    def __init__(self, tag, attrs, parent):
        self.tag, self.attrs, self.parent, self.children, self.text = tag, dict(attrs), parent, [], ""

    def walk(self):
        yield self
        for child in self.children:
            yield from child.walk()

    def find(self, **want):
        tag = want.pop("tag", None)
        return [n for n in self.walk() if (tag is None or n.tag == tag)
                and all(n.attrs.get(k.rstrip("_")) == v for k, v in want.items())]

    def content(self):
        return " ".join([self.text] + [c.content() for c in self.children])


class Tree(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.root = self.at = Node("#root", [], None)

    def handle_starttag(self, tag, attrs):
        names = [k for k, _ in attrs]
        check(len(names) == len(set(names)), f"<{tag}> repeats an attribute: {names}")
        node = Node(tag, attrs, self.at)
        self.at.children.append(node)
        if tag not in VOID:
            self.at = node

    def handle_startendtag(self, tag, attrs):
        self.at.children.append(Node(tag, attrs, self.at))

    def handle_endtag(self, tag):
        check(self.at.tag == tag, f"</{tag}> closes <{self.at.tag}>, line {self.getpos()[0]}")
        self.at = self.at.parent or self.root

    def handle_data(self, data):
        self.at.text += data


def check_self_contained(root, source):
    check(not root.find(tag="script"), "the page has a script")
    for tag in ("link", "iframe", "object", "embed"):
        check(not root.find(tag=tag), f"the page has a <{tag}>")
    ids = {}
    for node in root.walk():
        for key, value in node.attrs.items():
            value = value or ""
            if key == "id":
                ids[value] = ids.get(value, 0) + 1
            if key in ("href", "src", "xlink:href", "srcset", "action", "poster", "data"):
                check(value.startswith(("#", "data:")), f"{key} leaves the page: {value[:60]}")
            check(not key.startswith("on"), f"a handler {key}")
            if key not in ("xmlns", "xmlns:xlink"):
                check("http:" not in value and "https:" not in value, f"{key} names an address: {value[:60]}")
    check("@import" not in source, "the style imports")
    check(not [i for i, n in ids.items() if n > 1], f"ids occur twice: {[i for i, n in ids.items() if n > 1][:5]}")
    for node in root.walk():
        for key, value in node.attrs.items():
            for target in re.findall(r"url\(#([^)]*)\)", value or ""):
                check(target in ids, f"url(#{target}) is nowhere")
            if key in ("href", "xlink:href") and (value or "").startswith("#"):
                check(value[1:] in ids, f"{value} is nowhere")
    check("prefers-color-scheme:dark" in source, "no style for dark")
    check("@media print" in source, "no style for print")
    check(root.find(tag="meta", name="viewport"), "no viewport for phones")


def check_table(figure, name):
    """The table behind a plot, as HTML and as data; returns the rows of the data."""
    details = figure.find(tag="details")
    if not details:
        check(False, f"{name}: no table")
        return []
    said = int(re.search(r"Table: (\d+) row", details[0].content()).group(1))
    link = [a for a in details[0].find(tag="a") if "download" in a.attrs]
    check(len(link) == 1, f"{name}: no data to download")
    data = base64.b64decode(link[0].attrs["href"].split("base64,")[1]).decode()
    lines = [line.split("\t") for line in data.splitlines()]
    check(len(lines) == said + 1, f"{name}: {len(lines) - 1} rows of data, {said} said")
    check(all(len(line) == len(lines[0]) for line in lines), f"{name}: rows of different lengths")
    shown = [r for r in details[0].find(tag="tr")]
    check(len(shown) == 1 + min(said, 400), f"{name}: {len(shown)} rows shown of {said}")
    check(all(len(r.children) == len(lines[0]) for r in shown), f"{name}: shown rows of different lengths")
    return [dict(zip(lines[0], line)) for line in lines[1:]]


def check_plot(root, name, empty):
    figures = root.find(tag="figure", id="plot-" + name)
    check(len(figures) == 1, f"{name}: {len(figures)} figures")
    if not figures:
        return []
    rows = check_table(figures[0], name)
    svgs = [n for n in figures[0].find(tag="svg")]
    check(len(svgs) == 1, f"{name}: {len(svgs)} SVG")
    if not svgs:
        return rows
    svg = svgs[0]
    check(svg.attrs.get("role") == "img" and svg.attrs.get("aria-label"), f"{name}: no accessible name")
    check("viewbox" in svg.attrs and "width" not in svg.attrs, f"{name}: not scalable")
    check(not [n for n in svg.walk() if n.attrs.get("fill") == "#ffffff" and n.tag == "rect"], f"{name}: a white background")
    check("black" not in [v for n in svg.walk() for k, v in n.attrs.items() if k in ("fill", "stroke", "color")],
          f"{name}: black on what may be dark")
    texts = [n.content().strip() for n in svg.find(tag="text")]
    for label in AXES[name]:
        found = any(re.fullmatch(label[3:], t) for t in texts) if label.startswith("re:") else label in texts
        check(found, f"{name}: no axis says '{label}'; there are {[t for t in texts if '(' in t]}")
    series = [n for n in svg.find(tag="g") if re.fullmatch(name + r"_plot_\d+[a-z]*", n.attrs.get("id", ""))]
    says = [t for t in texts if t.startswith("no data: ")]
    if empty:
        check(says and len(says[0]) > len("no data: x"), f"{name}: does not say why it is empty")
        return rows
    check(not says, f"{name}: {says}")
    check(series, f"{name}: no series")
    for group in series:
        # A key's entry is a text and a mark of its own; the data must be there besides.
        titled = [n for n in group.find(tag="text") if n.attrs is not None]
        drawn = [n for n in group.walk() if n.tag in DRAWN and n.tag != "text"]
        labels = len(titled) if name == "ranks" else 0
        least = 2 if titled and not labels else 1
        strokes = sum(n.attrs.get("d", "").count("M") if n.tag == "path" else 1 for n in drawn)
        check(strokes + labels >= least, f"{name}: series {group.attrs['id']} is empty")
    return rows


def near(a, b):
    return abs(a - b) <= 1e-6 * max(abs(a), abs(b), 1e-12)


def check_answer(root, evaluation, tables):
    """The sentence at the head says what the headline found, and the plot of error against cost has its rows."""
    found = root.find(tag="p", id="answer")
    check(len(found) == 1, f"{len(found)} sentences at the head")
    said = " ".join(found[0].content().split()) if found else ""
    check("%d-step reference" % evaluation["reference"]["steps"] in said, f"the head does not say the steps: {said}")
    check("%d test samples" % (evaluation["samples"][1] - evaluation["samples"][0]) in said, f"nor of how many: {said}")
    for row in evaluation["headline"]:
        for key in ("error", "low", "high"):
            check("%.3g" % row[key] in said, f"{key} of {row['method']} is not at the head: {said}")
        check("%.3g" % (100 * row["macs_share"]) in said, f"MACs of {row['method']} are not at the head: {said}")
        if row["method"] != "calibrated" and "ratio" in row:
            check("%.2g" % row["ratio"]["mean"] in said, f"the ratio to {row['method']} is not at the head: {said}")
        points = [p for p in tables.get("curve", []) if p["samples"] == "test" and near(float(p["error"]), row["error"])]
        check({p["axis"] for p in points} == {"MACs", "seconds"}, f"curve: no point of {row['method']}")
        for point in points:
            share = row["macs_share" if point["axis"] == "MACs" else "seconds_share"]
            check(near(float(point["cost"]), share) and near(float(point["low"]), row["low"]), f"curve: {point}")


# The sections of a page without a bundle.
UNCACHED = ["curve", "stages", "samples", "schedule"]


def check_uncached(root, search, tables):
    """The page of a search without a bundle: its sentence, its rows, its schedule's numbers, and nothing else."""
    said = " ".join(root.find(tag="p", id="answer")[0].content().split())
    check("%d-step reference" % search["reference"]["steps"] in said, f"the head does not say the steps: {said}")
    check("%d test samples" % (search["test"][1] - search["test"][0]) in said, f"nor of how many: {said}")
    for row in search["headline"]:
        for key in ("error", "low", "high"):
            check("%.3g" % row[key] in said, f"{key} of {row['method']} is not at the head: {said}")
        if "ratio" in row:
            check("%.2g" % row["ratio"]["mean"] in said, f"the ratio to {row['method']} is not at the head: {said}")
    if "fine" in search:
        line = " ".join(root.find(tag="p", id="fine")[0].content().split())
        for row in search["fine"]["rows"]:
            check("%.3g" % row["error"] in line, f"{row['method']} is not in the sentence of the fine run: {line}")
    for name in set(AXES) - set(UNCACHED):
        check(not root.find(tag="figure", id="plot-" + name), f"{name}: what belongs to bundles")
    steps = tables["schedule"]
    check(len(steps) == search["schedule"]["steps"], f"{len(steps)} steps in the table of the schedule")
    fitted, extrapolated = (search["headline"][0]["method"] == method for method in ("fitted-steps", "extrapolated"))
    numbers = [float(row[key]) for row in steps for key in ("hold", "k", "m", "c", "d") if row.get(key) not in (None, "", "nan")]
    check(any(numbers) == (fitted or extrapolated), "the coefficients are not those of what was fitted")
    runs = {row["run"] for row in tables["samples"]}
    ours = {"fitted-steps"} if fitted else {"extrapolated"} if extrapolated else set()
    check(runs == ours | {"fewer-steps"}, f"pictures of {runs}")
    check(len(tables["stages"]) == len(search["stages"]), "a stage is missing")


def check_evaluation(root, evaluation, tables):
    text = root.content()
    for pair in evaluation["errors"]:
        for key in ("mean", "low", "high"):
            shown = "%.4g" % pair["relative_error"][key]
            check(shown in text, f"{key} of {pair['run']} against {pair['against']}, {shown}, is not in the page")
    check_answer(root, evaluation, tables)
    shares = evaluation["shares"]
    macs = {row["part"]: (float(row["from"]), float(row["to"])) for row in tables["macs"]}
    for part, share in (("guidance saving", "guidance_saving"), ("caching saving", "caching_saving"),
                        ("calibration overhead", "calibration_overhead"), ("calibrated run", "total")):
        check(near(macs[part][1] - macs[part][0], shares[share]), f"{part}: {macs[part]}, not {shares[share]}")
    parts = [row for row in tables["macs"] if row["group"] == "made of"]
    check(near(sum(float(r["to"]) - float(r["from"]) for r in parts), shares["total"]), "the parts are not the whole")
    points = {row["role"]: row for row in tables["pareto"]}
    check(set(points) >= {"exact", "reuse", "ours"}, f"pareto lacks an end: {sorted(points)}")
    errors = {(e["run"], e["against"]): e["relative_error"] for e in evaluation["errors"]}
    for role, run in (("ours", "calibrated"), ("reuse", "reuse")):
        for column, key in (("error", "mean"), ("low", "low"), ("high", "high")):
            check(near(float(points[role][column]), errors[run, "exact"][key]), f"pareto: {column} of {role}")
        check(near(float(points[role]["macs"]), evaluation["runs"][run]["macs_ratio"]), f"pareto: MACs of {role}")
    check(float(points["exact"]["error"]) == 0, "pareto: the exact run has an error")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("report")
    parser.add_argument("--eval")
    parser.add_argument("--search")
    parser.add_argument("--plotted", nargs="*", default=[])
    parser.add_argument("--empty", nargs="*", default=[])
    parser.add_argument("--bare", action="store_true")
    args = parser.parse_args()
    source = open(args.report, encoding="utf-8").read()
    tree = Tree()
    tree.feed(source)
    tree.close()
    root = tree.root
    check(tree.at is root, f"<{tree.at.tag}> is never closed")
    check(source.startswith("<!DOCTYPE html>"), "no doctype")
    check_self_contained(root, source)
    for anchor in (UNCACHED if args.search else list(AXES)) + ["evaluation", "cost", "provenance"]:
        check(root.find(tag="h2", id=anchor), f"no section {anchor}")
    digests = set(re.findall(r"\b[0-9a-f]{64}\b", root.content()))
    check(len(digests) >= (3 if args.search else 4), f"{len(digests)} digests; expected those of file, model, profile and schedule")
    tables = {}
    if args.bare:
        for name in args.plotted + args.empty:
            figure = root.find(tag="figure", id="plot-" + name)[0]
            check(not figure.find(tag="svg"), f"{name}: an SVG without gnuplot")
            check("gnuplot" in figure.content(), f"{name}: does not say what is missing")
            tables[name] = check_table(figure, name)
    else:
        for name in args.plotted + args.empty:
            tables[name] = check_plot(root, name, name in args.empty)
    for name in args.plotted:
        check(tables.get(name), f"{name}: an empty table")
    for name in set() if args.search else set(AXES) - set(args.plotted) - set(args.empty):
        figure = root.find(tag="figure", id="plot-" + name)[0]
        check("Not in this report" in figure.content(), f"{name}: does not say that it is missing")
    if args.eval:
        check_evaluation(root, json.load(open(args.eval, encoding="utf-8")), tables)
    if args.search:
        check_uncached(root, json.load(open(args.search, encoding="utf-8")), tables)
    for failure in failures[:20]:
        print(f"{args.report}: {failure}", file=sys.stderr)
    return 1 if failures else 0


sys.exit(main())
