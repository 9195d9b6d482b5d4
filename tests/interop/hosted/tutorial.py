"""The Python of README.md and docs/PYTORCH.md, taken from those files and run to the letter on a small random DiTPipeline."""
import functools
import os
import re
import subprocess
import unittest

import diffusers
import numpy
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

import ousac
import tiny

OUSAC, WORK = os.environ["OUSAC"], os.environ["WORK"]
ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "..")


def blocks(name):
    """The Python of a page, block by block."""
    with open(os.path.join(ROOT, name)) as file:
        return re.findall(r"```python\n(.*?)```", file.read(), re.S)


def block_with(name, text):
    found = [block for block in blocks(name) if text in block]
    if len(found) != 1:
        raise AssertionError("%s: %d blocks of Python have %r, expected one" % (name, len(found), text))
    return found[0]


def pipeline():
    """DiTPipeline's null label is 1000."""
    transformer = diffusers.DiTTransformer2DModel(num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8,
                                                  num_layers=2, sample_size=8, patch_size=2, num_embeds_ada_norm=1000)
    scheduler = diffusers.DDIMScheduler(clip_sample=False, timestep_spacing="leading")
    return tiny.quiet(diffusers.DiTPipeline(tiny.randomised(transformer, 1, 0.1), AutoencoderKL(block_out_channels=(32,)), scheduler))


class Quick:
    """The package, with a search that is over soon where a page does not say how long it is to be."""

    calibrate = functools.partial(ousac.calibrate, effort="quick", samples=4, validation=2, test=2)

    def __getattr__(self, name):
        return getattr(ousac, name)


def run(*words):
    subprocess.run([OUSAC, *words, "-q"], check=True, stdout=subprocess.DEVNULL)


def make_bundle(pipe):
    """bundle.oca, by the program, of 50 steps."""
    pipe.transformer.save_pretrained("model")
    pipe.scheduler.save_pretrained("model")
    run("schedule", "--from", "model/scheduler_config.json", "--steps", "50", "--scale", "4", "--period", "3", "-o", "s.json")
    run("profile", "-m", "model", "-s", "s.json", "--samples", "0:8", "-o", "p.oca")
    run("allocate", "-m", "model", "-p", "p.oca", "--method", "uniform", "--budget-step", "0.3", "--forecast", "off", "-o", "plan.oca")
    run("pack", "-m", "model", "-p", "p.oca", "--plan", "plan.oca", "-o", "bundle.oca")


class Tutorial(unittest.TestCase):
    def setUp(self):
        folder = os.path.join(WORK, self._testMethodName)  # the pages write into the current one
        os.makedirs(folder)
        os.chdir(folder)
        torch.manual_seed(0)

    def test_a_bundle_at_work(self):
        """A bundle of the program in the pipeline of the page, as README.md and the tutorial apply it."""
        pipe = pipeline()
        make_bundle(pipe)
        pages = (block_with("README.md", "ousac.apply("), block_with("docs/PYTORCH.md", "import ousac"))
        for page in pages:
            said = []
            names = {"ousac": ousac, "pipe": pipe, "class_labels": [3, 1], "print": lambda *words: said.append(" ".join(map(str, words)))}
            exec(page, names)
            self.assertEqual(len(names["images"]), 2)
            self.assertEqual(len(said), 1)
            for what in ("17", "33"):  # of 50 evaluations a branch every third is full
                self.assertRegex(said[0], r"\b%s\b" % what)
        exec(block_with("docs/PYTORCH.md", 'from_schedule("bundle.oca"'), {"ousac": ousac, "pipe": pipe})
        self.assertIsInstance(pipe.scheduler, ousac.Scheduler)
        exec(pages[0], {"ousac": ousac, "pipe": pipe, "class_labels": [3, 1], "print": str})

    def test_calibrating(self):
        pipe = pipeline()
        said = []
        names = {"ousac": ousac, "pipe": pipe, "labels": [1, 5, 7], "print": lambda *words: said.append(" ".join(map(str, words)))}
        exec(block_with("docs/PYTORCH.md", "ousac.calibrate(pipe, labels"), names)
        result = names["result"]
        self.assertTrue(os.path.exists("cal/schedule.json"))
        self.assertEqual(os.path.exists("cal/bundle.oca"), result.bundle is not None)
        self.assertEqual(len(said), 1)
        steps = len(pipe.scheduler.timesteps)
        with torch.no_grad():
            if result.bundle:
                with ousac.apply(pipe, result.bundle):
                    images = pipe([1, 5], guidance_scale=4.0, num_inference_steps=steps, output_type="np").images
            else:
                images = pipe([1, 5], guidance_scale=4.0, num_inference_steps=steps, output_type="np").images
        self.assertTrue(numpy.isfinite(images).all())

    def test_calibrating_with_prompts(self):
        names = {"ousac": Quick(), "pixart": tiny.pixart(), "flux": tiny.flux(),
                 "prompts": {"prompt": tiny.PROMPTS, "negative_prompt": "", "max_sequence_length": tiny.TEXT}}
        exec(block_with("docs/PYTORCH.md", "ousac.calibrate(pixart, prompts"), names)
        for kind in ("pixart", "flux"):
            self.assertTrue(os.path.exists(kind + "/schedule.json"))

    def test_any_other_module(self):
        transformer = tiny.randomised(diffusers.PixArtTransformer2DModel(
            num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=4, num_layers=1, cross_attention_dim=16,
            caption_channels=12, sample_size=64, patch_size=8, use_additional_conditions=False), 2)
        run("schedule", "--steps", "6", "--scale", "3", "--uncached", "-o", "today.json")
        run("schedule", "--steps", "6", "--scale", "3", "--period", "3", "-o", "schedule.json")
        names = {"ousac": Quick(), "torch": torch, "transformer": transformer, "prompts": tiny.PROMPTS,
                 "embeds": torch.randn(len(tiny.PROMPTS), tiny.TEXT, 12), "negative": torch.randn(len(tiny.PROMPTS), tiny.TEXT, 12)}
        exec(block_with("docs/PYTORCH.md", "host = ousac.Host("), names)
        self.assertTrue(os.path.exists("cal/schedule.json") and os.path.exists("profile.oca"))

    def test_capturing(self):
        pipe = pipeline()
        pipe.scheduler.save_pretrained("capturing")
        run("schedule", "--from", "capturing/scheduler_config.json", "--steps", "10", "--scale", "4", "--period", "3", "-o", "schedule.json")
        pipe.scheduler.set_timesteps(10)
        names = {"ousac": ousac, "transformer": pipe.transformer, "scheduler": pipe.scheduler, "timesteps": pipe.scheduler.timesteps,
                 "noise": torch.randn(4, 4, 8, 8), "labels": torch.tensor([3, 1, 4, 1]), "null": torch.tensor([1000, 1000]),
                 "my_step": lambda x, i, u, c: x - 0.1 * (u + 4.0 * (c - u))[:, :4]}
        with torch.no_grad():
            exec(block_with("docs/PYTORCH.md", "ousac.capture("), names)
        run("verify", "bundle.oca")
        with ousac.apply(pipe, "bundle.oca"):
            images = pipe([3, 1], guidance_scale=4.0, num_inference_steps=10, output_type="np").images
        self.assertTrue(numpy.isfinite(images).all())

    def test_a_loop_of_your_own(self):
        pipe = pipeline()
        make_bundle(pipe)
        names = {"ousac": ousac, "transformer": pipe.transformer, "x": torch.randn(2, 4, 8, 8), "labels": torch.tensor([3, 1]),
                 "null": torch.tensor([1000, 1000])}
        pipe.scheduler.set_timesteps(50)
        names["timesteps"] = pipe.scheduler.timesteps
        with torch.no_grad():
            exec(block_with("docs/PYTORCH.md", 'applied.branch("uncond")'), names)
        self.assertEqual(names["c"].shape[0], 2)
        self.assertTrue(torch.isfinite(names["c"]).all() and torch.isfinite(names["u"]).all())


if __name__ == "__main__":
    unittest.main()
