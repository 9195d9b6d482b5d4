"""The FLUX engine against diffusers' FluxTransformer2DModel with every parameter random, in float32: single forwards,
read off one step of the program (x' = x + (sigma' - sigma) v), and whole trajectories under
FlowMatchEulerDiscreteScheduler, its shift fixed or by resolution, with true guidance too, and told another guidance at every
step; under both namings.
"""
import json
import math
import os
import subprocess

from torch_support import OUSAC, Report, relative, require, sample, write_json

torch, diffusers, _ = require("torch", "diffusers", "safetensors")
from flux_support import HEIGHT, WIDTH, draw_inputs, small_flux, velocity, write_model  # noqa: E402

SCRATCH = os.environ["SCRATCH"]
STEPS = 6
TOLD = [6.0, 4.25, None, 3.5, 0.0, 1.5]  # None: the inputs'


def write_schedule(timesteps, scale=None, told=None):
    mode = {"mode": "cond"} if scale is None else {"mode": "cfg", "scale": scale}
    path = f"{SCRATCH}/schedule.json"
    steps = [{"timestep": t, **mode, "gate": "full"} for t in timesteps]
    for step, guidance in zip(steps, told or ()):
        step.update({} if guidance is None else {"guidance": guidance})
    write_json(path, {"format": "ousac-schedule", "version": 3 if told else 1, "name": "torch", "solver": "flow-euler",
                      "step_count": len(timesteps), "steps": steps})
    return path


def digest(path):
    done = subprocess.run([OUSAC, "inspect", "--json", path], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)["model"]["digest"]


def scheduler_of(dynamic):
    config = dict(shift=3.0, use_dynamic_shifting=dynamic, base_shift=0.5, max_shift=1.15, base_image_seq_len=256,
                  max_image_seq_len=4096)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**config)
    mu = 0.5 + (HEIGHT * WIDTH / 4 - 256) * 0.65 / 3840 if dynamic else None
    scheduler.set_timesteps(sigmas=[1 - i / STEPS for i in range(STEPS)], mu=mu)
    return scheduler


def trajectory(net, inputs, scheduler, scale=None, told=None):
    x = inputs["noise"].clone()
    for t, guidance in zip(scheduler.timesteps, told or [None] * STEPS):
        v = velocity(torch, net, inputs, x, t, told=guidance)
        if scale is not None:
            u = velocity(torch, net, inputs, x, t, negative=True, told=guidance)
            v = u + scale * (v - u)
        x = scheduler.step(v, t, x, return_dict=False)[0]
    return x.numpy()


def main():
    torch.set_num_threads(1)
    report = Report()
    conditions = f"{SCRATCH}/inputs.safetensors"
    for guided in (True, False):
        name = "dev" if guided else "schnell"
        net = small_flux(torch, diffusers, guided, seed=3 + guided)
        models = []
        for authors in (False, True):
            models.append(f"{SCRATCH}/{name}-{authors:d}")
            write_model(torch, net, models[-1], authors)
        report.holds(f"{name}: one digest under both namings",
                     len({digest(f"{model}/model.safetensors") for model in models}) == 1)
        inputs = draw_inputs(torch, conditions, guided, negative=True)
        for model in models:
            run = ("--model", f"{model}/model.safetensors", "--inputs", conditions, "--threads", "1")
            for t in (1000, 875.25, 400, 31.5):
                end = sample(*run, "--schedule", write_schedule([t]), count=2)
                v = (inputs["noise"].numpy() - end) * 1000 / t
                report.check(f"{os.path.basename(model)}: forward at {t}",
                             relative(v, velocity(torch, net, inputs, inputs["noise"], t).numpy()), 1e-4)
            for dynamic in (False, True):
                sigmas = [i / STEPS for i in range(STEPS, 0, -1)]
                shift = math.exp(0.5 + (HEIGHT * WIDTH / 4 - 256) * 0.65 / 3840) if dynamic else 3
                times = [1000 * shift * s / (1 + (shift - 1) * s) for s in sigmas]
                for scale in (None, 2.5):
                    got = sample(*run, "--schedule", write_schedule(times, scale), count=2)
                    report.check(f"{os.path.basename(model)}: {STEPS} steps, {'dynamic' if dynamic else 'static'} shift"
                                 f"{'' if scale is None else ', true guidance'}",
                                 relative(got, trajectory(net, inputs, scheduler_of(dynamic), scale)), 1e-4)
                    if not guided:
                        continue
                    told = write_schedule(times, scale, TOLD)
                    by_step = trajectory(net, inputs, scheduler_of(dynamic), scale, TOLD)
                    report.check(f"{os.path.basename(model)}: told by step{'' if scale is None else ', true guidance'}",
                                 relative(sample(*run, "--schedule", told, count=2), by_step), 1e-4)
                    report.holds("what it is told matters", relative(got, by_step) > 1e-3)
            if not guided:
                done = subprocess.run([OUSAC, "sample", *run, "--schedule", write_schedule(times, None, TOLD), "--samples", "2",
                                       "-o", f"{SCRATCH}/none.png"], capture_output=True, text=True)
                report.holds("schnell is told none", done.returncode == 2 and "step 0: guidance 6, but" in done.stderr)
    report.end()


if __name__ == "__main__":
    main()
