#!/usr/bin/env python3
"""torch.save and the safetensors package on the factors that bench_archive left behind: bytes, writing, reading.

    python3 tests/bench/bench_archive.py DIRECTORY     after tests/bench/bench_archive DIRECTORY

Medians, warm page cache; writing includes fsync, as it does there. What is not installed is skipped, and said so.
"""
import os
import sys
import time

REPEATS = 7


def median(action):
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return sorted(times)[REPEATS // 2]


def sync(path):
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def row(label, path, total, write, read, first):
    bytes_ = os.path.getsize(path)
    print("%-26s %9.2f %8s %10.0f %10.0f %10s %10.2f" % (label, 1e-6 * bytes_, "%.3f" % (bytes_ / REFERENCE), 1e-6 * total / write,
                                                      1e-6 * total / read, "-", 1e3 * first))


directory = sys.argv[1]
source = os.path.join(directory, "icc.pt")
REFERENCE = os.path.getsize(source)
try:
    import torch
except ImportError:
    print("skipped: torch.save and torch's safetensors, no torch in this Python")
    sys.exit(0)

torch.set_num_threads(1)
loaded = torch.load(source)
lists = loaded["decomp_weight"]
tensors = {"%s.%d" % (key, i): t for key, ts in lists.items() for i, t in enumerate(ts)}
total = sum(t.numel() * t.element_size() for t in tensors.values())

path = os.path.join(directory, "torch.pt")


def save():
    torch.save(loaded, path)
    sync(path)


save()
again = torch.load(path)["decomp_weight"]
assert all(torch.equal(a, b) for key in lists for a, b in zip(lists[key], again[key])), "torch.load gives something else"
write = median(save)
read = median(lambda: torch.load(path))
row("torch.save, torch.load", path, total, write, read, read)

try:
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file
except ImportError:
    print("skipped: the safetensors package is not installed")
    sys.exit(0)
path = os.path.join(directory, "torch.safetensors")


def save_safetensors():
    save_file(tensors, path)
    sync(path)


def first_tensor():
    with safe_open(path, framework="pt") as file:
        file.get_tensor(next(iter(tensors))).clone()


save_safetensors()
again = load_file(path)
assert all(torch.equal(t, again[name]) for name, t in tensors.items()), "safetensors gives something else"
write = median(save_safetensors)
read = median(lambda: {k: v.clone() for k, v in load_file(path).items()})
row("safetensors package", path, total, write, read, median(first_tensor))
