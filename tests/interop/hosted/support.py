"""What the tests of torch share: the program, inputs files, a DiTPipeline of diffusers whose noise is given."""
import contextlib
import json
import os
import subprocess

import numpy
import torch
from diffusers import DDIMScheduler, DiTPipeline, DiTTransformer2DModel
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.pipelines.dit import pipeline_dit
from safetensors.numpy import save_file

import ousac

OUSAC, WORK = os.environ["OUSAC"], os.environ["WORK"]
DIT = os.path.join(WORK, "dit")
MODEL = os.path.join(DIT, "diffusion_pytorch_model.safetensors")
INPUTS = os.path.join(WORK, "inputs.safetensors")
ROWS = 24


def path(name):
    return os.path.join(WORK, name)


def run(*words):
    return subprocess.run([OUSAC, *map(str, words), "--quiet"], check=True, stdout=subprocess.PIPE, text=True).stdout


def write_inputs():
    """Labels and noise of ROWS samples."""
    rng = numpy.random.default_rng(7)
    labels = rng.integers(0, 10, ROWS)
    noise = rng.standard_normal((ROWS, 3, 32, 32)).astype(numpy.float32)
    save_file({"label": labels, "noise": noise}, INPUTS)
    return labels, noise


def pipeline(scheduler=None, transformer=None):
    """The real pipeline around the converted checkpoint. Its VAE hands latents through."""
    transformer = transformer or DiTTransformer2DModel.from_pretrained(DIT).eval()
    vae = AutoencoderKL(block_out_channels=(32,), scaling_factor=1.0)

    class Through:
        def __init__(self, sample):
            self.sample = sample

    vae.decode = lambda latents: Through(latents)
    scheduler = scheduler or DDIMScheduler(clip_sample=False, timestep_spacing="leading")
    pipe = DiTPipeline(transformer, vae, scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@contextlib.contextmanager
def given_noise(noise):
    """The pipeline draws its noise by randn_tensor; here that is the noise given."""
    before = pipeline_dit.randn_tensor
    pipeline_dit.randn_tensor = lambda shape, dtype, **unused: torch.from_numpy(noise.copy()).reshape(shape).to(dtype)
    try:
        yield
    finally:
        pipeline_dit.randn_tensor = before


def sample(pipe, labels, noise, **options):
    """Final latents: what the VAE is handed."""
    got = []
    decode = pipe.vae.decode
    pipe.vae.decode = lambda latents: (got.append(latents), decode(latents))[1]
    try:
        with given_noise(noise), torch.no_grad():
            pipe([int(v) for v in labels], output_type="np", **options)
    finally:
        pipe.vae.decode = decode
    return got[0].numpy()


def relative(a, b):
    """Per sample, as ousac measures."""
    a, b = (numpy.asarray(v, numpy.float64).reshape(len(v), -1) for v in (a, b))
    return numpy.linalg.norm(a - b, axis=1) / numpy.linalg.norm(b, axis=1)


def error_over(a, b):
    """Over samples, as `ousac eval` states it (formats/EVAL.md)."""
    return numpy.sqrt(numpy.mean(relative(a, b) ** 2))


def calibrate(name, schedule, forecast="off", budget=0.3):
    """A bundle of samples 0:8 of INPUTS, by the program."""
    common = ["--model", MODEL, "--inputs", INPUTS]
    profile, plan, bundle = (path("%s.%s.oca" % (name, kind)) for kind in ("profile", "plan", "bundle"))
    run("profile", *common, "--schedule", schedule, "--samples", "0:8", "-o", profile)
    run("allocate", *common, "--profile", profile, "--budget-step", budget, "--method", "uniform", "--forecast", forecast, "-o", plan)
    run("pack", *common, "--profile", profile, "--plan", plan, "-o", bundle)
    return bundle


def native(bundle, row="calibrated", first=16, last=18):
    out = path("native.oca")
    run("sample", "--model", MODEL, "--inputs", INPUTS, "--bundle", bundle, "--samples", "%d:%d" % (first, last), "--raw", out,
        "-o", path("native.png"))
    with ousac.oca.File(out) as file:
        return file["samples/" + row].read("f32")


def evaluation(bundle, first=16, last=18):
    """Mean relative error of the calibrated run against the exact one, as `ousac eval` states it."""
    out = path("eval.json")
    run("eval", "--model", MODEL, "--inputs", INPUTS, "--bundle", bundle, "--samples", "%d:%d" % (first, last), "-o", out)
    with open(out) as file:
        pairs = json.load(file)["errors"]
    return next(p["relative_error"]["mean"] for p in pairs if p["run"] == "calibrated" and p["against"] == "exact")
