"""PixArt models with every parameter random, and the shipped one, run by diffusers and by ousac.

    pixart_torch.py --ousac build/ousac --forward build/tests/interop/inputs_forward --shipped data/shapes-pixart

Compares, in float32, what diffusers' PixArtTransformer2DModel predicts with what ousac does, for both branches, and of
the random models the final states of whole trajectories under classifier-free guidance, of PixArtAlphaPipeline where it
can run them, with diffusers' DDIM and DPM-Solver++ schedulers. Exit status 77: skipped, PyTorch or diffusers is not installed.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../bindings/python/ousac"))

try:
    import torch
    from diffusers import (DDIMScheduler, DPMSolverMultistepScheduler, PixArtAlphaPipeline,
                           PixArtTransformer2DModel)
    from safetensors.torch import load_file, save_file
except ImportError as missing:
    print(f"pixart_torch.py: skipped: {missing}")
    sys.exit(77)
import oca

LIMIT = 1e-4
SCALE, STEPS = 4.5, 8
SMALL = dict(num_attention_heads=4, attention_head_dim=12, num_layers=3, cross_attention_dim=48, caption_channels=20)
# name, sizes, rows of the inputs, tokens of a caption, ousac's "caption_tokens" or None for its default, trajectories
MODELS = [
    ("alpha", dict(SMALL, sample_size=16), 3, 120, None, True),
    ("alpha-micro", dict(SMALL, sample_size=16, use_additional_conditions=True), 4, 9, 9, True),
    ("sigma", dict(SMALL, sample_size=32, use_additional_conditions=False, interpolation_scale=2), 2, 300, None, True),
    # conditions and interpolation by diffusers' own rules for a size of 128, which are alpha's at 1024 pixels
    ("alpha-1024", dict(SMALL, sample_size=128, num_layers=1), 2, 7, 7, False),
    # not square, positions stretched and squeezed, and told so by default
    ("wide", dict(SMALL, sample_size=16, sample_height=12, sample_width=20, use_additional_conditions=True), 2, 9, 9, True),
    # without variances; patches of 4; another epsilon
    ("no-variance", dict(SMALL, sample_size=16, patch_size=4, in_channels=3, out_channels=3, norm_eps=1e-3), 3, 5, 5,
     True),
]


def randomise(net):
    with torch.no_grad():
        for parameter in net.parameters():
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 0
            parameter.normal_(0, 0.2 if fan_in == 0 else fan_in ** -0.5)
        for name, parameter in net.named_parameters():
            if name.endswith("scale_shift_table"):
                parameter.normal_(0, 0.5)


def write_model(directory, net, class_name, tokens):
    os.makedirs(directory, exist_ok=True)
    config = {key: value for key, value in dict(net.config).items() if not key.startswith("_")}
    config["_class_name"] = class_name
    if tokens:
        config["caption_tokens"] = tokens
    if net.latent != [net.config.sample_size] * 2:
        config["sample_height"], config["sample_width"] = net.latent
    with open(f"{directory}/config.json", "w") as file:
        json.dump(config, file)
    save_file({name: tensor.contiguous() for name, tensor in net.state_dict().items()},
              f"{directory}/diffusion_pytorch_model.safetensors", metadata={"format": "pt"})


def make_inputs(net, rows, tokens, micro):
    """Captions of different length, of one word only and of all; noise; sizes where the model is told them."""
    config = net.config
    mask = torch.zeros(rows, tokens)
    negative = torch.zeros(rows, tokens)
    for i in range(rows):
        mask[i, :[1, tokens, tokens // 2, 2][i % 4]] = 1
        negative[i, :[2, 1, tokens, 3][i % 4]] = 1
    inputs = {"prompt_embeds": torch.randn(rows, tokens, config.caption_channels), "prompt_mask": mask,
              "negative_prompt_embeds": torch.randn(rows, tokens, config.caption_channels),
              "negative_prompt_mask": negative,
              "noise": torch.randn(rows, config.in_channels, *net.latent)}
    if micro == "given":
        inputs["resolution"] = torch.tensor([[1024.0, 1024], [512, 1024], [640, 320], [2048, 16]])[:rows]
        inputs["aspect_ratio"] = inputs["resolution"][:, :1] / inputs["resolution"][:, 1:]
    return inputs


def predict(net, inputs, x, t, branch):
    prefix = ["", "negative_"][branch]
    rows, (height, width) = len(x), x.shape[2:]
    sizes = {"resolution": inputs.get("resolution", torch.tensor([[8.0 * height, 8.0 * width]] * rows)),
             "aspect_ratio": inputs.get("aspect_ratio", torch.full((rows, 1), height / width))}
    told = net.use_additional_conditions
    out = net(x, inputs[prefix + "prompt_embeds"], t, sizes if told else {"resolution": None, "aspect_ratio": None},
              encoder_attention_mask=inputs[prefix + "prompt_mask"], return_dict=False)[0]
    return out[:, :net.config.in_channels]


def relative(a, b):
    """The worst of the samples'."""
    return max(((u - v).norm() / v.norm()).item() for u, v in zip(a.double(), b.double()))


def check_forward(work, model, net, inputs, program):
    rows = len(inputs["noise"])
    t = torch.tensor([999.0, 0.0, 421.0, 37.0])[:rows]
    inputs["noise"].numpy().tofile(f"{work}/x.f32")
    t.numpy().tofile(f"{work}/t.f32")
    subprocess.run([program, f"{model}/diffusion_pytorch_model.safetensors", f"{work}/inputs.safetensors",
                    f"{work}/x.f32", f"{work}/t.f32", f"{work}/out.f32"], check=True)
    ours = torch.frombuffer(bytearray(open(f"{work}/out.f32", "rb").read()), dtype=torch.float32)
    ours = ours.reshape(2, *inputs["noise"].shape)
    theirs = [predict(net, inputs, inputs["noise"], t, branch) for branch in (0, 1)]
    return max(relative(ours[branch], theirs[branch]) for branch in (0, 1))


def run_pipeline(net, scheduler, inputs, steps):
    """diffusers' own pipeline on embeddings and noise."""
    pipeline = PixArtAlphaPipeline(tokenizer=None, text_encoder=None, vae=None, transformer=net, scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    height, width = (8 * size for size in net.latent)
    return pipeline(prompt=None, negative_prompt=None, prompt_embeds=inputs["prompt_embeds"],
                    prompt_attention_mask=inputs["prompt_mask"],
                    negative_prompt_embeds=inputs["negative_prompt_embeds"],
                    negative_prompt_attention_mask=inputs["negative_prompt_mask"], latents=inputs["noise"],
                    num_inference_steps=steps, guidance_scale=SCALE, height=height, width=width,
                    use_resolution_binning=False, output_type="latent").images


def run_loop(net, scheduler, inputs):
    """The same of a small model that is told sizes, which the pipeline tells those of 1024 pixels alone."""
    x = inputs["noise"] * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        cond, uncond = (predict(net, inputs, x, t.expand(len(x)), branch) for branch in (0, 1))
        x = scheduler.step(uncond + SCALE * (cond - uncond), t, x, return_dict=False)[0]
    return x


def check_trajectory(work, model, net, inputs, solver, program):
    if solver == "ddim":
        scheduler = DDIMScheduler(clip_sample=False, timestep_spacing="leading")
    else:
        scheduler = DPMSolverMultistepScheduler()
    scheduler.set_timesteps(STEPS)
    steps = [{"timestep": int(t), "mode": "cfg", "scale": SCALE, "gate": "full"} for t in scheduler.timesteps]
    with open(f"{work}/schedule.json", "w") as file:
        json.dump({"format": "ousac-schedule", "version": 1, "name": solver, "solver": solver,
                   "step_count": len(steps), "steps": steps}, file)
    rows = len(inputs["noise"])
    subprocess.run([program, "sample", "--model", f"{model}/diffusion_pytorch_model.safetensors", "--schedule",
                    f"{work}/schedule.json", "--inputs", f"{work}/inputs.safetensors", "--samples", f"0:{rows}",
                    "--rows", "exact", "--raw", f"{work}/out.oca", "-o", f"{work}/out.png", "-q"], check=True,
                   stdout=subprocess.DEVNULL)
    with oca.File(f"{work}/out.oca") as file:
        ours = torch.tensor(file["samples/exact"].read("f32"))
    x = (run_loop(net, scheduler, inputs) if net.use_additional_conditions
         else run_pipeline(net, scheduler, inputs, STEPS))
    return relative(ours.reshape(x.shape), x)


def shipped(directory, work, program):
    """The shipped model on the first four of its captions."""
    with open(f"{directory}/config.json") as file:
        config = {key: value for key, value in json.load(file).items() if not key.startswith("_")}
    known = {key: config[key] for key in config if key not in ("betas", "prediction", "data_range", "caption_tokens")}
    net = PixArtTransformer2DModel(**known).eval()
    net.load_state_dict({name: tensor.float() for name, tensor in
                         load_file(f"{directory}/diffusion_pytorch_model.safetensors").items()})
    inputs = {name: tensor[:4].float() for name, tensor in load_file(f"{directory}/inputs.safetensors").items()}
    inputs["noise"] = torch.randn(4, net.config.in_channels, net.config.sample_size, net.config.sample_size)
    save_file({name: tensor.contiguous() for name, tensor in inputs.items()}, f"{work}/inputs.safetensors")
    return check_forward(work, directory, net, inputs, program)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ousac", required=True)
    parser.add_argument("--forward", required=True)
    parser.add_argument("--shipped", required=True)
    parser.add_argument("--work")
    args = parser.parse_args()
    torch.set_num_threads(1)
    failed = passed = 0

    def judge(what, error):
        nonlocal failed, passed
        print(f"{what}: relative error {error:.2e}")
        if error <= LIMIT:
            passed += 1
        else:
            failed += 1
            print(f"FAILED  {what}: expected at most {LIMIT}")

    with tempfile.TemporaryDirectory(dir=args.work) as work, torch.no_grad():
        for i, (name, sizes, rows, tokens, stated, trajectories) in enumerate(MODELS):
            torch.manual_seed(i)
            latent = [sizes.pop(key, sizes["sample_size"]) for key in ("sample_height", "sample_width")]
            net = PixArtTransformer2DModel(**sizes).eval()
            net.latent = latent  # height and width of the samples, which diffusers' class takes from its input
            randomise(net)
            model = f"{work}/{name}"
            # the published configs of alpha still name the class that it was split from
            write_model(model, net, "Transformer2DModel" if "alpha" in name else "PixArtTransformer2DModel", stated)
            inputs = make_inputs(net, rows, tokens, "given" if name == "alpha-micro" else "default")
            save_file(inputs, f"{work}/inputs.safetensors")
            judge(f"{name}, forward", check_forward(work, model, net, inputs, args.forward))
            for solver in ("ddim", "dpmpp-2m") if trajectories else ():
                judge(f"{name}, {solver}", check_trajectory(work, model, net, inputs, solver, args.ousac))
        judge("the shipped model, forward", shipped(args.shipped, work, args.forward))
    print(f"{passed} passed, {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
