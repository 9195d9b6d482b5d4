"""A DiTPipeline hosted by the library against the program's own engine: see tests/interop/test_torch_host.sh."""
import json
import os
import unittest

import numpy
import torch
from diffusers import DiTTransformer2DModel
from support import INPUTS, MODEL, evaluation, native, path, pipeline, relative, run, sample, write_inputs

import ousac
from ousac.pipelines import DiTAdapter

LABELS, NOISE = write_inputs()
STEPS = 6


def schedule():
    steps = [{"timestep": (STEPS - 1 - i) * (1000 // STEPS), "mode": "cfg", "scale": 3, "gate": "full" if i % 3 == 0 else "cached"}
             for i in range(STEPS)]
    steps[4]["gate"] = "reuse"
    data = {"format": "ousac-schedule", "version": 1, "name": "six", "solver": "ddim", "step_count": STEPS, "steps": steps}
    with open(path("six.json"), "w") as file:
        json.dump(data, file)
    return path("six.json")


class Hosted(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.pipe, cls.schedule = pipeline(), schedule()
        cls.adapter = DiTAdapter(cls.pipe, {"label": LABELS, "noise": NOISE})
        cls.adapter.save(path("hosted.safetensors"))

    def open(self, **options):
        return self.adapter.host().open(inputs=path("hosted.safetensors"), micro_batch=4, **options)

    def test_profile_is_the_engines_and_bundles_are_interchangeable(self):
        ours = {name: path("hosted." + name) for name in ("profile", "plan", "bundle")}
        with self.open() as context:
            context.profile(self.schedule, ours["profile"], samples=4, pilot=4)
            context.plan(ours["profile"], ours["plan"], budget_step=0.3, compare=0)
            context.pack(ours["profile"], ours["plan"], ours["bundle"])
            found = context.evaluate(ours["bundle"], first=12, count=2)
            through = context.sample(bundle=ours["bundle"], first=16, count=2)
        run("profile", "--model", MODEL, "--inputs", INPUTS, "--schedule", self.schedule, "--samples", "0:4", "--pilot-samples", 4,
            "-o", path("native.profile"))
        self.compare_profiles(ours["profile"], path("native.profile"))
        # made by the host, run by the program
        run("verify", "--model", MODEL, ours["bundle"])
        self.assertLess(relative(through, native(ours["bundle"])).max(), 1e-4)
        self.assertLess(abs(evaluation(ours["bundle"], 12, 14) / found["calibrated"]["mean"] - 1), 1e-3)
        # and the reverse
        run("allocate", "--model", MODEL, "--inputs", INPUTS, "--profile", path("native.profile"), "--budget-step", 0.3, "--method",
            "uniform", "-o", path("native.plan"))
        run("pack", "--model", MODEL, "--profile", path("native.profile"), "--plan", path("native.plan"), "-o", path("native.bundle"))
        with self.open() as context:
            self.assertLess(relative(context.sample(bundle=path("native.bundle"), first=16, count=2), native(path("native.bundle"))).max(), 1e-4)
        with ousac.apply(self.pipe, ours["bundle"]):
            applied = sample(self.pipe, LABELS[16:18], NOISE[16:18], guidance_scale=3.0, num_inference_steps=STEPS)
        self.assertLess(relative(applied, through).max(), 1e-4)

    def compare_profiles(self, ours, theirs):
        with ousac.oca.File(ours) as a, ousac.oca.File(theirs) as b:
            for key in ("arch", "schedule_digest", "model_constants", "model_process"):
                self.assertEqual(a.metadata[key], b.metadata[key], key)
            self.assertEqual(list(a), list(b))
            compared = 0
            for name in a:
                if a[name].dtype not in ("f32", "f64"):
                    continue
                x, y = a[name].read("f64"), b[name].read("f64")
                scale = numpy.linalg.norm(y)
                if scale > 0:
                    self.assertLess(numpy.linalg.norm(x - y) / scale, 1e-3, name)
                    compared += 1
            self.assertGreater(compared, 40)

    def test_failures_are_said_and_leave_the_module_as_it_was(self):
        before = [list(m.__dict__) for m in self.pipe.transformer.modules()]
        host = self.adapter.host()
        call = host.call

        def failing(x, timestep, *rest):
            if timestep < 500:
                raise RuntimeError("no more of this")
            return call(x, timestep, *rest)

        host.call = failing
        with host.open(inputs=path("hosted.safetensors")) as context:
            with self.assertRaisesRegex(RuntimeError, "no more of this"):
                context.sample(schedule=self.schedule, count=1)
            with self.assertRaisesRegex(ousac.Error, "hosted already"):
                host.open()
            host.call = lambda x, *rest: x  # runs none of its linears
            with self.assertRaisesRegex(ValueError, "blocks.0.attn did not come"):
                context.sample(schedule=self.schedule, count=1)
            host.call = lambda *arguments: (call(*arguments), call(*arguments))[1]
            with self.assertRaisesRegex(ousac.Error, r"transformer_blocks\.0\.attn1\.to_q: ran twice"):
                context.sample(schedule=self.schedule, count=1)
        self.assertEqual([list(m.__dict__) for m in self.pipe.transformer.modules()], before)

    def test_calibrate(self):
        """The README's way, on an instance that is small enough for a search in a test; every parameter random."""
        torch.manual_seed(4)
        transformer = DiTTransformer2DModel(
            num_attention_heads=2, attention_head_dim=8, in_channels=3, out_channels=3, num_layers=2, sample_size=4, patch_size=2,
            num_embeds_ada_norm=1000).eval()
        with torch.no_grad():
            for parameter in transformer.parameters():
                parameter.normal_(0, 0.15)
        pipe = pipeline(transformer=transformer)
        result = ousac.calibrate(pipe, LABELS, reference={"steps": 8, "guidance_scale": 3.0}, budget_total=0.6,
                                 out=path("searched"), effort="quick", samples=8, validation=4, test=4)
        with open(result.schedule) as file:
            self.assertEqual(json.load(file)["step_count"], result.found["steps"])
        self.assertEqual(result.bundle is not None, os.path.exists(path("searched/bundle.oca")))
        self.assertGreater(result.found["validation_error"], 0)

        for wrong in ({"budget_total": 0.6, "budget_time": 0.6}, {}, {"budget_total": 0.6, "time": "time.json"},
                      {"budget_time": 0.6, "schedule": "given.json"}):
            with self.assertRaises(ValueError):
                ousac.calibrate(pipe, LABELS, reference={"steps": 8, "guidance_scale": 3.0}, out=path("wrong"), **wrong)
        result = ousac.calibrate(pipe, LABELS, reference={"steps": 8, "guidance_scale": 3.0}, budget_time=0.6, out=path("timed"),
                                 effort="quick", samples=8, validation=4, test=4)
        with open(path("timed/time.json")) as file:
            self.assertGreater(json.load(file)["repeats"], 0)
        again = ousac.calibrate(pipe, LABELS, reference={"steps": 8, "guidance_scale": 3.0}, budget_time=0.6, out=path("again"),
                                time=path("timed/time.json"), effort="quick", samples=8, validation=4, test=4)
        self.assertEqual(again.found["steps"], result.found["steps"])
        self.assertFalse(os.path.exists(path("again/time.json")))

        given = schedule()
        result = ousac.calibrate(pipe, LABELS, reference={"steps": 8, "guidance_scale": 3.0}, budget_total=0.6, schedule=given,
                                 out=path("given"), samples=8, validation=4, test=4)
        self.assertTrue(result.evaluation["held_out"])
        self.assertLess(result.evaluation["macs_share"], 0.6 * STEPS / 8 + 1e-3)
        with ousac.apply(pipe, result.bundle):
            sample(pipe, LABELS[:1], NOISE[:1, :, :4, :4], guidance_scale=3.0, num_inference_steps=STEPS)
        self.assertEqual(ousac.summary(pipe).evaluations["cond"]["cached"], 3)


if __name__ == "__main__":
    torch.set_num_threads(1)
    unittest.main()
