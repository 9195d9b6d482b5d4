"""Bundles at work under torch.compile, on small random pipelines: see tests/interop/test_torch_compile.sh.

Compiled is not compiled; no graph is broken (fullgraph), and a second run makes no new one.
"""
import os
import unittest

import diffusers
import numpy
import support
import tiny
import torch
from pipelines_text import STEPS, Case, full, gates, path, sparse
from support import relative
from torch._dynamo.utils import counters

import ousac
from ousac.pipelines import adapter_for

BACKEND = {"backend": os.environ.get("BACKEND", "eager"), "fullgraph": True}


class Compiled(unittest.TestCase):
    def bundle(self, adapter, name, schedule, forecast):
        files = [path(name, "%s.%d" % (kind, forecast)) for kind in ("profile", "plan", "bundle")]
        with adapter.host().open(inputs=path(name, "inputs.safetensors"), micro_batch=2, threads=1) as context:
            context.profile(schedule, files[0], samples=4, pilot=2)
            context.plan(files[0], files[1], budget_step=0.5, forecast=forecast, compare=0)
            context.pack(*files)
        return files[2]

    def check(self, pipe, bundle, sample):
        with ousac.apply(pipe, bundle) as applied:
            self.assertIn("low-rank", applied.bundle.path_of)
            wanted, plainly = sample(), applied.record.evaluations
        torch._dynamo.reset()
        counters.clear()
        with ousac.apply(pipe, bundle, compile=BACKEND) as applied, torch._dynamo.config.patch(error_on_recompile=True):
            first = sample()
            graphs = counters["stats"]["unique_graphs"]
            self.assertEqual(graphs, 3)  # full, cached, reused
            second = sample()
            self.assertEqual(counters["stats"]["unique_graphs"], graphs)
            self.assertFalse(counters["graph_break"])
            self.assertEqual(applied.record.runs, 2)
        numpy.testing.assert_array_equal(first, second)
        self.assertLess(relative(first, wanted).max(), 1e-4)
        self.assertEqual(applied.record.evaluations, {branch: {gate: 2 * n for gate, n in found.items()}
                                                      for branch, found in plainly.items()})

    def case(self, case, *pairs):
        for forecast, edit in pairs:
            bundle = self.bundle(case.adapter, case.name, case.schedule("of%d" % forecast, edit), forecast)
            self.check(case.pipe, bundle, case.sample)
        return bundle

    def test_pixart(self):
        case = Case("pixart", tiny.pixart(), {"steps": STEPS, "guidance_scale": 4.5},
                    {"guidance_scale": 4.5, "use_resolution_binning": False}, "blue")
        bundle = self.case(case, (1, sparse))
        # a graph that was begun and failed leaves nothing behind
        with ousac.apply(case.pipe, bundle, compile=BACKEND) as applied:
            hook = case.pipe.transformer.proj_out.register_forward_pre_hook(lambda *unused: 1 / 0)
            with self.assertRaises(Exception):
                case.sample()
            hook.remove()
            self.assertIsNone(applied._now)
            self.assertIsNone(applied._run)

    def test_sd3(self):
        self.case(Case("sd3", tiny.sd3(), {"steps": STEPS, "guidance_scale": 5.0}, {"guidance_scale": 5.0}, "round"),
                  (0, gates))

    def test_flux(self):
        self.case(Case("flux", tiny.flux(), {"steps": STEPS, "guidance_scale": 3.5}, {"guidance_scale": 3.5}),
                  (1, gates))

    def test_dit(self):
        transformer = tiny.randomised(diffusers.DiTTransformer2DModel(
            num_attention_heads=2, attention_head_dim=8, in_channels=3, out_channels=3, num_layers=2, sample_size=8, patch_size=2,
            num_embeds_ada_norm=1000), 4)
        pipe = support.pipeline(transformer=transformer)
        labels = numpy.arange(6)
        noise = numpy.random.default_rng(5).standard_normal((6, 3, 8, 8)).astype(numpy.float32)
        adapter = adapter_for(pipe, {"label": labels, "noise": noise}, {"steps": STEPS, "guidance_scale": 3.0})
        os.makedirs(path("tiny-dit"), exist_ok=True)
        adapter.save(path("tiny-dit", "inputs.safetensors"))
        case = type("Plain", (), {"name": "tiny-dit", "adapter": adapter})
        file = Case.schedule(case, "gates", gates)
        self.check(pipe, self.bundle(adapter, "tiny-dit", file, 1), lambda: support.sample(
            pipe, labels, noise, guidance_scale=3.0, num_inference_steps=STEPS))
        guided = Case.schedule(case, "guided", full(sparse))
        with ousac.apply(pipe, guided):
            wanted = support.sample(pipe, labels, noise, guidance_scale=3.0, num_inference_steps=STEPS)
        with ousac.apply(pipe, guided, compile=BACKEND):  # a schedule alone
            got = support.sample(pipe, labels, noise, guidance_scale=3.0, num_inference_steps=STEPS)
        self.assertLess(relative(got, wanted).max(), 1e-5)

    def test_compiled_beforehand_is_refused(self):
        transformer = torch.compile(tiny.sd3().transformer, backend="eager")
        with self.assertRaisesRegex(ousac.Error, "`compile=`"):
            ousac.find_sites(transformer)


if __name__ == "__main__":
    torch.set_num_threads(1)
    unittest.main()
