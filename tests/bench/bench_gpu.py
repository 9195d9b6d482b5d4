"""Everything about a GPU that is worth a number, in one run: what a forward, a profile and the factors take, how much of
the device that is, and what PyTorch takes for the same on the same device.

    bench_gpu.py --build build -o build/bench/gpu.json [--device cuda] [--parts LIST]

Parts: rates of products and copies, and with them the roofline of what follows; attention alone, beside PyTorch's fused
one; forwards of DiT-XL/2 at 256 and 1024 tokens, full and corrected, in float32 and bfloat16, beside PyTorch's fastest
of what it has (eager, torch.compile; fused attention); forwards of a few blocks of PixArt at 1024 pixels and of FLUX.1,
full and corrected; plain and recorded runs, 64 samples of 50 steps recorded at the
end; eigenproblems one after another and batched; factors of all sites of DiT-XL/2 and of a model of FLUX.1's size,
beside torch.linalg.svd and torch.svd_lowrank, with the error of each. Results are checked before anything is timed:
operations and short trajectories against the CPU, forwards against PyTorch, factors by the energy they leave. What
cannot be done is skipped with its reason. What is ours is measured before what is PyTorch's, and the file is written anew
after every figure, so that one that takes too long costs none before it. --brief leaves out what takes minutes: PyTorch's
slowest ways to compile, most sizes of attention and eigenproblems, the CPU's trajectory at 1024 tokens, and at FLUX.1's
size all energies but that of one q, without the full solver. --toy runs the same on sizes for which a device is not needed
(tests/gpu/test_bench.sh). Exit code 77: no such device.
"""
import argparse
import array
import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../interop"))
import dit_torch  # noqa: E402

torch = None  # loaded by find_torch: that takes seconds, which ours need not wait for

KINDS = {"q": 3, "proj": 1, "fc1": 1, "fc2": 1}  # how many of a block are like it: q stands for k and v
FORWARD_TOLERANCE = {"f32": 1e-4, "bf16": 0.05}  # of the noise predicted, against PyTorch's in float32
ATTENTION_TOLERANCE = {"f32": 1e-4, "bf16": 0.02}  # of PyTorch's, against its definition
FACTOR_TOLERANCE = {"left": 1e-4, "left_leading": 0.01}  # of the energy left beyond the least possible
RANK = 64


class Server:
    """A process of bench_gpu on one device, in one precision."""

    def __init__(self, args, compute):
        command = [os.path.join(args.build, "tests/bench/bench_gpu"), args.device, compute, str(args.repeats), str(args.inner)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.facts = self.line()

    def line(self):
        text = self.process.stdout.readline()
        if not text:
            sys.exit(self.process.wait() or 1)
        return json.loads(text)

    def ask(self, *words):
        self.process.stdin.write(" ".join(str(word) for word in words) + "\n")
        self.process.stdin.flush()
        return self.line()

    def close(self):
        self.process.stdin.close()
        if self.process.wait():
            sys.exit(1)


class Torch:
    """PyTorch on a device: "cuda", or "cpu" for the toy sizes."""

    def __init__(self, device):
        self.device = device

    def default(self):
        """Where the network makes tensors of its own; before PyTorch 2 that is always the processor."""
        return torch.device(self.device) if hasattr(torch.device, "__enter__") else contextlib.nullcontext()

    def wait(self):
        if self.device == "cuda":
            torch.cuda.synchronize()

    def time(self, run, repeats, inner):
        for _ in range(3):
            run()
        seconds = []
        for _ in range(repeats):
            self.wait()
            start = time.perf_counter()
            for _ in range(inner):
                run()
            self.wait()
            seconds.append((time.perf_counter() - start) / inner)
        return statistics.median(seconds)


def find_torch(args, result):
    """PyTorch, or None and why not; loaded when it is first asked for."""
    global torch
    if not hasattr(args, "found_torch"):
        library, why = None, ""
        try:
            import torch
            if torch.cuda.is_available():
                library = Torch("cuda")
            elif args.toy:
                library = Torch("cpu")
            else:
                why = "PyTorch sees no CUDA device"
        except ImportError:
            why = "this Python has no PyTorch"
        if library:
            result["torch"] = {"version": torch.__version__, "device": library.device}
            print(f"\nPyTorch {torch.__version__} on {library.device}", flush=True)
        args.found_torch = library, why
    return args.found_torch


def fused_attention(net):
    """Attention by PyTorch's fused operation, where this version has it."""
    function = getattr(torch.nn.functional, "scaled_dot_product_attention", None)
    if function is None:
        return False

    def forward(self, x):
        B, N, d = x.shape
        q, k, v = self.qkv(x).reshape(B, N, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(function(q, k, v).transpose(1, 2).reshape(B, N, d))

    kind = type(net.blocks[0].attn)
    kind.forward = forward
    return True


def read(path, kind):
    values = array.array(kind)
    with open(path, "rb") as file:
        values.frombytes(file.read())
    return torch.tensor(values)


def scaled(seconds):
    for unit, factor in (("s", 1), ("ms", 1e3), ("us", 1e6)):
        if seconds * factor >= 1 or unit == "us":
            return f"{seconds * factor:.4g} {unit}"


def row(name, seconds, *more):
    print("  {:<40}{:>12}  {}".format(name, scaled(seconds), ", ".join(m for m in more if m)), flush=True)


def skipped(result, what, why):
    result["skipped"].append({"what": what, "why": why})
    print(f"  {what}: skipped, {why}", flush=True)


# --- parts ---

def measure_rates(args, servers, result):
    for compute, server in servers.items():
        answer = server.ask("operations", args.rows, args.width)
        print(f"\n{args.rows} rows of {args.width}, linears in {compute}")
        for op in answer["operations"]:
            flops, bytes_ = op["flops"] / op["seconds"], op["bytes"] / op["seconds"]
            row(op["name"], op["seconds"], f"{1e-12 * flops:.3f} TFLOP/s" if flops else "", f"{1e-9 * bytes_:.1f} GB/s")
        named = {op["name"]: op for op in answer["operations"]}
        result["rates"][compute] = {
            "operations": answer["operations"],
            "flops_per_s": named["linear"]["flops"] / named["linear"]["seconds"],
            "bytes_per_s": named["copy"]["bytes"] / named["copy"]["seconds"]}


def torch_attention(args, library, compute, batch, tokens, heads, width):
    """Time of PyTorch's fused attention on inputs that are already there in that precision, each tensor contiguous."""
    function = getattr(torch.nn.functional, "scaled_dot_product_attention", None)
    if function is None:
        return None
    kind = torch.bfloat16 if compute == "bf16" else torch.float32
    exact = [6 * torch.rand(batch, heads, tokens, width, device=library.device) - 3 for _ in range(3)]
    inputs = [x.to(kind) for x in exact]
    with torch.no_grad():
        mine, expected = function(*inputs)[0, 0].double(), [x[0, 0].double() for x in inputs]
        scores = expected[0] @ expected[1].T / math.sqrt(width)
        expected = torch.softmax(scores, -1) @ expected[2]
        error = float((mine - expected).norm() / expected.norm())
        if not error < ATTENTION_TOLERANCE[compute]:
            sys.exit(f"bench_gpu.py: PyTorch's attention in {compute}: {error:.3g} from its definition")
        return library.time(lambda: function(*inputs), args.repeats, args.inner)


def measure_attention(args, servers, result):
    library, why = find_torch(args, result)
    print("\nattention, each kernel alone")
    if library:
        torch.backends.cuda.matmul.allow_tf32 = False
    else:
        skipped(result, "PyTorch's attention", why)
    for batch, tokens, heads, width in args.attention:
        found = {"batch": batch, "tokens": tokens, "heads": heads, "head_width": width, "compute": {}}
        for compute, server in servers.items():
            answer = server.ask("attention", batch, tokens, heads, width)
            rate = f"{1e-12 * answer['flops'] / answer['seconds']:.3f} TFLOP/s"
            row(f"{batch} of {tokens} tokens, {heads} heads of {width}, {compute}", answer["seconds"], rate,
                f"{answer['error']:.1e} from the CPU's")
            if library:
                seconds = torch_attention(args, library, compute, batch, tokens, heads, width)
                if seconds is None:
                    skipped(result, "PyTorch's attention", "this version has no fused one")
                else:
                    answer["torch_seconds"] = seconds
                    row(f"PyTorch, {compute}", seconds, f"{1e-12 * answer['flops'] / seconds:.3f} TFLOP/s",
                        f"ousac's takes {answer['seconds'] / seconds:.2f} of it")
            found["compute"][compute] = answer
        if len(found["compute"]) == 2:
            found["bf16_of_f32"] = found["compute"]["bf16"]["seconds"] / found["compute"]["f32"]["seconds"]
            print(f"  in bf16 {found['bf16_of_f32']:.3f} of the time in f32", flush=True)
        result["attention"].append(found)


def least_bytes(facts, config, compute, kind):
    """What a forward of a DiT moves at least, every input of a linear or of attention read once, every output written
    once, activations in float32: of a corrected one also the last inputs and outputs, and factors in place of weights."""
    d, hidden, rows = facts["width"], int(config.get("mlp_ratio", 4) * facts["width"]), facts["batch"] * facts["tokens"]
    inputs, outputs, attention = 3 * d + hidden, 5 * d + hidden, 4 * d  # of qkv, proj, fc1, fc2
    if kind == "full":
        return facts["blocks"] * (4 * rows * (inputs + outputs + attention) + (2 if compute == "bf16" else 4) * (4 * d * d + 2 * d * hidden))
    factors = RANK * (4 * 2 * d + 2 * (d + hidden))
    return facts["blocks"] * 4 * (rows * (2 * inputs + 2 * outputs + attention) + factors)


def roofline(result, compute, facts, macs, bytes_, seconds):
    """The least time that products and memory would let it take at the rates measured, and the share of it."""
    rates = result["rates"].get(compute)
    if not rates:
        return {}
    products, memory = 2 * macs * facts["batch"] / rates["flops_per_s"], bytes_ / rates["bytes_per_s"]
    floor = max(products, memory)
    return {"flops_per_s": 2 * macs * facts["batch"] / seconds, "products_seconds": products, "memory_seconds": memory,
            "floor_seconds": floor, "times_floor": seconds / floor,
            "flops_per_byte_to_be_bound_by_products": rates["flops_per_s"] / rates["bytes_per_s"]}


class TorchForward:
    """The network of a forward in PyTorch, which checks what ours gave, in float32, and is then timed."""

    def __init__(self, args, library, found, directory, config, work):
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        self.args, self.library, self.found, compute = args, library, found, found["compute"]
        with library.default():
            net = dit_torch.public_model(directory, config).to(library.device)
            fused = fused_attention(net)
            size, channels = config["input_size"], config["in_channels"]
            x = read(os.path.join(work, "x.f32"), "f").reshape(-1, channels, size, size).to(library.device)
            labels = read(os.path.join(work, "labels.i32"), "i").long().to(library.device)
            t = torch.full((x.shape[0],), 500.0, device=library.device)
            mine = read(os.path.join(work, "eps.f32"), "f").reshape(x.shape).to(library.device)
            with torch.no_grad():
                theirs = net(x, t, labels)[:, :channels]
                error = float(((mine - theirs).flatten(1).norm(dim=1) / theirs.flatten(1).norm(dim=1)).max())
        if not error < FORWARD_TOLERANCE[compute]:
            sys.exit(f"bench_gpu.py: forward in {compute}: {error:.3g} from PyTorch, expected below "
                     f"{FORWARD_TOLERANCE[compute]:g}")
        print(f"  {name_of(found)}: {error:.2g} from PyTorch's in float32", flush=True)
        if compute == "bf16":
            net, x = net.bfloat16(), x.bfloat16()
            net.t_embedder.forward = lambda t: embed_bf16(net.t_embedder, t)
        self.net, self.inputs = net, (x, t, labels)
        found["torch"] = {"error": error, "fused_attention": fused, "seconds": {}}

    def time(self, name, run, result):
        """The network as `run` has it."""
        torch_found = self.found["torch"]
        try:
            with self.library.default(), torch.no_grad():
                forward = run(self.net)
                seconds = self.library.time(lambda: forward(*self.inputs), self.args.repeats, self.args.inner)
        except Exception as failure:  # a compiler that this machine lacks, say
            skipped(result, f"PyTorch, {name}", str(failure).splitlines()[0][:200])
            return
        torch_found["seconds"][name] = seconds
        torch_found["best"] = min(torch_found["seconds"], key=torch_found["seconds"].get)
        torch_found["best_seconds"] = torch_found["seconds"][torch_found["best"]]
        row(f"{name_of(self.found)}, PyTorch, {name}", seconds, f"ousac's takes {self.found['full']['seconds'] / seconds:.2f} of it")
        save(result, self.args.output)


def name_of(found):
    return f"{found['tokens']} tokens, {found['compute']}"


def compare_forwards(args, result):
    """Every forward checked against PyTorch's, then its ways to run it timed, the slowest to prepare at the end."""
    library, why = find_torch(args, result)
    if library is None:
        for found in result["forward"]:
            skipped(result, f"PyTorch's forward, {name_of(found)}", why)
        return
    print("\nforwards beside PyTorch's")
    theirs = []
    for found in result["forward"]:
        directory = make_model(args, found["tokens"])
        with open(os.path.join(directory, "config.json")) as file:
            config = json.load(file)
        theirs.append(TorchForward(args, library, found, directory, config, written(args, found)))
        save(result, args.output)
    for forward in theirs:
        forward.time("eager", lambda net: net, result)
    if hasattr(torch, "compile") and library.device == "cuda":
        for mode in args.modes:
            for forward in theirs:
                forward.time(f"compile, {mode}", lambda net: torch.compile(net, mode=None if mode == "default" else mode), result)


def written(args, found):
    """Where the inputs and the result of one of our forwards lie."""
    return os.path.join(args.work, f"forward-{found['tokens']}-{found['compute']}")


def embed_bf16(embedder, t):
    """The timestep's features in float32, as they are, and its network in bfloat16."""
    frequency = torch.exp(-math.log(10000) * torch.arange(128, device=t.device) / 128)
    phase = t[:, None].float() * frequency[None]
    return embedder.mlp(torch.cat([phase.cos(), phase.sin()], -1).bfloat16())


def make_model(args, tokens):
    """Directory of a checkpoint."""
    if args.toy:
        directory = os.path.join(args.work, "toy")
        subprocess.run([os.path.join(args.build, "tests/tools/make_dit"), directory], check=True)
        return directory
    directory = os.path.join(args.work, f"dit-xl-{tokens}")
    os.makedirs(directory, exist_ok=True)
    path = os.path.join(directory, "model.safetensors")
    if not os.path.exists(path):
        synth(args, path, "--preset", "DiT-XL/2", "--tokens", tokens)
    return directory


def synth(args, path, *options):
    subprocess.run([os.path.join(args.build, "ousac"), "synth", *map(str, options), "-q", "-o", path], check=True,
                   stdout=subprocess.DEVNULL)


def measure_forwards(args, servers, result):
    for tokens, batch in args.tokens:
        directory = make_model(args, tokens)
        path, config_path = (os.path.join(directory, name) for name in ("model.safetensors", "config.json"))
        with open(config_path) as file:
            config = json.load(file)
        for compute, server in servers.items():
            facts = server.ask("load", path, config_path, batch)
            found = {"tokens": facts["tokens"], "compute": compute, "batch": batch, "blocks": facts["blocks"],
                     "width": facts["width"], "load_seconds": facts["seconds"]}
            print(f"\n{facts['blocks']} blocks of width {facts['width']}, {facts['tokens']} tokens, {batch} samples, {compute}")
            if not args.brief or tokens == args.tokens[0][0]:
                found["check"] = server.ask("check")["error"]
                print(f"  a trajectory, full and corrected: {found['check']:.2g} from the CPU's in float32", flush=True)
            else:
                print("  not checked by the CPU, which takes long; PyTorch's forward is to be compared", flush=True)
            os.makedirs(written(args, found), exist_ok=True)
            server.ask("write", written(args, found))
            for kind, macs in (("full", facts["macs"]), ("cached", facts["macs_cached"])):
                seconds = server.ask(kind)["seconds"]
                found[kind] = {"seconds": seconds,
                               **roofline(result, compute, facts, macs, least_bytes(facts, config, compute, kind), seconds)}
                more = []
                if "times_floor" in found[kind]:
                    bound = "memory" if found[kind]["memory_seconds"] > found[kind]["products_seconds"] else "products"
                    more.append(f"{found[kind]['times_floor']:.2f} of its floor {scaled(found[kind]['floor_seconds'])} ({bound})")
                if kind == "cached":
                    more.append(f"{100 * seconds / found['full']['seconds']:.1f} % of a full one")
                row(f"forward, {kind}", seconds, *more)
            result["forward"].append(found)
            save(result, args.output)


def make_blocks(args, preset, depth, tokens):
    """Checkpoint, config and inputs of a model of another family."""
    if args.toy:
        directory = os.path.join(HERE, "../../data", preset)
        return [os.path.join(directory, name) for name in
                (("diffusion_pytorch_model.safetensors", "config.json", "inputs.safetensors") if "pixart" in preset else
                 ("model.safetensors", "config.json", "prompts.safetensors"))]
    directory = os.path.join(args.work, f"{preset.replace('/', '-')}-{tokens}")
    os.makedirs(directory, exist_ok=True)
    files = [os.path.join(directory, name) for name in ("model.safetensors", "config.json", "inputs.safetensors")]
    if not os.path.exists(files[0]):
        synth(args, files[0], "--preset", preset, "--depth", depth, "--tokens", tokens, "--prompts", 2, "--inputs-output", files[2])
    return files


def least_block_bytes(facts, compute, kind):
    """As least_bytes, from what the program says of any family; what attention moves besides is left out."""
    values = 4 * facts["batch"] * facts["activations"]
    if kind == "full":
        return values + (2 if compute == "bf16" else 4) * facts["weights"]
    return 2 * values + 4 * facts["factors"]


def measure_blocks(args, servers, result):
    """A few blocks of PixArt at 1024 pixels and of FLUX.1, checked on few tokens, timed on all."""
    for preset, depth, few, tokens, batch in args.blocks:
        for compute, server in servers.items():
            path, config, inputs = make_blocks(args, few[0], depth, few[1])
            server.ask("load", path, config, 1, inputs)
            checked = server.ask("forwards")
            path, config, inputs = make_blocks(args, preset, depth, tokens)
            facts = server.ask("load", path, config, batch, inputs)
            found = {"model": preset, "blocks": facts["blocks"], "tokens": facts["tokens"], "batch": batch,
                     "compute": compute, "check": checked}
            print(f"\n{facts['blocks']} blocks of {preset}, {facts['tokens']} tokens, {batch} samples, {compute}")
            print(f"  forwards of {few[1]} tokens: full {checked['full']:.2g}, corrected {checked['cached']:.2g} from the CPU's in float32")
            for kind, macs in (("full", facts["macs"]), ("cached", facts["macs_cached"])):
                seconds = server.ask(kind)["seconds"]
                found[kind] = {"seconds": seconds,
                               **roofline(result, compute, facts, macs, least_block_bytes(facts, compute, kind), seconds)}
                more = []
                if "times_floor" in found[kind]:
                    more.append(f"{found[kind]['times_floor']:.2f} of its floor {scaled(found[kind]['floor_seconds'])}")
                if kind == "cached":
                    more.append(f"{100 * seconds / found['full']['seconds']:.1f} % of a full one")
                row(f"forward, {kind}", seconds, *more)
            result["blocks"].append(found)
            save(result, args.output)


def measure_profiles(args, servers, result):
    tokens, batch = args.tokens[0]
    directory = make_model(args, tokens)
    for compute, server in servers.items():
        server.ask("load", *(os.path.join(directory, name) for name in ("model.safetensors", "config.json")), batch)
        samples, steps = args.overhead
        print(f"\nprofiling at {tokens} tokens, {compute}")
        ratios, times = [], {"plain": [], "recorded": []}
        for _ in range(args.repeats):
            for kind in times:
                times[kind].append(server.ask(kind, samples, steps)["seconds"])
            ratios.append(times["recorded"][-1] / times["plain"][-1])
        row(f"sampling, {samples} samples of {steps} steps", statistics.median(times["plain"]))
        row("the same, recorded", statistics.median(times["recorded"]),
            f"recording adds {100 * (statistics.median(ratios) - 1):.1f} %")
        samples, steps = args.profile
        whole_plain = server.ask("plain", samples, steps)["seconds"]
        whole = server.ask("recorded", samples, steps)["seconds"]
        row(f"profile, {samples} samples of {steps} steps", whole, f"{100 * (whole / whole_plain - 1):.1f} % more than sampling")
        result["profile"].append({"compute": compute, "plain": times["plain"], "recorded": times["recorded"],
                                  "overhead": statistics.median(ratios) - 1, "whole_seconds": whole, "whole_plain_seconds": whole_plain,
                                  "whole_samples": samples, "whole_steps": steps})
        save(result, args.output)


def measure_eigen(args, server, result):
    """One eigenproblem after another as the backend solves them, together by cuSOLVER's batched solver, and on a core of
    the processor. Orders: 192 is the shipped model's, 384 DiT-S/2's; 96 and 336 those of the Rayleigh-Ritz problems of
    leading directions at ranks 64 and 256."""
    program = args.eigen or os.path.join(args.build, "tests/bench/bench_eigen")
    print("\neigenproblems in float64, each of a batch")
    if not os.path.exists(program):
        skipped(result, "batched eigenproblems", f"no {program}: it is built where there is a CUDA Toolkit")
        return
    for order in args.orders:
        one = server.ask("eigen", order, 3)
        for batch in args.batches:
            output = subprocess.run([program, str(order), str(batch), str(args.repeats)], stdout=subprocess.PIPE, text=True)
            if output.returncode:
                sys.exit(f"bench_gpu.py: {program} {order} {batch} failed")
            found = {**json.loads(output.stdout), **one}
            each = {name: found[name] / batch for name in ("looped", "batched")}
            row(f"order {order}, {batch} together", each["batched"],
                f"{each['batched'] / each['looped']:.3f} of one after another",
                f"{each['batched'] / one['device']:.3f} of the backend's",
                f"{each['batched'] / one['processor']:.3f} of a core's")
            result["eigen"].append(found)


def torch_factors(library, path, m, k, rank, least_by_us, brief, result):
    """Time and energy left of PyTorch's decompositions of the same matrix, and the least possible. `brief`: in float32
    alone, whose singular values then say what is possible, and each once."""
    g = torch.frombuffer(bytearray(open(path, "rb").read()), dtype=torch.float64).reshape(m, k).to(library.device)
    answers, least = {}, None

    def left(u):
        u = u[:, :rank].double()
        return float((g - u @ (u.T @ g)).square().sum())

    single = g.float()
    ways = [("linalg.svd, float32", lambda: torch.linalg.svd(single, full_matrices=False)),
            ("svd_lowrank, float32", lambda: torch.svd_lowrank(single, q=rank + rank // 4 + 16, niter=3))]
    if not brief:
        ways.insert(0, ("linalg.svd, float64", lambda: torch.linalg.svd(g, full_matrices=False)))
    for name, run in ways:
        try:
            if not brief:
                run()
            library.wait()
            start = time.perf_counter()
            found = run()
            library.wait()
            answers[name] = {"seconds": time.perf_counter() - start, "left": left(found[0])}
            if least is None and name.startswith("linalg"):
                least = float(found[1][rank:].double().square().sum())
        except Exception as failure:
            skipped(result, name, str(failure).splitlines()[0][:200])
    return answers, least if least is not None else least_by_us


def measure_factors(args, server, result):
    """Ours of every model first."""
    for name, width, hidden, blocks, rank in args.models:
        print(f"\nfactors of {name}: {blocks} blocks of width {width}, rank {rank}; every block's are those of one", flush=True)
        whole = server.ask("factors", width, hidden, blocks, rank)
        found = {"model": name, "width": width, "hidden": hidden, "blocks": blocks, "rank": rank, "kinds": {},
                 "seconds": whole, "torch_seconds": {}}
        row(f"ousac, all {whole['sites']} sites, {whole['threads']} threads", whole["seconds"], f"{whole['full_solver']} by the full solver")
        result["factors"].append(found)
        save(result, args.output)
    for found in result["factors"]:
        compare_factors(args, server, found, result)


def compare_factors(args, server, found, result):
    """What energy factors leave beyond the least, ours and PyTorch's, and how long theirs take."""
    library, why = find_torch(args, result)
    name, blocks, rank, totals = found["model"], found["blocks"], found["rank"], {}
    brief = args.brief and name != args.models[0][0]
    if library is None:
        skipped(result, f"PyTorch's decompositions, {name}", why)
    if brief:
        found["left_out"] = "; ".join(["energies of proj, fc1 and fc2", "the full solver and float64 decompositions"]
                                      if library else ["all energies, which nothing says the least of"])
        skipped(result, f"{name}: {found['left_out']}", "a brief run")
        if library is None:
            return
    print(f"\nfactors of {name}: energy left beyond the least", flush=True)
    for kind in ("q",) if brief else KINDS:
        path = os.path.join(args.work, "energy.f64")
        mine = server.ask("energy", found["width"], found["hidden"], rank, kind, path, *(["brief"] if brief else []))
        answers, least = {}, mine.get("left")
        if library:
            answers, least = torch_factors(library, path, mine["m"], mine["k"], rank, least, brief, result)
        os.remove(path)
        if least is None:
            skipped(result, f"{name}, {kind}: the check", "PyTorch has not said the least")
            continue
        found["kinds"][kind] = {"ousac": mine, "torch": answers, "least": least}
        for key, tolerance in FACTOR_TOLERANCE.items():
            if key in mine and not mine[key] <= (1 + tolerance) * least + 1e-12 * mine["energy"]:
                sys.exit(f"bench_gpu.py: {name}, {kind}: factors leave {mine[key] / least:.6f} of the least possible")
        beyond = [f"{label} {mine[key] / least - 1:.1e}" for key, label in (("left", "ousac"), ("left_leading", "leading")) if key in mine]
        for other, answer in answers.items():
            beyond.append(f"{other} {answer['left'] / least - 1:.1e}, {scaled(answer['seconds'])}")
            totals[other] = totals.get(other, 0) + answer["seconds"] * blocks * KINDS[kind]
        print(f"  {kind}: " + "; ".join(beyond), flush=True)
        save(result, args.output)
    whole = found["seconds"]
    for other, seconds in totals.items():
        if brief:  # of q alone, beside which ours are a thread's seconds
            ours = sum(whole["kinds"][kind] for kind in ("q", "k", "v")) / (KINDS["q"] * blocks)
            found["kinds"]["q"]["ousac"]["each_seconds"] = ours
            row(f"torch {other}, one q", seconds / (KINDS["q"] * blocks), f"ousac takes {scaled(ours)} for one on one of its threads")
        else:
            row(f"torch {other}, as many", seconds, f"ousac takes {whole['seconds'] / seconds:.3f} of it, from moment and weights on")
    if not brief:
        found["torch_seconds"] = totals


def save(result, path):
    with open(path + ".part", "w") as file:
        json.dump(result, file, indent=1)
    os.replace(path + ".part", path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default="build")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--parts", default="rates,attention,forward,profile,eigen,blocks,factors")
    parser.add_argument("--compute", default="f32,bf16")
    parser.add_argument("--eigen", help="the program bench_eigen, if not the build's")
    parser.add_argument("--brief", action="store_true")
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("-o", "--output", required=True)
    args = parser.parse_args()
    args.work = args.output + ".work"
    os.makedirs(args.work, exist_ok=True)
    if args.toy:
        args.repeats, args.inner, args.rows, args.width = 1, 2, 32, 24
        args.attention = [(2, 16, 2, 8), (1, 40, 1, 72)]
        args.orders, args.batches = (8, 33), (3,)
        args.tokens, args.overhead, args.profile = [(16, 2)], (2, 3), (4, 4)
        args.models = [("toy", 24, 96, 2, 5), ("toy of another size", 24, 96, 1, 5)]
        args.blocks = [(name, 0, (name, 64), 64, 2) for name in ("shapes-pixart", "shapes-flux")]
    else:
        args.repeats, args.inner, args.rows, args.width = 5, 10, 16384, 1152
        args.attention = [(16384 // tokens, tokens, 1152 // width, width) for width in (72, 128)
                          for tokens in (256, 1024, 4096)]
        args.orders, args.batches = (32, 64, 96, 128, 192, 256, 336, 384, 512, 768, 1024), (3, 6, 24)
        args.tokens, args.overhead, args.profile = [(256, 16), (1024, 8)], (16, 10), (64, 50)
        args.blocks = [("PixArt-XL/2-1024", 2, ("PixArt-XL/2-256", 256), 4096, 2), ("FLUX.1-dev", 3, ("FLUX.1-dev", 64), 4096, 1)]
        args.models = [("DiT-XL/2", 1152, 4608, 28, 256), ("FLUX.1's size", 3072, 12288, 57, 256)]
    args.modes = ("default", "max-autotune")
    if args.brief:
        args.modes = ("default",)
        args.attention = args.attention[:3]
        args.orders, args.batches = args.orders[4:7], args.batches[:1]
    parts = args.parts.split(",")
    result = {"rates": {}, "attention": [], "forward": [], "blocks": [], "profile": [], "eigen": [], "factors": [], "skipped": []}
    servers = {}
    for compute in args.compute.split(","):
        servers[compute] = Server(args, compute)
        result.setdefault("device", servers[compute].facts)
    print(result["device"]["detail"])
    first = next(iter(servers.values()))
    # Ours first: PyTorch takes long to load, and to compile.
    measures = [("rates", lambda: measure_rates(args, servers, result)),
                ("forward", lambda: measure_forwards(args, servers, result)),
                ("profile", lambda: measure_profiles(args, servers, result)),
                ("blocks", lambda: measure_blocks(args, servers, result)),
                ("eigen", lambda: measure_eigen(args, first, result)),
                ("factors", lambda: measure_factors(args, first, result)),
                ("attention", lambda: measure_attention(args, servers, result)),
                ("forward", lambda: compare_forwards(args, result))]
    for part, measure in measures:
        if part in parts:
            measure()
            save(result, args.output)
    for server in servers.values():
        server.close()
    save(result, args.output)
    print(f"\n{len(result['skipped'])} skipped; {args.output}")


main()
