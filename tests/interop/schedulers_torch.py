"""`ousac schedule --from` against the schedulers of diffusers: whole trajectories of a small DiT, of a small FLUX for
flows, under the scheduler itself and under the schedule that is written of its config; options that no schedule can say
are refused by name; the spacings of `ousac schedule` are those of the schedulers.
"""
import json
import os
import subprocess

from torch_support import OUSAC, Report, randomise, relative, require, sample, write_json

torch, diffusers, _ = require("torch", "diffusers", "safetensors")
from safetensors.torch import save_file  # noqa: E402

from flux_support import HEIGHT, WIDTH, draw_inputs, small_flux, velocity, write_model  # noqa: E402

SCRATCH = os.environ["SCRATCH"]
BETAS = {"linear": dict(beta_schedule="linear", beta_start=1e-4, beta_end=0.02),
         "scaled": dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)}
SIZES = dict(num_attention_heads=2, attention_head_dim=12, in_channels=3, out_channels=3, num_layers=2, sample_size=8,
             patch_size=2, num_embeds_ada_norm=5)


def small_dit():
    """As the class makes it: an embedder of its own in every block."""
    return randomise(diffusers.DiTTransformer2DModel(**SIZES), torch, 5)


def write_dit(net, betas, prediction):
    directory = f"{SCRATCH}/dit-{betas}-{prediction}"
    if not os.path.isdir(directory):
        os.mkdir(directory)
        save_file({name: value.clone() for name, value in net.state_dict().items()}, f"{directory}/model.safetensors")
        write_json(f"{directory}/config.json", {"_class_name": "DiTTransformer2DModel", **SIZES, "norm_eps": 1e-5,
                                                **BETAS[betas], "prediction_type": prediction})
    return directory


def schedule_command(config, steps, *more):
    return subprocess.run([OUSAC, "schedule", "--from", config, "--steps", str(steps), "--uncached", "-o",
                           f"{SCRATCH}/schedule.json", "--json", *more], capture_output=True, text=True)


def saved(scheduler):
    scheduler.save_pretrained(SCRATCH)
    return f"{SCRATCH}/scheduler_config.json"


def compare(report, dit, cls, steps, betas="linear", prediction="epsilon", bound=1e-5, guided=False, **options):
    scheduler = getattr(diffusers, cls)(**BETAS[betas], prediction_type=prediction, **options)
    done = schedule_command(saved(scheduler), steps, *(("--scale", "1.75") if guided else ("--cfg", "none")))
    what = f"{cls}, {steps} steps, {betas}, {prediction}, {options}"
    if done.returncode:
        return report.holds(f"{what}: {done.stderr}{done.stdout}", False)
    start = json.loads(done.stdout)["from"]["start"]
    noise = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(steps))
    scheduler.set_timesteps(steps)
    x = noise * scheduler.init_noise_sigma
    save_file({"noise": noise * start, "label": torch.tensor([3])}, f"{SCRATCH}/inputs.safetensors")
    with torch.no_grad():
        for t in scheduler.timesteps:
            net_in = scheduler.scale_model_input(x, t)
            out = dit(net_in, timestep=t[None], class_labels=torch.tensor([3])).sample
            if guided:
                uncond = dit(net_in, timestep=t[None], class_labels=torch.tensor([5])).sample
                out = uncond + 1.75 * (out - uncond)
            x = scheduler.step(out, t, x, return_dict=False)[0]
    got = sample("--model", f"{write_dit(dit, betas, prediction)}/model.safetensors", "--inputs",
                 f"{SCRATCH}/inputs.safetensors", "--schedule", f"{SCRATCH}/schedule.json", "--threads", "1")
    report.check(what, relative(got, x.numpy()), bound)


def compare_flow(report, flux, steps, own, **options):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**options)
    dynamic = options.get("use_dynamic_shifting")
    done = schedule_command(saved(scheduler), steps, "--cfg", "none", "--sigmas", "scheduler" if own else "flux",
                            *(("--size", f"{HEIGHT * 8}x{WIDTH * 8}") if dynamic else ()))
    what = f"FlowMatchEulerDiscreteScheduler, {steps} steps, {'own' if own else 'the pipeline'}'s levels, {options}"
    if done.returncode:
        return report.holds(f"{what}: {done.stderr}{done.stdout}", False)
    mu = None
    if dynamic:  # pipeline_flux.calculate_shift
        config = scheduler.config
        slope = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
        mu = HEIGHT * WIDTH // 4 * slope + config.base_shift - slope * config.base_image_seq_len
    scheduler.set_timesteps(**(dict(num_inference_steps=steps) if own else
                               dict(sigmas=[1 - i / steps for i in range(steps)])), mu=mu)
    inputs = draw_inputs(torch, f"{SCRATCH}/inputs.safetensors", False, samples=1)
    x = inputs["noise"].clone()
    for t in scheduler.timesteps:
        x = scheduler.step(velocity(torch, flux, inputs, x, t), t, x, return_dict=False)[0]
    got = sample("--model", f"{SCRATCH}/flux/model.safetensors", "--inputs", f"{SCRATCH}/inputs.safetensors",
                 "--schedule", f"{SCRATCH}/schedule.json", "--threads", "1")
    report.check(what, relative(got, x.numpy()), 1e-5)


def refuse(report, cls, steps, key, *more, **options):
    config = saved(getattr(diffusers, cls)())
    with open(config) as file:
        text = json.load(file)
    text.update({**({"clip_sample": False} if cls == "DDIMScheduler" else {}), **options})
    write_json(config, text)
    done = schedule_command(config, steps, "--cfg", "none", *more)
    report.holds(f"{cls}: {options} is refused, naming {key}",
                 done.returncode not in (0, 1) and key in done.stdout + done.stderr)


def spacing(report, cls, solver, steps, name):
    scheduler = getattr(diffusers, cls)(timestep_spacing=name)
    scheduler.set_timesteps(steps)
    path = f"{SCRATCH}/spacing.json"
    subprocess.run([OUSAC, "schedule", "-q", "--steps", str(steps), "--solver", solver, "--spacing", name, "--cfg", "none",
                    "--uncached", "-o", path], check=True)
    with open(path) as file:
        ours = [step["timestep"] for step in json.load(file)["steps"]]
    report.holds(f"--solver {solver} --spacing {name}, {steps} steps: the timesteps of {cls}",
                 ours == scheduler.timesteps.tolist())


def main():
    torch.set_num_threads(1)
    report, dit = Report(), small_dit()
    ddim, dpm, euler = "DDIMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler"
    for betas in BETAS:
        for prediction in ("epsilon", "v_prediction", "sample"):
            compare(report, dit, ddim, 7, betas, prediction, clip_sample=False)
            compare(report, dit, dpm, 9, betas, prediction)
            compare(report, dit, euler, 6, betas, prediction)
    for name in ("linspace", "leading", "trailing"):
        for steps in (1, 4, 17):
            compare(report, dit, ddim, steps, clip_sample=False, timestep_spacing=name)
            compare(report, dit, dpm, steps, timestep_spacing=name)
            # One step of linspace is at timestep 0, where float32 leaves 4 digits of diffusers' sigma.
            alone = steps == 1 and name == "linspace"
            compare(report, dit, euler, steps, timestep_spacing=name, bound=1e-3 if alone else 1e-5)
        for steps in (3, 10, 28, 30, 31, 50, 333, 999):
            spacing(report, ddim, "ddim", steps, name)
            spacing(report, dpm, "dpmpp-2m", steps, name)
    compare(report, dit, ddim, 8, "scaled", clip_sample=False, steps_offset=1, set_alpha_to_one=False)
    compare(report, dit, ddim, 8, "scaled", clip_sample=False, timestep_spacing="trailing", set_alpha_to_one=False,
            guided=True)
    compare(report, dit, dpm, 8, "scaled", solver_order=1, timestep_spacing="leading", steps_offset=1)
    compare(report, dit, dpm, 8, final_sigmas_type="sigma_min", guided=True)
    compare(report, dit, dpm, 20, final_sigmas_type="sigma_min", euler_at_final=True)
    compare(report, dit, dpm, 20, "scaled", lower_order_final=False)
    compare(report, dit, dpm, 5, solver_order=1, final_sigmas_type="sigma_min", lower_order_final=False)
    compare(report, dit, euler, 8, "scaled", timestep_spacing="leading", steps_offset=1, guided=True)
    compare(report, dit, euler, 8, final_sigmas_type="sigma_min")
    compare(report, dit, euler, 8, "scaled", "v_prediction", timestep_spacing="trailing", final_sigmas_type="sigma_min")

    flux = small_flux(torch, diffusers, False, seed=8)
    write_model(torch, flux, f"{SCRATCH}/flux")
    for own in (False, True):
        for options in ({}, {"shift": 3.0}, {"use_dynamic_shifting": True},
                        {"use_dynamic_shifting": True, "time_shift_type": "linear"},
                        {"use_dynamic_shifting": True, "base_shift": 0.3, "max_shift": 2.0, "base_image_seq_len": 16,
                         "max_image_seq_len": 64}):
            for steps in (1, 4, 9):
                compare_flow(report, flux, steps, own, **options)

    for cls, key, options in ((ddim, "clip_sample", {"clip_sample": True}), (ddim, "thresholding", {"thresholding": True}),
                              (ddim, "rescale_betas_zero_snr", {"rescale_betas_zero_snr": True}),
                              (ddim, "beta_schedule", {"beta_schedule": "squaredcos_cap_v2"}),
                              (ddim, "trained_betas", {"trained_betas": [0.1, 0.2]}),
                              (ddim, "timestep_spacing", {"timestep_spacing": "other"}),
                              (ddim, "_class_name", {"_class_name": "UniPCMultistepScheduler"}),
                              (ddim, "steps_offset", {"steps_offset": 900}),
                              (dpm, "use_karras_sigmas", {"use_karras_sigmas": True}),
                              (dpm, "use_exponential_sigmas", {"use_exponential_sigmas": True}),
                              (dpm, "use_beta_sigmas", {"use_beta_sigmas": True}),
                              (dpm, "use_lu_lambdas", {"use_lu_lambdas": True}),
                              (dpm, "use_flow_sigmas", {"use_flow_sigmas": True}),
                              (dpm, "thresholding", {"thresholding": True}),
                              (dpm, "algorithm_type", {"algorithm_type": "sde-dpmsolver++"}),
                              (dpm, "solver_type", {"solver_type": "heun"}), (dpm, "solver_order", {"solver_order": 3}),
                              (dpm, "final_sigmas_type", {"final_sigmas_type": "sigma_min"}),
                              (dpm, "lambda_min_clipped", {"lambda_min_clipped": -5.1}),
                              (euler, "use_karras_sigmas", {"use_karras_sigmas": True}),
                              (euler, "interpolation_type", {"interpolation_type": "log_linear"}),
                              (euler, "timestep_type", {"timestep_type": "continuous"}),
                              (euler, "sigma_max", {"sigma_max": 80.0})):
        refuse(report, cls, 16, key, **options)
    flow = "FlowMatchEulerDiscreteScheduler"
    for key, options in (("shift_terminal", {"shift_terminal": 0.1}), ("invert_sigmas", {"invert_sigmas": True}),
                         ("stochastic_sampling", {"stochastic_sampling": True}),
                         ("use_karras_sigmas", {"use_karras_sigmas": True}),
                         ("use_dynamic_shifting", {"use_dynamic_shifting": True})):
        refuse(report, flow, 16, key, **options)
    refuse(report, flow, 16, "--size", "--size", "1024x1024")
    report.end()


if __name__ == "__main__":
    main()
