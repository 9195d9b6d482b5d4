"""What the comparisons with PyTorch and diffusers share: checkpoints, inputs and schedules as files, and `ousac sample`.

OUSAC names the program, OCA_LIBRARY the reader of archives (bindings/python/ousac/oca.py).
"""
import importlib
import json
import os
import subprocess
import sys

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../bindings/python/ousac"))
import oca  # noqa: E402

OUSAC = os.environ.get("OUSAC", "build/ousac")
SKIPPED = 77


def require(*names):
    """The modules, or a skip that says which is missing."""
    modules = []
    for name in names:
        try:
            modules.append(importlib.import_module(name))
        except ImportError:
            print(f"no Python with {name}")
            sys.exit(SKIPPED)
    return modules


def randomise(net, torch, seed):
    """Every parameter random: about 1 for the weights of norms, small for the rest, so that activations stay near 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in net.named_parameters():
            values = torch.randn(p.shape, generator=generator)
            fan_in = p[0].numel() if p.dim() > 1 else 16
            p.copy_(1 + values / 4 if p.dim() == 1 and "norm_" in name and name.endswith("weight") else
                    0.8 * values / fan_in ** 0.5)
    return net.eval()


def write_json(path, value):
    with open(path, "w") as file:
        json.dump(value, file)


def sample(*arguments, rows="exact", count=1):
    """Runs `ousac sample` on one sample or more; the raw samples of one row of the grid, as a NumPy array."""
    directory = os.environ["SCRATCH"]
    raw = os.path.join(directory, "raw.oca")
    command = [OUSAC, "sample", "-q", "--samples", f"0:{count}", "--micro-batch", str(count), "--rows", rows, "--raw", raw,
               "-o", os.path.join(directory, "raw.png"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr}")
    with oca.File(raw) as file:
        return file[f"samples/{rows}"].read("f32").copy()


def relative(ours, theirs):
    return float(((ours - theirs) ** 2).sum() ** 0.5 / (theirs ** 2).sum() ** 0.5)


class Report:
    """Counts comparisons, says each, and exits accordingly."""

    def __init__(self):
        self.passed = self.failed = 0

    def check(self, what, error, bound):
        good = error <= bound
        self.passed += good
        self.failed += not good
        print(f"{what}: {error:.2e}, at most {bound:.0e}{'' if good else ': FAILED'}")

    def holds(self, what, good):
        self.passed += bool(good)
        self.failed += not good
        print(f"{what}: {'yes' if good else 'FAILED'}")

    def end(self):
        print(f"{self.passed} passed, {self.failed} failed")
        sys.exit(self.failed > 0)
