"""ousac.calibrate: from a pipeline and a budget to a bundle."""
import json
import os

from .host import Host
from .library import Error
from .pipelines import adapter_for
from .schedule import BRANCHES, CONTINUED, Schedule


class Result:
    """Paths of what was made (bundle None where no factors pay: the schedule is all then), what was found, and the held-out
    evaluation."""

    def __init__(self, directory, found, evaluation):
        self.directory, self.found, self.evaluation = directory, found, evaluation
        self.schedule = os.path.join(directory, "schedule.json")
        self.bundle = os.path.join(directory, "bundle.oca") if found["cached"] else None

    def __repr__(self):
        if self.bundle is None:
            schedule = Schedule.load(self.schedule)
            if any(gate in CONTINUED for branch in BRANCHES for gate in schedule.gates(branch)):
                return "<ousac.Result: no factors pay at this budget; %s: %d steps, to be run as its gates say>" % (
                    self.schedule, self.found["steps"])
            return "<ousac.Result: no cache pays at this budget; %s: %d steps, uncached>" % (self.schedule, self.found["steps"])
        e = self.evaluation
        return "<ousac.Result %s: %d steps at %.1f %% of the reference's MACs, relative error %.4f against it>" % (
            self.bundle, self.found["steps"], 100 * e["macs_share"], e["against_reference"]["mean"])


def calibrate(pipe, inputs=None, reference=None, budget_total=None, out="calibration", schedule=None, effort="auto", samples=None,
              validation=None, test=8, seed=0, micro_batch=4, threads=0, sites=None, progress=None, note=None,
              budget_time=None, time=None):
    """Searches for a schedule within `budget_total` of the reference's MACs, or `budget_time` of its time, calibrates it,
    and evaluates the bundle on `test` samples that nothing else has used. The same steps and files as `ousac calibrate`.

    `pipe`: a pipeline of diffusers, or an ousac.Host. `inputs`: what samples are conditioned on: class labels of a
    DiTPipeline, prompts of the others, or a dict of what they were encoded to (docs/PYTORCH.md); for a Host the path of
    an inputs file, or None. `reference`: what is run today, {"steps": N, "guidance_scale": W}, for FLUX with
    "true_cfg_scale" too; for a Host a schedule file, which the others may have too. With `schedule`, a file, nothing is
    searched for, and `budget_total` is of constant guidance. Under `budget_time` evaluations are timed first, into
    time.json, unless `time` names such a file. Returns an ousac.Result."""
    if not reference or (budget_total is None) == (budget_time is None):
        raise ValueError("expected `reference`, and one of `budget_total` and `budget_time`")
    if budget_time is not None and schedule:
        raise ValueError("budget_time: of a search; expected no `schedule`")
    if time is not None and budget_time is None:
        raise ValueError("time: expected `budget_time` with it")
    told = isinstance(reference, dict)
    if told and "steps" not in reference:
        raise ValueError('reference: expected {"steps": N, "guidance_scale": W} or a schedule file')
    os.makedirs(out, exist_ok=True)
    if isinstance(pipe, Host):
        if told:
            raise ValueError("reference: a hosted model needs a schedule file")
        host, file = pipe, inputs
    else:
        adapter = adapter_for(pipe, inputs, reference if told else None)
        host, file = adapter.host(sites), os.path.join(out, "inputs.safetensors")
        adapter.save(file)
        if told:
            data = adapter.schedule(int(reference["steps"]))
            Schedule(data)
            reference = os.path.join(out, "reference.json")
            with open(reference, "w", encoding="utf-8") as target:
                json.dump(data, target, indent=1)
    with host.open(inputs=file, seed=seed, micro_batch=micro_batch, threads=threads, progress=progress, note=note) as context:
        found = context.calibrate(out, reference=None if schedule else reference, schedule=schedule, budget_total=budget_total,
                                  effort=effort, samples=samples, validation=validation, budget_time=budget_time, time=time)
        evaluation = None
        if found["cached"] and test:
            evaluation = context.evaluate(os.path.join(out, "bundle.oca"), found["next_sample"], test, reference)
    return Result(out, found, evaluation)
