"""Time and memory of every stage of ousac, beside what it can be compared with on the same machine in the same run.

    bench_speed.py --build build --depth 2 -o build/bench/speed.json [--repeats 5] [--models shapes-dit,DiT-XL/2]

Prints one table a model and writes the same as JSON. A row is a stage; its time is the median of the repetitions, its
ratio the median over repetitions of its time over the baseline's, the two of which run one right after the other, in
alternating order, so that whatever else the machine does meets both. "Of CPU" is the same ratio of processor time, which
other work on the machine hardly changes. Results are checked before anything is timed.

Baselines: SGEMM: OpenBLAS's products of the same shapes alone, on the same threads. torch: the same forward, or
torch.linalg.svd of the same matrix, where this Python has PyTorch. torch svds: the SVDs of all weights that the
published methods take (TorchSvds says how). dgesdd: LAPACK's full decomposition. memcpy: of as
many bytes of float32. write: a plain write and sync of as many bytes. Synthetic models have DEPTH blocks, 0 for all.
"""
import argparse
import array
import ctypes
import json
import math
import os
import statistics
import subprocess
import sys
import time

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # PyTorch's threads must not spin while another contender runs
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../interop"))
import dit_torch  # noqa: E402

try:
    import torch
except ImportError:
    torch = None

FORWARD_TOLERANCE = 1e-4  # of the noise predicted, in float32, relative
FACTOR_TOLERANCE = 1e-4  # of the energy left over the least possible, beyond 1
LEADING_TOLERANCE = 0.01  # the same of the leading directions alone (calib/spectra/leading.h)
KINDS = ("q", "proj", "fc1", "fc2")


class Server:
    """A process of bench_speed, asked for one stage at a time."""

    def __init__(self, build, model, config, directory, batch, *more):
        command = [os.path.join(build, "tests/bench/bench_speed"), model, config, directory, str(batch), *map(str, more)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.facts = self.line()

    def line(self):
        text = self.process.stdout.readline()
        if not text:
            sys.exit(f"bench_speed.py: bench_speed ended with {self.process.wait()}")
        return json.loads(text)

    def ask(self, stage, threads=1):
        self.process.stdin.write(f"{stage} {threads}\n")
        self.process.stdin.flush()
        return self.line()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def use_threads(count):
    """PyTorch's own threads and those of the OpenBLAS that it may be linked to, which it does not set: left at all
    processors, they wait for one another and a small decomposition takes a hundred times as long on a busy machine."""
    torch.set_num_threads(count)
    with open("/proc/self/maps") as maps:
        libraries = {line.split()[-1] for line in maps if "blas" in line}
    for library in libraries:
        try:
            ctypes.CDLL(library).openblas_set_num_threads(count)
        except (AttributeError, OSError):
            pass  # another BLAS


class TorchForward:
    """The forward of the same weights in PyTorch, per sample."""

    def __init__(self, directory, config, batch, threads):
        self.net = dit_torch.public_model(directory, config)
        self.config, self.batch, self.threads = config, batch, threads

    def inputs(self, count):
        size, channels = self.config["input_size"], self.config["in_channels"]
        torch.manual_seed(1)
        labels = torch.tensor([i % 3 if i % 2 else self.config["num_classes"] for i in range(count)])
        return torch.randn(count, channels, size, size), torch.linspace(999, 3, count).floor(), labels

    def __call__(self):
        use_threads(self.threads)
        count = self.batch * self.threads
        inputs = self.inputs(count)
        with torch.no_grad():
            start, cpu = time.perf_counter(), time.process_time()
            self.net(*inputs)
            return {"seconds": (time.perf_counter() - start) / count, "cpu": (time.process_time() - cpu) / count}


def torch_svd(server, directory, kind):
    """torch.linalg.svd of the matrix that the factors of a site decompose."""
    answer = server.ask(f"dump:{kind}")
    values = array.array("d")
    with open(os.path.join(directory, "energy.f64"), "rb") as file:
        values.frombytes(file.read())
    matrix = torch.tensor(values, dtype=torch.float64).reshape(-1, int(answer["macs"]))

    def run():
        use_threads(1)
        start = time.perf_counter()
        torch.linalg.svd(matrix, full_matrices=False)
        return {"seconds": time.perf_counter() - start}

    return run


class TorchSvds:
    """What the published code spends on the sites of every block: torch.linalg.svd of each weight in float32, with the
    full U and V that it asks for. One decomposition of each shape is timed and counted as often as the shape occurs."""

    def __init__(self, net, blocks, threads):
        weights = net.state_dict()
        d = weights["blocks.0.attn.proj.weight"].shape[0]
        self.matrices = [(4 * blocks, weights["blocks.0.attn.qkv.weight"][:d].clone()),  # q, k, v and proj
                         (blocks, weights["blocks.0.mlp.fc1.weight"]), (blocks, weights["blocks.0.mlp.fc2.weight"])]
        self.threads = threads

    def __call__(self):
        use_threads(self.threads)
        total = total_cpu = 0
        for count, matrix in self.matrices:
            start, cpu = time.perf_counter(), time.process_time()
            torch.linalg.svd(matrix)
            total += count * (time.perf_counter() - start)
            total_cpu += count * (time.process_time() - cpu)
        return {"seconds": total, "cpu": total_cpu}


def check_forward(build, directory, config, reference):
    """Largest relative deviation of the engine's forward from PyTorch's."""
    x, t, labels = reference.inputs(3)
    files = {name: os.path.join(directory, f"check.{name}") for name in ("x", "t", "labels", "out")}
    for name, kind, values in (("x", "f", x), ("t", "f", t), ("labels", "i", labels)):
        with open(files[name], "wb") as file:
            file.write(array.array(kind, values.flatten().tolist()).tobytes())
    checkpoint = os.path.join(reference.directory, "model.safetensors")
    subprocess.run([os.path.join(build, "tests/interop/dit_forward"), checkpoint, "0", files["x"], files["t"],
                    files["labels"], files["out"]], check=True)
    mine = array.array("f")
    with open(files["out"], "rb") as file:
        mine.frombytes(file.read())
    with torch.no_grad():
        theirs = reference.net(x, t, labels)[:, :config["in_channels"]]
    mine = torch.tensor(mine).reshape(theirs.shape)
    return float(((mine - theirs).flatten(1).norm(dim=1) / theirs.flatten(1).norm(dim=1)).max())


def compare(stage, contenders, repeats):
    """Rows of {stage, against, seconds, ratio, ...}: the first contender against each of the others."""
    names = list(contenders)
    answers = {name: [] for name in names}
    for repeat in range(repeats):
        for name in names if repeat % 2 == 0 else reversed(names):
            answers[name].append(contenders[name]())
    mine = answers[names[0]]
    seconds = statistics.median(a["seconds"] for a in mine)
    row = {"stage": stage, "seconds": seconds, "spread": [min(a["seconds"] for a in mine), max(a["seconds"] for a in mine)],
           "peak_bytes": max(a.get("peak_bytes", 0) for a in mine), "against": {}}
    if mine[0].get("macs"):
        row["gflops"] = 2e-9 * mine[0]["macs"] / seconds
    if mine[0].get("bytes"):
        row["gb_per_s"] = 1e-9 * mine[0]["bytes"] / seconds
    for name in names[1:]:
        ratios = [a["seconds"] / b["seconds"] for a, b in zip(mine, answers[name])]
        row["against"][name] = {"seconds": statistics.median(b["seconds"] for b in answers[name]),
                                "ratio": statistics.median(ratios), "ratio_spread": [min(ratios), max(ratios)]}
        if mine[0].get("cpu") and answers[name][0].get("cpu"):
            row["against"][name]["cpu_ratio"] = statistics.median(a["cpu"] / b["cpu"] for a, b in zip(mine, answers[name]))
        if answers[name][0].get("macs"):
            row["against"][name]["gflops"] = 2e-9 * answers[name][0]["macs"] / row["against"][name]["seconds"]
    return row


def scaled(seconds):
    for unit, factor in (("s", 1), ("ms", 1e3), ("us", 1e6)):
        if seconds * factor >= 1 or unit == "us":
            return f"{seconds * factor:.3g} {unit}"


def print_row(row):
    against = row["against"] or {"": {"ratio": math.nan}}
    for i, (name, other) in enumerate(against.items()):
        left = (row["stage"], scaled(row["seconds"]), f"{row['gflops']:.1f}" if "gflops" in row else "",
                f"{row['gb_per_s']:.2f}" if "gb_per_s" in row else "",
                f"{1e-6 * row['peak_bytes']:.0f}") if i == 0 else ("",) * 5
        spread = "{:.2f}..{:.2f}".format(*other["ratio_spread"]) if "ratio_spread" in other else ""
        ratio = f"{other['ratio']:.2f}" if name else ""
        cpu = f"{other['cpu_ratio']:.3f}" if "cpu_ratio" in other else ""
        print("  {:<32}{:>10}{:>10}{:>8}{:>9}   {:<10}{:>7}{:>8}  {}".format(*left, name, ratio, cpu, spread).rstrip(),
              flush=True)


def measure(args, name, directory, work, batch, threads):
    with open(os.path.join(directory, "config.json")) as file:
        config = json.load(file)
    path = os.path.join(directory, "model.safetensors")
    os.makedirs(work, exist_ok=True)
    server = Server(args.build, path, os.path.join(directory, "config.json"), work, batch)
    facts = server.facts
    result = {"model": name, "batch": batch, **facts, "checks": {}, "rows": []}
    print(f"\n{name}: {facts['blocks']} blocks, width {facts['width']}, {facts['tokens']} tokens, "
          f"{batch} samples a forward", flush=True)

    # --- checks ---
    reference = None
    if torch:
        reference = TorchForward(directory, config, batch, 1)
        reference.directory = directory
        error = check_forward(args.build, work, config, reference)
        result["checks"]["forward_relative_error"] = error
        print(f"  forward agrees with PyTorch to {error:.1e}")
        if not error < FORWARD_TOLERANCE:
            sys.exit(f"bench_speed.py: {name}: expected below {FORWARD_TOLERANCE:g}")
    else:
        print("  forward not compared: this Python has no PyTorch")
    for kind in KINDS:
        left, least = server.ask(f"checked-factors:{kind}")["left"], server.ask(f"checked-gesdd:{kind}")["least"]
        result["checks"][f"energy_left_{kind}"] = left / least
        if not left <= (1 + FACTOR_TOLERANCE) * least:
            sys.exit(f"bench_speed.py: {name}: factors of {kind} leave {left / least:.6f} of the least possible")
        leading = server.ask(f"checked-leading:{kind}")
        if leading["seconds"]:
            result["checks"][f"leading_left_{kind}"] = leading["left"] / least
            if not leading["left"] <= (1 + LEADING_TOLERANCE) * least:
                sys.exit(f"bench_speed.py: {name}: leading directions of {kind} leave "
                         f"{leading['left'] / least:.6f} of the least possible")
            svd = server.ask(f"checked-svd:{kind}")["left"]
            result["checks"][f"svd_left_{kind}"] = svd / least
            if not leading["left"] <= svd:
                sys.exit(f"bench_speed.py: {name}: leading directions of {kind} leave more than the SVD of the weights")
    print("  factors leave at most {:.7f} of the least possible energy".format(
        max(v for k, v in result["checks"].items() if k.startswith("energy"))))

    # --- times ---
    print("  {:<32}{:>10}{:>10}{:>8}{:>9}   {:<10}{:>7}{:>8}  {}".format(
        "stage", "time", "GFLOP/s", "GB/s", "peak MB", "against", "ratio", "of CPU", "least..most"))

    def add(stage, contenders):
        result["rows"].append(compare(stage, contenders, args.repeats))
        print_row(result["rows"][-1])

    def ask(stage, count=1):
        return lambda: server.ask(stage, count)

    add("model load", {"ousac": ask("load"), "memcpy": ask("copy-model")})
    for count in sorted({1, threads}):
        contenders = {"ousac": ask("full", count), "SGEMM": ask("sgemm-full", count)}
        if reference:
            reference.threads = count
            contenders["torch"] = reference
        add(f"forward full, {count} thread{'s' * (count > 1)}", contenders)
        add(f"forward cached, {count} thread{'s' * (count > 1)}",
            {"ousac": ask("cached", count), "SGEMM": ask("sgemm-cached", count), "full": ask("full", count)})
        if server.ask("bf16")["seconds"]:  # where there are such products; compared with float32 before it is timed
            add(f"forward full, bf16, {count} thread{'s' * (count > 1)}", {"ousac": ask("bf16", count), "full": ask("full", count)})
    add(f"profile, {threads} thread{'s' * (threads > 1)}", {"ousac": ask("record", threads), "unrecorded": ask("exact", threads)})
    add("root of a moment", {"ousac": ask("root:q")})
    for kind in KINDS:
        contenders = {"ousac": ask(f"factors:{kind}"), "dgesdd": ask(f"gesdd:{kind}")}
        if torch:
            contenders["torch svd"] = torch_svd(server, work, kind)
        add(f"factors of {kind}", contenders)
        if f"leading_left_{kind}" in result["checks"]:
            add(f"leading factors of {kind}", {"ousac": ask(f"leading:{kind}"), "dgesdd": ask(f"gesdd:{kind}")})
    for count in sorted({1, threads}) if reference else []:
        add(f"factors of all {facts['sites']} sites, {count} thread{'s' * (count > 1)}",
            {"ousac": ask("sites", count), "torch svds": TorchSvds(reference.net, facts["blocks"], count)})
    add("pack", {"ousac": ask("pack"), "write": ask("plain-write")})
    add("bundle read", {"ousac": ask("read"), "memcpy": ask("copy-factors")})
    server.close()
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default="build")
    parser.add_argument("--depth", type=int, default=2, help="blocks of the synthetic models, 0 for all")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--models", default="shapes-dit,DiT-S/2,DiT-XL/2")
    parser.add_argument("-o", "--output", required=True)
    args = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    base = os.path.dirname(os.path.abspath(args.output))
    results = {"threads": threads, "repeats": args.repeats, "depth": args.depth,
               "torch": torch.__version__ if torch else None, "models": []}
    for name in args.models.split(","):
        work = os.path.join(base, name.replace("/", "-"))
        directory, batch = work, 1
        os.makedirs(work, exist_ok=True)
        if name == "shapes-dit":
            directory, batch = os.path.join(HERE, "../../data/shapes-dit"), 4
        else:
            command = [os.path.join(args.build, "ousac"), "synth", "--preset", name, "-q", "-o",
                       os.path.join(work, "model.safetensors"), "--config-output", os.path.join(work, "config.json")]
            subprocess.run(command + (["--depth", str(args.depth)] if args.depth else []), check=True,
                           stdout=subprocess.DEVNULL)
        results["models"].append(measure(args, name, directory, work, batch, threads))
        if directory == work:
            os.remove(os.path.join(work, "model.safetensors"))
    results["machine"] = results["models"][0]["backend"]
    with open(args.output + ".part", "w") as file:
        json.dump(results, file, indent=1)
        file.write("\n")
    os.replace(args.output + ".part", args.output)
    print(f"\n{args.output}: {len(results['models'])} models, {args.repeats} repetitions, {threads} threads, "
          f"{'PyTorch ' + torch.__version__ if torch else 'no PyTorch'}")


if __name__ == "__main__":
    main()
