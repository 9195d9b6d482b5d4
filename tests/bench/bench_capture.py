"""What capture adds to a forward in PyTorch, and what a cached evaluation takes there: processor time, on one thread.

    PYTHONPATH=bindings/python bench_capture.py [--repeats 9] [--batch 4] [-o capture.json]

First, on the shapes of DiT-S/2 (12 blocks): an evaluation under ousac.capture over a plain one. Second, on those of
DiT-XL/2 (2 blocks): a cached evaluation under ousac.apply over a full one, beside the share of MACs that its plan says,
and the bytes that PyTorch holds over those that ousac.summary states. Every parameter is random. Both contenders run one
right after the other, in alternating order; a ratio is the median over repetitions. Results are checked before anything
is timed: a captured forward is the plain one bit for bit, a cached one is near the exact one.
"""
import argparse
import gc
import json
import os
import platform
import re
import statistics
import sys
import tempfile
import time
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "1")
import torch  # noqa: E402
from diffusers import DiTTransformer2DModel  # noqa: E402

import ousac  # noqa: E402

STEPS, PERIOD = 6, 3
LEVELS = {"levels": "linear 0.0001 0.02 1000", "prediction": "epsilon"}


def processor():
    with open("/proc/cpuinfo") as file:
        return next((line.split(":")[1].strip() for line in file if line.startswith("model name")), platform.processor())


def transformer(heads, width, blocks):
    torch.manual_seed(1)
    made = DiTTransformer2DModel(num_attention_heads=heads, attention_head_dim=width // heads, in_channels=4, out_channels=8,
                                 num_layers=blocks, sample_size=32, patch_size=2, num_embeds_ada_norm=1000)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.normal_(0, 0.4 / max(parameter.shape[-1], 16) ** 0.5)
    return made.eval()


def write_schedule(directory):
    steps = [{"timestep": 900 - 20 * i, "mode": "cond", "gate": "cached" if i % PERIOD else "full"} for i in range(STEPS)]
    path = os.path.join(directory, "schedule.json")
    with open(path, "w") as file:
        json.dump({"format": "ousac-schedule", "version": 1, "name": "bench", "solver": "ddim", "step_count": STEPS, "steps": steps}, file)
    return path, steps


class Loop:
    """States that drift as those of a trajectory do."""

    def __init__(self, model, batch, count, steps):
        self.model, self.batch, self.steps = model, batch, steps
        self.start, self.drift = torch.randn(count, 4, 32, 32), 0.02 * torch.randn(count, 4, 32, 32)
        self.labels = torch.arange(count) % 1000

    def forward(self, first, i):
        rows = slice(first, first + self.batch)
        x = self.start[rows] + i * self.drift[rows]
        return self.model(x, timestep=torch.full((self.batch,), self.steps[i]["timestep"]), class_labels=self.labels[rows]).sample


def spent(act):
    start = time.process_time()
    act()
    return time.process_time() - start


def ratio(times):
    return statistics.median(y / x for x, y in times)


def bench_capture(directory, batch, repeats):
    model = transformer(6, 384, 12)
    path, steps = write_schedule(directory)
    loop = Loop(model, batch, batch * (repeats + 1), steps)
    times = {"full": [], "cached": []}
    with ousac.capture(model, path, samples=batch * (repeats + 1), out=os.path.join(directory, "s.oca"), **LEVELS) as cap:
        for turn in range(repeats + 1):
            first = turn * batch
            for i, step in enumerate(steps):
                kept = []

                def captured():
                    with cap.step(i, "cond", samples=(first, batch)):
                        kept.append(loop.forward(first, i))

                if (turn + i) % 2:
                    plain = spent(lambda: kept.append(loop.forward(first, i)))
                    pair = plain, spent(captured)
                else:
                    with_capture = spent(captured)
                    pair = spent(lambda: kept.append(loop.forward(first, i))), with_capture
                if not torch.equal(kept[0], kept[1]):
                    sys.exit("bench_capture.py: a captured forward is not the plain one")
                if turn:  # the first warms up, and has the run that learns the shapes
                    times[step["gate"]].append(pair)
    made = {gate: {"plain_s": statistics.median(x for x, _ in found), "ratio": ratio(found)} for gate, found in times.items()}
    weight = {"full": STEPS // PERIOD, "cached": STEPS - STEPS // PERIOD}
    made["mean_ratio"] = sum(weight[g] * made[g]["ratio"] for g in weight) / STEPS
    return made


def shares(bundle):
    """MACs of a cached evaluation over a full one, of what the architecture counts."""
    full = cached = int(bundle.arch["other_macs"])
    for module, live in zip(bundle.modules, bundle.live):
        full += int(module["fixed_macs"])
        cached += int(module["fixed_macs"]) * live
    for s, site in enumerate(bundle.sites):
        tokens = bundle.streams[bundle.groups[site["group"]]["stream"]]["tokens"]
        dense = tokens * site["m"] * site["n"]
        full += dense
        cached += {"dense": dense, "low rank": tokens * bundle.ranks[s] * (site["m"] + site["n"])}.get(ways(bundle)[s], 0)
    return cached / full


def ways(bundle):
    from ousac.bundle import DENSE, LOW_RANK

    return ["dense" if p == DENSE else "low rank" if p == LOW_RANK else "none" for p in bundle.path_of]


def storages():
    """Bytes of all tensors that Python holds, each storage once."""
    gc.collect()
    found = {}
    for held in gc.get_objects():
        if isinstance(held, torch.Tensor):
            storage = held.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


def bench_apply(directory, batch, repeats, budget):
    model = transformer(16, 1152, 2)
    path, steps = write_schedule(directory)
    samples = 3 * batch
    loop = Loop(model, batch, samples, steps)
    profile, plan, packed = (os.path.join(directory, name) for name in ("xl.oca", "plan.oca", "bundle.oca"))
    with ousac.capture(model, path, samples=samples, out=profile, **LEVELS) as cap:
        for first in range(0, samples, batch):
            for i in range(STEPS):
                with cap.step(i, "cond", samples=(first, batch)):
                    loop.forward(first, i)
    with cap.context() as context:
        context.plan(profile, plan, budget_step=budget)
        context.pack(profile, plan, packed)
    exact = [loop.forward(0, i) for i in range(STEPS)]
    times, errors = [], []
    before = storages()
    with ousac.apply(model, packed) as applied:
        share = shares(applied.bundle)
        factors = storages() - before
        for turn in range(repeats + 1):
            with applied.run(order=None), applied.branch("cond"):
                full = spent(lambda: loop.forward(0, 0))
                held = storages() - before - factors
                out = []
                cached = spent(lambda: out.append(loop.forward(0, 1)))
                errors.append(float((out[0] - exact[1]).norm() / exact[1].norm()))
                reused = float((exact[0] - exact[1]).norm() / exact[1].norm())
            if turn:
                times.append((full, cached))
        stated = applied.record.bytes
    if not errors[0] < reused:
        sys.exit("bench_capture.py: a cached evaluation is off by %g, the last full one by %g" % (errors[0], reused))
    return {"budget": budget, "full_s": statistics.median(x for x, _ in times), "ratio": ratio(times), "macs_share": share,
            "ratio_over_share": ratio(times) / share, "held_bytes": held, "stated_bytes": stated, "error": errors[0], "reuse_error": reused}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--budget", type=float, default=0.3)
    parser.add_argument("-o", "--output")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    result = {"processor": processor(), "batch": options.batch}
    with tempfile.TemporaryDirectory() as directory, torch.no_grad():
        result["capture"] = bench_capture(directory, options.batch, options.repeats)
        result["apply"] = bench_apply(directory, options.batch, options.repeats, options.budget)
    print(json.dumps(result, indent=1))
    if options.output:
        with open(options.output, "w") as file:
            json.dump(result, file, indent=1)


if __name__ == "__main__":
    main()
