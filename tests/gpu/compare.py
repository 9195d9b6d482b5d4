"""What a calibration on one device says against the same on another.

    python3 compare.py REFERENCE OTHER     two directories, each with profile.safetensors, bundle.safetensors, eval.json

Spectra of the moments: every value above 1e-3 of the first within 1e-4 of it, all within 1e-4 of the first. Leading
subspaces, of the moments and of the factors: sine of the angle at the widest gap times that gap, which the theorem of
Davis and Kahan bounds by the perturbation. End-to-end errors within 1 %. Exit code 1 and one line for each thing that is off; needs numpy.
"""
import json
import struct
import sys

import numpy

SPECTRUM, FLOOR, ENERGY, SINE, ERROR = 1e-4, 1e-3, 1e-5, 1e-3, 0.01
TYPES = {"F64": "<f8", "F32": "<f4"}
failures = []
worst = {}


def expect(what, where, value, bound):
    worst[what] = max(worst.get(what, 0.0), value)
    if not value <= bound:
        failures.append(f"{what} of {where}: {value:.3g}, expected at most {bound:g}")


def load(path):
    with open(path, "rb") as file:
        data = file.read()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] in TYPES:
            first, last = (8 + size + offset for offset in entry["data_offsets"])
            tensors[name] = numpy.frombuffer(data[first:last], TYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors


def unpack(packed):
    order = int((8 * len(packed) + 1) ** 0.5 - 1) // 2
    full = numpy.zeros((order, order))
    full[numpy.tril_indices(order)] = packed
    return full + numpy.tril(full, -1).T


def eigenpairs(matrix):
    values, vectors = numpy.linalg.eigh(matrix)
    return values[::-1], vectors[:, ::-1]


def sine(a, b):
    """Of the largest angle between the spaces of two sets of columns."""
    a, b = numpy.linalg.qr(a)[0], numpy.linalg.qr(b)[0]
    return numpy.linalg.norm(a - b @ (b.T @ a), 2)


def widest_gap(values, most):
    """How many leading values lie before the widest gap, relative to the first, and that gap."""
    gaps = (values[:most] - values[1 : most + 1]) / values[0]
    return int(numpy.argmax(gaps)) + 1, float(numpy.max(gaps))


def compare_moments(reference, other):
    names = [name for name in reference if name.startswith("moment/")]
    for name in names:
        a, b = unpack(reference[name]), unpack(other[name])
        values, vectors = eigenpairs(a)
        theirs, their_vectors = eigenpairs(b)
        kept = values > FLOOR * values[0]
        expect("spectrum", name, float(numpy.max(numpy.abs(theirs[kept] / values[kept] - 1))), SPECTRUM)
        expect("spectrum over its first value", name, float(numpy.max(numpy.abs(theirs - values)) / values[0]), SPECTRUM)
        rank = max(1, len(values) // 4)
        basis = their_vectors[:, :rank]
        expect("energy lost", name, 1 - float(numpy.trace(basis.T @ a @ basis) / values[:rank].sum()), ENERGY)
        count, gap = widest_gap(values, rank)
        expect("sine", name, sine(vectors[:, :count], basis[:, :count]) * gap, SINE)
    return len(names)


def compare_factors(reference, other):
    names = [name for name in reference if name.startswith("factor/") and name.endswith("/A")]
    for name in names:
        a, b = reference[name], other[name]
        curve = reference["curve/" + name[len("factor/") : -len("/A")]]
        if a.shape[0] < 2 or b.shape[0] < 2 or curve.size < 2:
            continue
        count, gap = widest_gap(curve, min(a.shape[0], b.shape[0], curve.size - 1))
        expect("sine", name, sine(a[:count].T.astype(float), b[:count].T.astype(float)) * gap, SINE)
    return len(names)


def compare_errors(reference, other):
    theirs = {(e["run"], e["against"]): e["relative_error"]["mean"] for e in other["errors"]}
    for entry in reference["errors"]:
        key = entry["run"], entry["against"]
        mean = entry["relative_error"]["mean"]
        expect("end-to-end error", " against ".join(key), abs(theirs[key] / mean - 1) if mean else theirs[key], ERROR)
    return len(reference["errors"])


def main():
    files = [
        [load(f"{directory}/{name}.safetensors") for name in ("profile", "bundle")]
        + [json.load(open(f"{directory}/eval.json", encoding="utf-8"))]
        for directory in sys.argv[1:3]
    ]
    counts = [compare(*pair) for compare, pair in zip((compare_moments, compare_factors, compare_errors), zip(*files))]
    if min(counts) == 0:
        failures.append(f"nothing to compare: {counts} moments, factors, errors")
    print("\n".join(failures + [f"largest {what}: {value:.3g}" for what, value in sorted(worst.items())]))
    sys.exit(1 if failures else 0)


main()
