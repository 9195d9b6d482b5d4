"""Runs the parts of the kit one after another, each with a time limit of its own, and keeps what each found.

    kit.py --kit DIR OUT [--emulated] [--parts LIST]

Every part ends as "passed", "failed", "timed out" or "needs a device"; gpu.json is written anew after each, so that a
part that dies costs no other. See run.sh for a user.
"""
import argparse
import glob
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import report  # noqa: E402

NO_DEVICE, SKIPPED = 6, 77  # exit codes of the program, of a test
OPERATIONS = ("table", "weights", "elementwise", "rotate", "products", "reduce", "sequence", "attention", "cross_attention", "attention_bf16", "low_rank_bf16", "eigen")
SLOW_EMULATED = ("attention_bf16", "low_rank_bf16")  # and these run on the emulation in `make test` as they are
SANITIZED = ("products", "low_rank_bf16", "attention_bf16", "elementwise", "rotate", "reduce", "attention", "cross_attention")
# Seconds; together 8 minutes. The emulation, which is slow, is given more.
LIMITS = {"facts": 20, "operations": 60, "pipeline": 60, "memory": 50, "speed": 160, "blocks": 65, "factors": 45, "sanitizer": 20}
EMULATED_MORE = 8


LOGS = {"speed": "bench", "blocks": "bench", "factors": "bench"}  # at most 8 files in all


class NeedsDevice(Exception):
    pass


class Failure(Exception):
    pass


class OutOfTime(Exception):
    pass


class Kit:
    def __init__(self, args, work):
        self.home, self.out, self.work, self.emulated = os.path.abspath(args.kit), os.path.abspath(args.out), work, args.emulated
        self.deadline, self.log = 0, None
        self.result = {"emulated": args.emulated, "parts": {}}
        with tarfile.open(os.path.join(self.home, "payload.tar.gz")) as packed:
            packed.extractall(work, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
        plugin = os.path.join(work, "lib", "emulated_cuda.so" if self.emulated else "libousac_cuda.so")
        if not os.path.exists(plugin):
            sys.exit("kit.py: this kit was built without a CUDA Toolkit and has no plug-in; --emulated runs without")
        self.env = {**os.environ, "OUSAC_KIT": work, "OUSAC_KIT_CUDA": ":".join(cuda_libraries()), "OUSAC_CUDA_PLUGIN": plugin,
                    "OUSAC_TEST_BACKEND": "cuda", "OUSAC_GPU_REQUIRED": "1"}

    def build(self, name):
        return os.path.join(self.home, "build", name)

    def data(self, name):
        return os.path.join(self.home, "data", name)

    def left(self):
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise OutOfTime()
        return left

    def run(self, *command, env=None, expect=(0,), meanwhile=None):
        """Exit code and output of a command, which ends with the part's time; `meanwhile` is called with the process as it runs."""
        self.log.write("$ " + " ".join(command) + "\n")
        self.log.flush()
        process = subprocess.Popen(command, env={**self.env, **(env or {})}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            if meanwhile:
                meanwhile(process)
            output = process.communicate(timeout=self.left())[0].decode("utf-8", "replace")
        except (subprocess.TimeoutExpired, OutOfTime):
            os.killpg(process.pid, signal.SIGKILL)
            self.log.write(process.communicate()[0].decode("utf-8", "replace") + "\n[killed: out of time]\n")
            raise OutOfTime() from None
        self.log.write(output + f"[exit code {process.returncode}]\n")
        self.log.flush()
        if process.returncode in (NO_DEVICE, SKIPPED) and process.returncode not in expect:
            raise NeedsDevice(last_line(output))
        if process.returncode not in expect:
            raise Failure(f"{os.path.basename(command[0])} {' '.join(command[1:3])}: exit code {process.returncode}: {last_line(output)}")
        return process.returncode, output

    def ousac(self, *arguments, **more):
        return self.run(self.build("ousac"), *arguments, **more)

    def part(self, name, function):
        start = time.monotonic()
        limit = LIMITS[name] * (EMULATED_MORE if self.emulated else 1)
        self.deadline = start + limit
        found = {"status": "passed", "why": ""}
        with open(os.path.join(self.out, LOGS.get(name, name) + ".log"), "a") as self.log:
            try:
                found["figures"] = function(self)
            except NeedsDevice as why:
                found.update(status="needs a device", why=str(why))
            except OutOfTime:
                found.update(status="timed out", why=f"{limit} s")
            except Failure as why:
                found.update(status="failed", why=str(why))
            except Exception as why:  # a fault of the kit must not cost the parts behind it
                found.update(status="failed", why=f"{type(why).__name__}: {why}")
            self.log.write(f"[{found['status']}] {found['why']}\n")
        # What was saved before the time was over counts.
        partial = os.path.join(self.work, name + ".json")
        if not found.get("figures") and os.path.exists(partial):
            with open(partial) as file:
                found["figures"] = json.load(file)
        found["seconds"] = round(time.monotonic() - start, 1)
        self.result["parts"][name] = found
        report.save(self.result, self.out)
        print(f"{name:<12} {found['status']:<15} {found['seconds']:6.1f} s  {found['why']}", flush=True)


def last_line(text):
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no output"


def cuda_libraries():
    """Where the libraries of CUDA may lie: of a Toolkit, then those that PyTorch brings."""
    found = [os.path.join(home, "lib64") for home in [os.environ.get("CUDA_HOME", "")] + sorted(glob.glob("/usr/local/cuda*"), reverse=True) if home]
    for folder in sys.path:
        found += sorted(glob.glob(os.path.join(folder, "nvidia", "*", "lib")))
    return [folder for folder in found if glob.glob(os.path.join(folder, "libcu*.so*"))]


def quietly(*command):
    try:
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=15).stdout.decode("utf-8", "replace").strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


# --- parts ---

def facts(kit):
    """Of the machine; what the device is comes from the program."""
    figures = {"date": time.strftime("%Y-%m-%d"), "libraries": kit.env["OUSAC_KIT_CUDA"].split(":")}
    try:
        with open("/proc/cpuinfo") as file:
            names = re.findall(r"model name\s*:\s*(.*)", file.read())
    except OSError:
        names = []
    figures["processor"], figures["processors"] = names[0] if names else "unknown", os.cpu_count()
    figures["nvidia_smi"] = quietly("nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.max.sm,clocks.max.mem", "--format=csv,noheader")
    figures["torch"] = quietly(sys.executable, "-c", "import torch; print(torch.__version__, torch.version.cuda, torch.cuda.is_available())")
    figures["sanitizer"] = shutil.which("compute-sanitizer") or ""
    kit.result["machine"] = figures
    if not kit.emulated and not figures["nvidia_smi"]:
        raise NeedsDevice("nvidia-smi names no GPU")
    model = kit.data("shapes-dit/model.safetensors")
    kit.ousac("sample", "-m", model, "-s", kit.data("schedules/sparse.json"), "--samples", "1", "--device", "cuda", "-q", "-o",
              os.path.join(kit.work, "first.png")) if not kit.emulated else kit.run(kit.build("tests/unit/calib/test_backend_table"))
    return figures


def operations(kit):
    """Every operation against its reference in double precision."""
    figures = {}
    for name in OPERATIONS:
        start, program = time.monotonic(), kit.build("tests/unit/calib/test_backend_" + name)
        if kit.emulated and name in SLOW_EMULATED:
            if not os.access(program, os.X_OK):
                raise Failure(f"{program} is missing")
            continue
        _, output = kit.run(program)
        figures[name] = {"tests": len(re.findall(r"\[ +OK \]", output)), "seconds": round(time.monotonic() - start, 2)}
        if figures[name]["tests"] == 0:
            raise Failure(f"{name}: no test ran")
    return figures


def tiny_model(kit):
    """Model and schedule for the emulation."""
    folder = os.path.join(kit.work, "dit")
    kit.run(kit.build("tests/tools/make_dit"), folder)
    schedule = os.path.join(kit.work, "short.json")
    kit.ousac("schedule", "--steps", "8", "--scale", "5", "--cfg", "0:8:3", "--period", "3", "--name", "short", "-q", "-o", schedule)
    return os.path.join(folder, "model.safetensors"), schedule


def pipeline(kit):
    """A whole calibration and a fit on the device and on the processor, which must agree."""
    model, schedule = tiny_model(kit) if kit.emulated else (kit.data("shapes-dit/model.safetensors"), kit.data("schedules/sparse.json"))
    samples, threads = ("4", "2") if kit.emulated else ("16", "4")
    run, seconds = ("-m", model, "-s", schedule, "--threads", threads, "-q"), {}
    for device in ("cpu", "cuda"):
        at, start = os.path.join(kit.work, device), time.monotonic()
        kit.ousac("calibrate", *run, "--samples", samples, "--validation", "4", "--test", samples, "--method", "uniform", "--forecast", "on",
                  "--dtype", "f32", "--device", device, "-o", at)
        seconds[device] = round(time.monotonic() - start, 2)
        # Types chosen by what rounding adds, which is measured on the device.
        kit.ousac("pack", "-m", model, "-p", f"{at}/profile.oca", "--plan", f"{at}/plan.oca", "--device", device, "-q", "-o", f"{at}/packed.oca")
        for file in ("profile", "bundle"):
            kit.ousac("export", "--safetensors", f"{at}/{file}.oca", "-o", f"{at}/{file}.safetensors")
        kit.ousac("fit", "-m", model, "--reference", schedule, "--steps", "5", "--samples", "8", "--validation", "4", "--test", "4", "--threads",
                  threads, "-q", "--device", device, "-o", f"{at}/fitted.json")
    figures = {"calibrate_seconds": seconds, "fit": compare_fits(*(os.path.join(kit.work, d, "fitted.json") for d in ("cpu", "cuda")))}
    try:
        import numpy  # noqa: F401
        _, output = kit.run(sys.executable, os.path.join(kit.home, "tests/gpu/compare.py"), os.path.join(kit.work, "cpu"), os.path.join(kit.work, "cuda"))
        figures["differences"] = dict(re.findall(r"^largest (.*): (\S+)$", output, re.M))
    except ImportError:
        figures["differences"] = compare_plainly(os.path.join(kit.work, "cpu"), os.path.join(kit.work, "cuda"))
    return figures


def compare_fits(reference, other):
    """Largest difference of a number of the two fitted schedules; more than 1e-2 of the largest is none of rounding."""
    tables = []
    for path in (reference, other):
        with open(path) as file:
            tables.append([[step.get(key, 0.0) for key in ("scale", "hold", "k", "m", "c", "d")] for step in json.load(file)["steps"]])
    largest = max(abs(v) for row in tables[0] for v in row)
    difference = max(abs(a - b) for mine, theirs in zip(*tables) for a, b in zip(mine, theirs))
    if not difference <= 0.01 * largest:
        raise Failure(f"fitted numbers differ by {difference:.3g}, the largest being {largest:.3g}")
    return {"largest_number": largest, "largest_difference": difference}


def compare_plainly(reference, other):
    """Without NumPy: end-to-end errors within 1 %."""
    errors = []
    for folder in (reference, other):
        with open(os.path.join(folder, "eval.json")) as file:
            errors.append({(e["run"], e["against"]): e["relative_error"]["mean"] for e in json.load(file)["errors"]})
    worst = max(abs(errors[1][key] / mean - 1) for key, mean in errors[0].items() if mean)
    if not worst <= 0.01:
        raise Failure(f"end-to-end errors differ by {100 * worst:.2g} %")
    return {"end-to-end error": f"{worst:.3g}", "spectra": "not compared: no NumPy"}


def memory(kit):
    """A device that is short of memory, at several sizes of what is left and in the middle of a run: one line that says so, and whatever
    state is kept, the same command goes on from it, once there is enough, to the same bytes."""
    model, schedule = tiny_model(kit) if kit.emulated else (kit.data("shapes-dit/model.safetensors"), kit.data("schedules/sparse.json"))
    steps = ("profile", "-m", model, "-s", schedule, "--device", "cuda", "--samples", "0:6" if kit.emulated else "0:16", "--micro-batch", "2", "--threads", "2",
             "--weights-plain", "--reproducible", "-q")
    whole = os.path.join(kit.work, "whole.oca")
    kit.ousac(*steps, "-o", whole)
    figures = {"refused": 0, "resumed": 0, "enough": 0}
    # Emulated, a thread's workspace is 32 MiB, and the tiny model's caches take little more.
    sizes = [1 << 20, 66304 << 10, 72 << 20] if kit.emulated else [(64 << i) << 20 for i in range(0, 6)]
    for leave in sizes:
        output = os.path.join(kit.work, "short.oca")
        with short_of_memory(kit, leave) as env:
            code, said = kit.ousac(*steps, "-o", output, env=env, expect=(0, 1))
        if code == 0:
            figures["enough"] += 1
        else:
            figures["refused"] += 1
            if len(said.splitlines()) != 1 or "memory" not in said:
                raise Failure(f"{leave} bytes left: expected one line about memory, not: {last_line(said)}")
            if os.path.exists(output):
                raise Failure(f"{leave} bytes left: refused, and yet it wrote its output")
            figures["resumed"] += os.path.exists(output + ".part")
            if os.path.exists(output + ".part"):
                kit.ousac("verify", output + ".part")
            kit.ousac(*steps, "-o", output)
        with open(whole, "rb") as mine, open(output, "rb") as theirs:
            if mine.read() != theirs.read():
                raise Failure(f"{leave} bytes left: the profile that was gone on with is another one")
        os.remove(output)
        if figures["enough"] == 2:
            break
    if figures["refused"] == 0:
        raise Failure("memory was never short: nothing was tried")
    figures["midway"] = "not tried: an emulated device belongs to one process" if kit.emulated else short_midway(kit, model, schedule)
    return figures


def short_midway(kit, model, schedule):
    """A calibration whose device is emptied once it has its profile, with factors and evaluations still to come. A recording cannot be
    brought to that: what it needs it has after its first samples."""
    calibrate = ("calibrate", "-m", model, "-s", schedule, "--samples", "8", "--validation", "2", "--test", "4", "--micro-batch", "2", "--threads", "2",
                 "--method", "uniform", "--forecast", "off", "--budget-step", "0.4", "--device", "cuda", "-q")
    whole, short = (os.path.join(kit.work, name) for name in ("midway.whole", "midway.short"))
    kit.ousac(*calibrate, "-o", whole)
    hog = subprocess.Popen([kit.build("tests/gpu/hog"), "cuda", "0", "wait"], env=kit.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=kit.log)
    try:
        if not hog.stdout.readline().startswith(b"open"):
            raise Failure("the device could not be opened to take its memory")

        def empty(process):
            while process.poll() is None and not os.path.exists(os.path.join(short, "profile.oca")):
                kit.left()
                time.sleep(0.002)
            hog.stdin.write(b"\n")
            hog.stdin.flush()
            hog.stdout.readline()

        code, said = kit.ousac(*calibrate, "-o", short, expect=(0, 1), meanwhile=empty)
    finally:
        hog.communicate()
    if code == 0:
        return "it had taken what it needed when the device was emptied"
    if len(said.splitlines()) != 1 or "memory" not in said:
        raise Failure(f"short of memory in the middle: expected one line about memory, not: {last_line(said)}")
    kept = sorted(name for name in os.listdir(short) if name.endswith((".oca", ".part")))
    if not any(name.startswith("profile.oca") for name in kept):
        raise Failure("short of memory in the middle: no profile is kept")
    kit.ousac(*calibrate, "-o", short)
    with open(os.path.join(whole, "bundle.oca"), "rb") as mine, open(os.path.join(short, "bundle.oca"), "rb") as theirs:
        if mine.read() != theirs.read():
            raise Failure("short of memory in the middle: the bundle that was gone on to is another one")
    return f"refused with {', '.join(kept)} kept, and gone on to the same bundle"


class short_of_memory:
    def __init__(self, kit, leave):
        self.kit, self.leave, self.process = kit, leave, None

    def __enter__(self):
        if self.kit.emulated:
            return {"OUSAC_EMULATED_BYTES": str(self.leave)}
        self.process = subprocess.Popen([self.kit.build("tests/gpu/hog"), "cuda", str(self.leave)], env=self.kit.env, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=self.kit.log)
        if not self.process.stdout.readline().startswith(b"ready"):
            raise Failure("the device's memory could not be taken")
        return {}

    def __exit__(self, *_):
        if self.process:
            self.process.communicate()


def bench(kit, name, parts, compute):
    output = os.path.join(kit.work, name + ".json")
    command = [sys.executable, os.path.join(kit.home, "tests/bench/bench_gpu.py"), "--build", os.path.join(kit.home, "build"), "--parts", parts,
               "--compute", compute, "--brief", "-o", output]
    if kit.emulated:
        command += ["--toy", "--eigen", kit.build("tests/bench/emulated_bench_eigen")]
    kit.run(*command)
    with open(output) as file:
        return json.load(file)


def speed(kit):
    """Rates, forwards full and corrected beside PyTorch's, recording, attention, eigenproblems; in bfloat16."""
    return bench(kit, "speed", "rates,forward,profile,attention,eigen", "bf16")


def blocks(kit):
    """Blocks of PixArt and FLUX, beside the rates measured with them; in bfloat16."""
    return bench(kit, "blocks", "rates,blocks", "bf16")


def factors(kit):
    return bench(kit, "factors", "factors", "f32")


def sanitizer(kit):
    """The operations under compute-sanitizer, the tools in the order of what they find; as many as there is time for."""
    program = shutil.which("compute-sanitizer")
    if kit.emulated or not program:
        raise NeedsDevice("compute-sanitizer runs on a device" if kit.emulated else "no compute-sanitizer on the path")
    figures = {}
    for tool in ("memcheck", "racecheck", "synccheck", "initcheck"):
        for name in SANITIZED:
            try:
                kit.run(program, "--tool", tool, "--error-exitcode", "9", "--leak-check", "no", "--target-processes", "all", kit.build("tests/unit/calib/test_backend_" + name))
            except OutOfTime:
                if not figures:
                    raise
                figures[tool] = {"operations": figures.get(tool, {}).get("operations", 0), "complete": False}
                return figures
            figures[tool] = {"operations": figures.get(tool, {}).get("operations", 0) + 1, "complete": name == SANITIZED[-1]}
    return figures


PARTS = {"facts": facts, "operations": operations, "pipeline": pipeline, "memory": memory, "speed": speed, "blocks": blocks,
         "factors": factors, "sanitizer": sanitizer}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kit", required=True)
    parser.add_argument("--emulated", action="store_true")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("out")
    args = parser.parse_args()
    chosen = args.parts.split(",")
    if set(chosen) - set(PARTS):
        parser.error(f"--parts: expected some of {','.join(PARTS)}")
    os.makedirs(args.out, exist_ok=True)
    if os.listdir(args.out):
        parser.error(f"{args.out}: not empty; expected a folder for the results of this run alone")
    with tempfile.TemporaryDirectory() as work:
        kit = Kit(args, work)
        for name in PARTS:
            if name in chosen:
                kit.part(name, PARTS[name])
        print(report.table(kit.result))
    statuses = [part["status"] for part in kit.result["parts"].values()]
    print(f"{statuses.count('passed')} passed, {statuses.count('failed') + statuses.count('timed out')} failed, "
          f"{statuses.count('needs a device')} need a device; {args.out}")
    sys.exit("failed" in statuses or "timed out" in statuses)


main()
