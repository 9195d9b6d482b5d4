"""Schedules, noise levels and solvers: formats/SCHEDULE.md in Python. Needs nothing but Python."""
import hashlib
import json
import math
import struct

from .library import Error

FULL, CACHED, REUSE, EXTRAPOLATE = "full", "cached", "reuse", "extrapolate"
GATES = (FULL, CACHED, REUSE, EXTRAPOLATE)
CONTINUED = (REUSE, EXTRAPOLATE)  # no module computes; both need no bundle
BRANCHES = ("cond", "uncond")
COEFFICIENTS = ("hold", "k", "m", "c", "d")
SOLVERS = ("ddim", "dpmpp-2m", "flow-euler")


class Step:
    """One denoising step: timestep, mode ("cfg", "cond", "uncond"), scale, gate (by branch), guidance that the model is
    told, None where the schedule states none, and the five fitted coefficients, 0 where it has none."""

    __slots__ = ("timestep", "mode", "scale", "gate", "guidance") + COEFFICIENTS

    def evaluates(self, branch):
        return self.mode in ("cfg", branch)


class Schedule:
    """A schedule file, its text, or the object that it holds."""

    def __init__(self, source, where="schedule"):
        data = source
        if isinstance(source, str):
            try:
                data = json.loads(source)
            except ValueError as error:
                raise Error("%s: not a schedule: %s" % (where, error), "FORMAT") from None
        if not isinstance(data, dict) or data.get("format") != "ousac-schedule":
            raise Error('%s: not a schedule: expected "format": "ousac-schedule"' % where, "FORMAT")
        version = data.get("version")
        if version not in (1, 2, 3, 4):
            raise Error("%s: version %r; this reader knows 1 to 4" % (where, version), "FORMAT")
        try:
            self.name, self.solver = data["name"], data["solver"]
            self.steps = [self._step(step) for step in data["steps"]]
        except (KeyError, TypeError, ValueError) as error:
            raise Error("%s: a step or key is missing or of another kind: %s" % (where, error), "FORMAT") from None
        for i, step in enumerate(self.steps):
            if version < 4 and EXTRAPOLATE in step.gate.values():
                raise Error("%s: step %d: a gate %r needs version 4" % (where, i, EXTRAPOLATE), "FORMAT")
        if self.solver not in SOLVERS:
            raise Error("%s: solver %r; expected one of %s" % (where, self.solver, ", ".join(SOLVERS)), "FORMAT")
        if not self.steps or len(self.steps) != data.get("step_count"):
            raise Error("%s: %d steps, but step_count %r" % (where, len(self.steps), data.get("step_count")), "FORMAT")
        times = self.timesteps
        if any(a <= b for a, b in zip(times, times[1:])) or times[-1] < 0 or not math.isfinite(times[0]):
            raise Error("%s: timesteps must fall and be 0 or more" % where, "FORMAT")
        self.data = data

    @staticmethod
    def _step(data):
        step = Step()
        step.timestep, step.mode = float(data["timestep"]), data["mode"]
        if step.mode not in ("cfg", "cond", "uncond"):
            raise TypeError("mode %r" % (step.mode,))
        step.scale = float(data["scale"]) if step.mode == "cfg" else 1.0
        gate = data["gate"]
        step.gate = dict(gate) if isinstance(gate, dict) else {branch: gate for branch in BRANCHES}
        if set(step.gate) != set(BRANCHES) or not set(step.gate.values()) <= set(GATES):
            raise TypeError("gate %r" % (gate,))
        step.guidance = float(data["guidance"]) if "guidance" in data else None
        if step.guidance is not None and not math.isfinite(step.guidance):
            raise TypeError("guidance %r" % (step.guidance,))
        for key in COEFFICIENTS:
            setattr(step, key, float(data.get(key, 0)))
        return step

    @classmethod
    def load(cls, path):
        with open(path, encoding="utf-8") as file:
            return cls(file.read(), str(path))

    @property
    def timesteps(self):
        return [step.timestep for step in self.steps]

    @property
    def fitted(self):
        """Whether the solver's own steps are not the textbook's."""
        return any(getattr(step, key) != 0 for step in self.steps for key in ("k", "m", "c", "d"))

    @property
    def tells(self):
        """Whether a step states what the model is told."""
        return any(step.guidance is not None for step in self.steps)

    def gates(self, branch):
        """Per step the effective gate, None where the branch is not evaluated."""
        gates, fulls = [], 0
        for step in self.steps:
            gate = None
            if step.evaluates(branch):
                gate = step.gate[branch] if fulls else FULL
                gate = REUSE if gate == EXTRAPOLATE and fulls < 2 else gate
            fulls += gate == FULL
            gates.append(gate)
        return gates

    def nearest(self, timestep):
        """Index of the step at a timestep, which a pipeline may have rounded; -1 where none is near."""
        times = self.timesteps
        index = min(range(len(times)), key=lambda i: abs(times[i] - timestep))
        gaps = [a - b for a, b in zip(times, times[1:])]
        return index if abs(times[index] - timestep) < (min(gaps) / 2 if gaps else 0.5) else -1

    def digest(self):
        def bits(value):
            return struct.pack(">d", value + 0.0).hex()

        tells = self.tells
        keys = COEFFICIENTS if tells or any(getattr(s, key) != 0 for s in self.steps for key in COEFFICIENTS) else ()
        lines = ["ousac-schedule/%d" % (3 if tells else 2 if keys else 1), "solver=" + self.solver, "steps=%d" % len(self.steps)]
        for step in self.steps:
            gates = [step.gate[branch] if step.evaluates(branch) else "-" for branch in BRANCHES]
            lines.append(" ".join([bits(step.timestep), step.mode, bits(step.scale)] + gates
                                  + [bits(getattr(step, key)) for key in keys]
                                  + (["-" if step.guidance is None else bits(step.guidance)] if tells else [])))
        return hashlib.sha256(("\n".join(lines) + "\n").encode()).hexdigest()


class Noise:
    """How much data and noise a state holds at a timestep (docs/MODELS.md, "Noise levels")."""

    def __init__(self, kind, first=0.0, last=0.0, steps=1000, prediction="epsilon"):
        self.kind, self.steps = kind, int(steps)
        self.prediction = {"v_prediction": "v", "flow_prediction": "flow"}.get(prediction, prediction)
        self.bar = []
        if kind not in ("flow", "linear", "scaled_linear"):
            raise Error("noise levels %r; expected linear, scaled_linear or flow" % kind, "UNSUPPORTED")
        if kind == "flow":
            return
        in_root = kind == "scaled_linear"
        low, high = (math.sqrt(first), math.sqrt(last)) if in_root else (first, last)
        product = 1.0
        for t in range(self.steps):
            beta = low + (high - low) * float(t) / float(self.steps - 1) if self.steps > 1 else low
            product *= 1 - (beta * beta if in_root else beta)
            self.bar.append(product)

    @classmethod
    def of_scheduler(cls, config):
        """Of the config of a scheduler of diffusers."""
        if config.get("trained_betas") is not None or config.get("rescale_betas_zero_snr"):
            raise Error("a scheduler with trained_betas or rescale_betas_zero_snr has other noise levels", "UNSUPPORTED")
        if "beta_schedule" not in config or config.get("use_flow_sigmas"):
            return cls("flow", steps=config.get("num_train_timesteps", 1000), prediction="flow")
        return cls(config["beta_schedule"], config["beta_start"], config["beta_end"], config["num_train_timesteps"],
                   config.get("prediction_type", "epsilon"))

    def word(self):
        """What `model_process` says of the levels."""
        if self.kind == "flow":
            return "flow/%d" % self.steps
        table = struct.pack("<%dd" % self.steps, *self.bar)
        return "diffusion/%d/%s" % (self.steps, hashlib.sha256(table).hexdigest()[:16])

    def level(self, timestep):
        """(alpha^2, sigma^2)"""
        if not 0 <= timestep <= (self.steps if self.kind == "flow" else self.steps - 1):
            raise Error("timestep %g: the model has %d" % (timestep, self.steps), "USAGE")
        if self.kind == "flow":
            sigma = timestep / self.steps
            return (1 - sigma) ** 2, sigma ** 2
        whole = int(timestep)
        part, bar = timestep - whole, self.bar[whole]
        if part > 0:
            bar = math.exp((1 - part) * math.log(bar) + part * math.log(self.bar[whole + 1]))
        return bar, 1 - bar


def _implied(prediction, alpha2, sigma2):
    """Data and noise as combinations of state and prediction: (data_x, data_p, noise_x, noise_p)."""
    alpha, sigma = math.sqrt(alpha2), math.sqrt(sigma2)
    if prediction == "epsilon":
        return 1 / alpha, -sigma / alpha, 0.0, 1.0
    if prediction == "v":
        return alpha, -sigma, sigma, alpha
    if prediction == "flow":
        return 1.0, -sigma, 1.0, alpha
    return 0.0, 1.0, 1 / sigma, -alpha / sigma


def solver_steps(schedule, noise):
    """Per step (a, b, g, data_x, data_p): x' = a x + b e + g D_before, D = data_x x + data_p e."""
    levels = [noise.level(t) for t in schedule.timesteps] + [(1.0, 0.0)]
    steps, h_before = [], 0.0
    for (alpha2, sigma2), (next_alpha2, next_sigma2) in zip(levels, levels[1:]):
        data_x, data_p, noise_x, noise_p = _implied(noise.prediction, alpha2, sigma2)
        alpha, sigma = math.sqrt(next_alpha2), math.sqrt(next_sigma2)
        h = (0.5 * (math.log(next_alpha2 / next_sigma2) - math.log(alpha2 / sigma2))
             if next_sigma2 > 0 and alpha2 > 0 and next_alpha2 > 0 else math.inf)
        before = 0.0
        if schedule.solver == "flow-euler":
            by = sigma - math.sqrt(sigma2)
            a, b = 1 + by * (noise_x - data_x), by * (noise_p - data_p)
        elif schedule.solver == "ddim" or h_before == 0 or not math.isfinite(h):
            a, b = alpha * data_x + sigma * noise_x, alpha * data_p + sigma * noise_p
        else:
            ratio = math.sqrt(next_sigma2 / sigma2)
            k, g = alpha - math.sqrt(alpha2) * ratio, h / (2 * h_before)
            a, b, before = ratio + k * (1 + g) * data_x, k * (1 + g) * data_p, -k * g
        steps.append((a, b, before, data_x, data_p))
        h_before = h if math.isfinite(h) else 0.0
    return steps
