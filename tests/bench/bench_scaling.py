#!/usr/bin/env python3
"""What a calibration costs by stage, how threads, shards and ranks share it here, and a model of many ranks.

    python3 tests/bench/bench_scaling.py BUILD OUTPUT.json      (make bench-scaling)

Everything under "measured" was measured by this script, in this order of trust: CPU time (user + system, of all
processes that a command starts), which other load on the machine disturbs little; wall time, which it does. The results
of the shared runs are compared with those of the single one before anything is timed.

"extrapolated" is no measurement. It is a sum of stages,

    T(P) = load + pilot ceil(b_p / P) + profile ceil(b / P) + reduce ceil(log2 P)
           + factors (largest share of P) + scatter and gather of sums and factors + validation ceil(b_v / P)
           + evaluation ceil(b_e / P) + rest

with b the micro-batches of a stage. Its assumptions: every rank has one core as fast as the one measured and shares
nothing with others; messages between ranks move at the rate that two processes reached here through shared memory, and
latency is nothing; `rest` (allocation, packing, tables, files) is done by rank 0 alone; loading takes what it takes for
one process, and ranks load after rank 0. It leaves out the start of the job, file systems under load, and stragglers.
"""
import json
import math
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

REPEATS = 3
MODEL = "data/shapes-dit/model.safetensors"
MICRO_BATCH = 4
build, output = sys.argv[1], sys.argv[2]
ousac, mpi, reduce_ = (os.path.abspath(os.path.join(build, name)) for name in ("ousac", "ousac-mpi", "tests/bench/bench_reduce"))
work = tempfile.mkdtemp()
SCHEDULE = os.path.join(work, "schedule.json")
STEPS = ["--steps", "10", "--scale", "5", "--cfg", "0:9:3", "--period", "3"]
plots = os.path.join(work, "bin")  # no gnuplot: drawing is not what is measured
os.mkdir(plots)
with open(os.path.join(plots, "gnuplot"), "w") as file:
    file.write("#!/bin/sh\nexit 1\n")
os.chmod(os.path.join(plots, "gnuplot"), 0o755)
environment = dict(os.environ, PATH=plots + ":" + os.environ["PATH"], OPENBLAS_NUM_THREADS="1",
                   OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")


def path(name):
    return os.path.join(work, name)


def cpu():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def once(*commands):
    """Runs the commands side by side: CPU seconds of all, wall seconds until the last has ended."""
    before, start = cpu(), time.perf_counter()
    jobs = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for command in commands]
    for job in jobs:
        out, err = job.communicate()
        if job.returncode:
            sys.exit("%s: %s" % (" ".join(job.args), err.decode()))
    return cpu() - before, time.perf_counter() - start


def measure(*commands):
    runs = [once(*commands) for _ in range(REPEATS)]
    return {"cpu_s": statistics.median(run[0] for run in runs), "wall_s": min(run[1] for run in runs)}


def command(name, *options, program=None, threads=1):
    return [*(program or [ousac]), name, "-q", "-m", MODEL, "--threads", str(threads), *map(str, options)]


def profile(samples, name, *options, **how):
    return command("profile", "-s", SCHEDULE, "--samples", samples, "--weights", path("weights.oca"), *options,
                   "-o", path(name), **how)


def slope(make, few, many):
    """CPU seconds per sample and for none, from the same command on few and on many samples."""
    a, b = measure(make(few))["cpu_s"], measure(make(many))["cpu_s"]
    each = (b - a) / (many - few)
    return each, a - few * each


def same(a, b):
    subprocess.run([ousac, "diff", "--tolerance", "1e-10", path(a), path(b)], check=True, stdout=subprocess.DEVNULL)


def ranks(count):
    return ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(count), mpi]


# --- the shared runs, checked and then timed ---
once([ousac, "schedule", "-q", *STEPS, "-o", SCHEDULE])
once(command("profile", "-s", SCHEDULE, "--pilot", "-o", path("weights.oca")))
SAMPLES = 16
ways = {
    "one process, one thread": [profile("0:16", "p1.oca")],
    "one process, two threads": [profile("0:16", "p2.oca", threads=2)],
    "two shards, one thread each": [profile("0:16", "s1.oca", "--shard", "1/2"), profile("0:16", "s2.oca", "--shard", "2/2")],
    "two ranks, one thread each": [profile("0:16", "m2.oca", program=ranks(2))],
}
for commands in ways.values():
    once(*commands)
once([ousac, "merge", path("s1.oca"), path("s2.oca"), "-o", path("s.oca")])
for name in ("p2.oca", "s.oca", "m2.oca"):
    same("p1.oca", name)
shared = {name: measure(*commands) for name, commands in ways.items()}
base = shared["one process, one thread"]
for way in shared.values():
    way["cpu_ratio"] = way["cpu_s"] / base["cpu_s"]
    way["wall_ratio"] = way["wall_s"] / base["wall_s"]
plain = measure(profile("0:16", "p1.oca", "--checkpoint-every", "1e9"))
every = measure(profile("0:16", "p1.oca", "--checkpoint-every", "0"))

# --- the stages ---
profile_s, load_s = slope(lambda n: profile("0:%d" % n, "x.oca"), 8, 24)
pilot_s, _ = slope(lambda n: command("profile", "-s", SCHEDULE, "--pilot", "--pilot-samples", n, "-o", path("x.oca")), 4, 12)
allocate = lambda *options: command("allocate", "-p", path("p1.oca"), "--method", "uniform", "--forecast", "off", *options,
                                    "-o", path("plan.oca"))
factors_s = measure(allocate())["cpu_s"] - load_s
validate_s, _ = slope(lambda n: allocate("--validate", "16:%d" % (16 + n)), 4, 12)
once(command("pack", "-p", path("p1.oca"), "--plan", path("plan.oca"), "-o", path("bundle.oca")))
evaluate_s, _ = slope(lambda n: command("eval", "-b", path("bundle.oca"), "--samples", "40:%d" % (40 + n)), 4, 12)


def calibrate(program=None):
    return command("calibrate", "-s", SCHEDULE, "--samples", 24, "--validation", 8, "--test", 8, "--method", "uniform",
                   "--forecast", "off", "-o", path("all"), program=program)


one, two = measure(calibrate()), measure(calibrate(ranks(2)))
stages = 8 * pilot_s + 24 * profile_s + factors_s + 8 * validate_s + 8 * evaluate_s
rest_s = max(one["cpu_s"] - load_s - stages, 0.0)
reduction = json.loads(subprocess.run(["mpirun", "--oversubscribe", "-n", "2", reduce_], env=environment, check=True,
                                      capture_output=True).stdout)
byte_s = reduction["least_s"] / reduction["bytes"]
info = json.loads(subprocess.run([ousac, "inspect", "--json", path("p1.oca")], check=True, capture_output=True).stdout)
blocks, width = info["model"]["blocks"], info["model"]["width"]
moment_bytes = blocks * 4 * width * (width + 1) // 2 * 8
# Bound by the factors of every direction below the dense rank, in float32: d = dense rank less one of (m, n).
dense = lambda m, n: m * n // (m + n) - 1
factor_bytes = 4 * blocks * (4 * dense(width, width) * 2 * width + 2 * dense(4 * width, width) * 5 * width)
groups = 4 * blocks


def batches(samples):
    return math.ceil(samples / MICRO_BATCH)


def model(count, samples, validation, test):
    turns = lambda n: MICRO_BATCH * math.ceil(batches(n) / count)
    parts = {
        "load": load_s * (1 if count == 1 else 2),
        "pilot": pilot_s * min(8, turns(8)),
        "profile": profile_s * min(samples, turns(samples)),
        "reduce": byte_s * moment_bytes * math.ceil(math.log2(count)) if count > 1 else 0.0,
        "factors": factors_s * math.ceil(groups / count) / groups,
        "scatter_gather": byte_s * (moment_bytes + factor_bytes) * (count - 1) / count,
        "validation": validate_s * min(validation, turns(validation)),
        "evaluation": evaluate_s * min(test, turns(test)),
        "rest": rest_s,
    }
    parts["total"] = sum(parts.values())
    return parts


workload = (4096, 64, 512)
first = model(1, *workload)["total"]
table = []
for count in (1, 2, 8, 32, 128, 512):
    parts = model(count, *workload)
    table.append({"ranks": count, "seconds": parts, "speedup": first / parts["total"],
                  "efficiency": first / parts["total"] / count})
result = {
    "kind": "ousac scaling",
    "measured": {
        "processors": len(os.sched_getaffinity(0)), "load_average": os.getloadavg()[0], "repeats": REPEATS, "model": MODEL,
        "schedule": " ".join(STEPS),
        "profile_of_16_samples": shared,
        "checkpoint_of_every_micro_batch": {"cpu_ratio": every["cpu_s"] / plain["cpu_s"]},
        "cpu_s": {"load": load_s, "pilot_sample": pilot_s, "profile_sample": profile_s, "factors": factors_s,
                  "validation_sample": validate_s, "evaluation_sample": evaluate_s, "rest": rest_s},
        "reduction": dict(reduction, bytes_per_s=1 / byte_s),
        "calibrate_24_8_8": {"one_process": one, "two_ranks": two, "cpu_ratio": two["cpu_s"] / one["cpu_s"],
                             "wall_ratio": two["wall_s"] / one["wall_s"],
                             "model_wall_ratio": model(2, 24, 8, 8)["total"] / model(1, 24, 8, 8)["total"]},
    },
    "extrapolated": {"what": "calibrate --samples 4096 --validation 64 --test 512 --method uniform --forecast off, one "
                             "core a rank; no measurement", "assumptions": " ".join(__doc__.split("no measurement. ")[1].split()),
                     "ranks": table},
}
shutil.rmtree(work)
with open(output, "w") as file:
    json.dump(result, file, indent=2)
    file.write("\n")
print("%-30s %10s %10s" % ("profile of 16 samples", "CPU ratio", "wall ratio"))
for name, way in shared.items():
    print("%-30s %10.3f %10.3f" % (name, way["cpu_ratio"], way["wall_ratio"]))
print("saving after every micro-batch: CPU ratio %.3f" % (every["cpu_s"] / plain["cpu_s"]))
print("calibrate on two ranks: CPU ratio %.3f, wall ratio %.3f" % (two["cpu_s"] / one["cpu_s"], two["wall_s"] / one["wall_s"]))
print("extrapolated, not measured (%s):" % result["extrapolated"]["what"])
for row in table:
    print("%6d ranks: %10.1f s, speed-up %7.1f, efficiency %.2f" % (row["ranks"], row["seconds"]["total"], row["speedup"],
                                                                  row["efficiency"]))
print("written to %s" % output)
