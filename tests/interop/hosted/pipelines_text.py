"""Pipelines with text from prompts to samples, on small random instances: see tests/interop/test_torch_pipelines.sh.

Of each: calibrated by its prompts, the bundle in the pipeline's own call gives what the host computes; sparse guidance
is a loop written by hand; a batch is its samples; full rank is the plain pipeline. Where the program has an engine it
gives the same samples from the same bundle.
"""
import json
import os
import subprocess
import unittest

import diffusers
import numpy
import tiny
import torch
from support import error_over, relative
from tiny import PROMPTS, TEXT

import ousac
from ousac.pipelines import adapter_for

OUSAC, WORK = os.environ["OUSAC"], os.environ["WORK"]
STEPS, HELD = 7, slice(4, 8)


def path(*names):
    return os.path.join(WORK, *names)


class Case:
    """A pipeline, how it is called, and how its transformer is where the branches are run one by one."""

    def __init__(self, name, pipe, reference, options, negative=None, size=None):
        self.name, self.pipe, self.reference, self.negative = name, pipe, reference, negative
        self.options = {**options, **(size or {})}
        self.inputs = {"prompt": PROMPTS, "max_sequence_length": TEXT, **(size or {})}
        if negative is not None:
            self.inputs["negative_prompt"] = negative
        plain = adapter_for(pipe, self.inputs, reference)
        rng = numpy.random.default_rng(3)
        self.noise = rng.standard_normal((len(PROMPTS),) + plain.shape).astype(numpy.float32)
        self.inputs["noise"] = self.noise
        self.adapter = adapter_for(pipe, self.inputs, reference)
        os.makedirs(path(name), exist_ok=True)
        self.adapter.save(path(name, "inputs.safetensors"))

    def schedule(self, name, edit):
        data = self.adapter.schedule(STEPS)
        for i, step in enumerate(data["steps"]):
            edit(i, step)
        if any("guidance" in step for step in data["steps"]):
            data["version"] = 3
        if any("extrapolate" in json.dumps(step["gate"]) for step in data["steps"]):
            data["version"] = 4
        with open(path(self.name, name + ".json"), "w") as file:
            json.dump(data, file)
        return path(self.name, name + ".json")

    def sample(self, rows=HELD, **options):
        """The pipeline's own call, from prompts to latents (B, channels, height, width)."""
        noise = torch.from_numpy(self.noise[rows].copy())
        count, packed = len(noise), isinstance(self.pipe, diffusers.FluxPipeline)
        video = isinstance(self.pipe, diffusers.WanPipeline)
        if packed:
            noise = self.pipe._pack_latents(noise, *noise.shape)
        elif isinstance(self.pipe, diffusers.QwenImagePipeline):
            noise = noise[:, 0]
        elif video:
            noise = noise.unflatten(2, (self.adapter.frames, -1))
        given = {"max_sequence_length": TEXT, "num_inference_steps": STEPS, "latents": noise, "output_type": "latent", **self.options}
        if self.negative is not None:
            given["negative_prompt"] = [self.negative] * count if not isinstance(self.pipe, diffusers.PixArtAlphaPipeline) else self.negative
        out = self.pipe(PROMPTS[rows], **{**given, **options})
        out = out.frames if video else out.images
        if packed:
            out = self.pipe._unpack_latents(out, *[v * self.pipe.vae_scale_factor for v in self.noise.shape[2:]], self.pipe.vae_scale_factor)
        return out.reshape((count,) + self.noise.shape[1:]).float().numpy()

    def loop(self, file, rows=HELD):
        """By hand: every branch a call of the transformer, guidance and Euler's or the solver's step written out."""
        schedule = ousac.Schedule.load(file)
        scheduler = ousac.Scheduler.from_schedule(schedule, self.pipe.scheduler)
        x, numbers = torch.from_numpy(self.noise[rows].copy()), list(range(rows.start, rows.stop))
        with torch.no_grad():
            for step in schedule.steps:
                e = self.adapter.call(x, step.timestep, step.guidance, "cond", numbers)
                if step.mode == "cfg":
                    u = self.adapter.call(x, step.timestep, step.guidance, "uncond", numbers)
                    c, e = e, u + step.scale * (e - u)
                    if self.adapter.rescaled:
                        e = e * c.norm(dim=-1, keepdim=True) / e.norm(dim=-1, keepdim=True)
                x = scheduler.step(e, step.timestep, x).prev_sample
        return x.numpy()


def gates(i, step):
    """Every third evaluation full, one reused."""
    step["gate"] = "full" if i % 3 == 0 else "reuse" if i == 5 else "cached"


def sparse(i, step):
    """Scales that vary, passes that are skipped, branches refreshed apart."""
    gates(i, step)
    if step["mode"] == "cfg":
        step["scale"] = 2 + 0.5 * i
        if i % 3 == 1:
            step["mode"] = "cond"
            del step["scale"]
        elif i == 2:
            step["gate"] = {"cond": "cached", "uncond": "full"}


def told(i, step):
    """Another guidance at every step, but for one that leaves it to the pipeline."""
    gates(i, step)
    if i != 2:
        step["guidance"] = 6 - 0.75 * i


def full(edit):
    def both(i, step):
        edit(i, step)
        step["gate"] = "full"
    return both


class Pipelines(unittest.TestCase):
    def near(self, a, b, by=1e-4):
        self.assertTrue(numpy.isfinite(a).all())
        self.assertLess(relative(a, b).max(), by)

    def host(self, case, bundle=None, schedule=None):
        with case.adapter.host().open(inputs=path(case.name, "inputs.safetensors"), micro_batch=2, threads=1) as context:
            return context.sample(bundle=bundle, schedule=schedule, first=HELD.start, count=HELD.stop - HELD.start)

    def given(self, case, name, edit):
        """A bundle for a schedule of ours, of one share of every site's rank."""
        files = [path(case.name, "%s.%s" % (name, kind)) for kind in ("profile", "plan", "bundle")]
        with case.adapter.host().open(inputs=path(case.name, "inputs.safetensors"), micro_batch=2, threads=1) as context:
            context.profile(case.schedule(name, edit), files[0], samples=4, pilot=2)
            context.plan(files[0], files[1], budget_step=0.6, forecast=1, compare=0)
            context.pack(*files)
        return files[2]

    def check(self, case, engine=False):
        plain = case.sample()
        self.near(plain, case.loop(case.schedule("constant", lambda i, step: None)))
        for name, edit in (("gates", gates), ("sparse", sparse)):
            bundle = self.given(case, name, edit)
            wanted = self.host(case, bundle)
            with ousac.apply(case.pipe, bundle) as applied:
                self.assertIn("low-rank", applied.bundle.path_of)
                batch = case.sample()
                record = ousac.summary(case.pipe)
                self.assertEqual(record.evaluations["cond"], {"full": 3, "cached": 3, "reuse": 1, "extrapolate": 0, "skipped": 0})
                self.near(batch, numpy.concatenate([case.sample(slice(i, i + 1)) for i in range(4, 8)]), 1e-5)
            self.near(batch, wanted)
            self.assertGreater(relative(batch, plain).min(), 1e-4)
            if engine:
                self.near(self.program(case, bundle), wanted)
        with ousac.apply(case.pipe, case.schedule("guided", full(sparse))):
            self.near(case.sample(), case.loop(path(case.name, "guided.json")))
        self.full_rank(case, plain)

    def full_rank(self, case, plain):
        """W = W I in every cached linear; and a frozen module of a bundle is computed."""
        with ousac.apply(case.pipe, path(case.name, "gates.bundle")) as applied:
            for i, site in enumerate(applied.sites.sites):
                w = site.linear.weight.detach()
                applied.bundle.path_of[i] = "low-rank"
                applied._factors[i] = (w.t().contiguous(), torch.eye(w.shape[1]))
            applied.bundle.live = [True] * len(applied.bundle.live)
            applied.gates = {b: ["cached" if g == "reuse" else g for g in found] for b, found in applied.gates.items()}
            got = case.sample()
        self.near(got, plain)

    def program(self, case, bundle):
        """The same bundle and inputs in the program's own engine, on the pipeline's transformer as diffusers saves it."""
        folder = path(case.name, "saved")
        case.pipe.transformer.save_pretrained(os.path.join(folder, "transformer"))
        case.pipe.scheduler.save_pretrained(os.path.join(folder, "scheduler"))
        config = os.path.join(folder, "transformer", "config.json")
        with open(config) as file:
            data = json.load(file)
        text = "text_tokens" if case.name.startswith("flux") else "caption_tokens"
        data.update({text: TEXT, "sample_size": case.noise.shape[2]})
        with open(config, "w") as file:
            json.dump(data, file)
        subprocess.run([OUSAC, "sample", "--model", os.path.join(folder, "transformer"), "--inputs", path(case.name, "inputs.safetensors"),
                        "--bundle", bundle, "--samples", "4:8", "--raw", path("raw.oca"), "-o", path("raw.png"), "--quiet"], check=True, stdout=subprocess.DEVNULL)
        with ousac.oca.File(path("raw.oca")) as file:
            return file["samples/calibrated"].read("f32")

    def searched(self, case):
        """From prompts and a budget, nothing else: what was found runs in the pipeline, and is what was evaluated."""
        result = ousac.calibrate(case.pipe, case.inputs, reference={**case.reference, "steps": 4}, budget_total=0.75,
                                 out=path(case.name, "searched"), effort="quick", samples=4, validation=2, test=2, micro_batch=2, threads=1)
        before = case.pipe.scheduler
        case.pipe.scheduler = ousac.Scheduler.from_schedule(result.bundle or result.schedule, before)
        with ousac.apply(case.pipe, result.bundle or result.schedule):  # a schedule alone runs too
            got = case.sample(num_inference_steps=result.found["steps"])
        case.pipe.scheduler = before
        self.near(got, self.host(case, result.bundle, None if result.bundle else result.schedule))
        if result.bundle:
            self.assertTrue(result.evaluation["held_out"])
            self.assertLess(result.evaluation["macs_share"], 0.75 + 1e-6)
        return got

    def test_pixart(self):
        case = Case("pixart", tiny.pixart(), {"steps": STEPS, "guidance_scale": 4.5},
                    {"guidance_scale": 4.5, "use_resolution_binning": False}, "blue")
        self.check(case, engine=True)
        self.searched(case)

    def test_pixart_sigma(self):
        case = Case("sigma", tiny.pixart(diffusers.PixArtSigmaPipeline), {"steps": STEPS, "guidance_scale": 4.5},
                    {"guidance_scale": 3.0, "use_resolution_binning": False}, "")
        result = ousac.calibrate(case.pipe, case.inputs, reference=case.reference, budget_total=0.6, schedule=case.schedule("sparse", sparse),
                                 out=path("sigma", "given"), samples=4, validation=2, test=2, micro_batch=2, threads=1)
        self.assertTrue(result.evaluation["held_out"])
        with ousac.apply(case.pipe, result.bundle):  # whatever the pipeline's own scale is
            self.near(case.sample(), self.host(case, result.bundle))

    def test_sd3(self):
        case = Case("sd3", tiny.sd3(), {"steps": STEPS, "guidance_scale": 5.0}, {"guidance_scale": 5.0}, "round")
        self.check(case)
        self.searched(case)

    def test_flux_with_one_branch(self):
        case = Case("flux", tiny.flux(), {"steps": STEPS, "guidance_scale": 3.5}, {"guidance_scale": 3.5})
        self.check(case, engine=True)
        self.searched(case)

    def test_flux_with_true_guidance(self):
        case = Case("flux2", tiny.flux(guided=False), {"steps": STEPS, "true_cfg_scale": 3.0}, {"true_cfg_scale": 3.0}, "square")
        self.check(case, engine=True)

    def test_flux_told_by_step(self):
        case = Case("flux_told", tiny.flux(), {"steps": STEPS, "guidance_scale": 3.5}, {"guidance_scale": 3.5})
        constant = self.given(case, "gates", gates)
        bundle = self.given(case, "told", told)
        wanted = self.host(case, bundle)
        self.near(self.program(case, bundle), wanted)
        with ousac.apply(case.pipe, bundle):
            self.near(case.sample(), wanted)
        with ousac.apply(case.pipe, bundle, compile={"backend": "eager"}):
            self.near(case.sample(), wanted)
        with ousac.apply(case.pipe, constant):
            self.assertGreater(relative(case.sample(), wanted).min(), 1e-3)
        alone = case.schedule("alone", full(told))
        with ousac.apply(case.pipe, alone):
            self.near(case.sample(), case.loop(alone))
        self.near(self.host(case, schedule=alone), case.loop(alone))

        x, first = torch.from_numpy(case.noise[:2].copy()), ousac.Schedule.load(alone).timesteps[0]
        with self.assertRaisesRegex(ousac.Error, "told guidance 9, but the schedule states 6"):
            with ousac.capture(case.pipe.transformer, alone, samples=2, scheduler=case.pipe.scheduler, shape=case.noise.shape[1:],
                               branches=("cond", "uncond"), out=path("never.oca")) as capture:
                with capture.step(0, branch="cond", samples=(0, 2)):
                    case.adapter.call(x, first, 9.0, "cond", [0, 1])
        with ousac.apply(case.pipe.transformer, alone) as applied, applied.run(order=None, time=1000.0), applied.branch("cond"):
            with self.assertRaisesRegex(ousac.Error, "step 0 states guidance 6, but the call has no tensor `guidance`"):
                case.pipe.transformer(hidden_states=x, timestep=torch.full((2,), first / 1000), guidance=None)
        other = Case("flux_untold", tiny.flux(guided=False), {"steps": STEPS}, {})
        with self.assertRaisesRegex(ousac.Error, "no guidance embedder"):
            ousac.apply(other.pipe, alone)
        with self.assertRaisesRegex(ValueError, "step 0: guidance 6, but FluxPipeline has no guidance embedder"):
            self.host(other, schedule=alone)

    def test_qwenimage(self):
        case = Case("qwenimage", tiny.qwenimage(), {"steps": STEPS}, {"true_cfg_scale": 1.0})
        lengths = case.adapter.tensors["prompt_mask"].sum(1)
        self.assertTrue(set(lengths.tolist()) >= {2, TEXT})  # prompts that are padded, and one that is not
        more = adapter_for(case.pipe, PROMPTS + ["tree"], case.reference).tensors  # encoded apart, of another length
        self.near(more["prompt_embeds"][[5]].numpy(), more["prompt_embeds"][[8]].numpy())
        self.assertEqual(more["prompt_mask"].sum(1).tolist(), lengths.tolist() + [2])
        self.check(case)
        self.searched(case)

    def test_qwenimage_with_guidance(self):
        """Which the pipeline rescales, token by token; negative prompts of another length."""
        case = Case("qwen2", tiny.qwenimage(), {"steps": STEPS, "true_cfg_scale": 4.0}, {"true_cfg_scale": 4.0}, "dog on a red tree")
        self.check(case)
        with ousac.oca.File(path("qwen2", "gates.bundle")) as file:
            self.assertIn("guidance on 1 of 1 channels, rescaled by rows of 16,", file.metadata["model_process"])
        self.searched(case)

    def test_wan(self):
        size = {"height": 64, "width": 32, "num_frames": 5}
        case = Case("wan", tiny.wan(), {"steps": STEPS, "guidance_scale": 4.0}, {"guidance_scale": 4.0}, "tree", size)
        self.assertEqual((case.adapter.shape, case.adapter.frames), ((4, 16, 4), 2))
        self.check(case)
        self.searched(case)
        # the pipeline's usual solver gives way to the schedule's steps, of the same noise levels
        before = case.sample(num_inference_steps=STEPS)
        case.pipe.scheduler = ousac.Scheduler.from_schedule(
            path("wan", "constant.json"), diffusers.UniPCMultistepScheduler(use_flow_sigmas=True, flow_shift=3.0))
        self.near(case.sample(), before)

    def test_another_size_in_between(self):
        """Latents of other heights, and so many more tokens, between two runs: neither sees the other's."""
        size = {"height": 64, "width": 32, "num_frames": 5}
        case = Case("sizes", tiny.wan(), {"steps": STEPS, "guidance_scale": 4.0}, {"guidance_scale": 4.0}, "tree", size)
        bundle = self.given(case, "gates", gates)
        larger = {"height": 96, "latents": torch.from_numpy(numpy.random.default_rng(8).standard_normal((4, 4, 2, 12, 4)).astype(numpy.float32))}

        def other():
            return case.pipe(PROMPTS[HELD], **{"max_sequence_length": TEXT, "num_inference_steps": STEPS, "output_type": "latent",
                                               "negative_prompt": ["tree"] * 4, **case.options, **larger}).frames.numpy()

        with ousac.apply(case.pipe, bundle):
            first = case.sample()
        with ousac.apply(case.pipe, bundle):
            wanted = other()
        with ousac.apply(case.pipe, bundle):
            for _ in range(2):
                numpy.testing.assert_array_equal(case.sample(), first)
                numpy.testing.assert_array_equal(other(), wanted)

    def test_lora_of_peft(self):
        """Adapters that PEFT adds: a cached evaluation sees them exactly."""
        try:
            import peft
        except ImportError:
            self.skipTest("no PEFT")
        case = Case("peft", tiny.flux(), {"steps": STEPS, "guidance_scale": 3.5}, {"guidance_scale": 3.5})
        bundle, plain = self.given(case, "gates", gates), case.sample()
        torch.manual_seed(3)
        case.pipe.transformer.add_adapter(peft.LoraConfig(r=3, lora_alpha=2, init_lora_weights=False,
                                                          target_modules=["to_q", "to_v", "to_out.0", "ff.net.0.proj", "proj_mlp"]))
        adapted, wrapped = case.sample(), 0
        self.assertGreater(relative(adapted, plain).min(), 1e-3)
        with ousac.apply(case.pipe, bundle) as applied:
            near = case.sample()
            for i, site in enumerate(applied.sites.sites):
                w = site.base.weight.detach()
                factors = [w.t(), torch.eye(site.n)]
                if site.linear is not site.base and i in applied._factors:
                    kept = applied.bundle.ranks[i] if applied.bundle.path_of[i] == "low-rank" else 0
                    behind = [f[kept:] for f in applied._factors[i]]
                    torch.testing.assert_close(behind[0].t() @ behind[1], site.linear.get_delta_weight("default").detach())
                    factors, wrapped = [torch.cat(pair) for pair in zip(factors, behind)], wrapped + 1
                elif site.linear is not site.base:
                    factors = [(w + site.linear.get_delta_weight("default").detach()).t(), torch.eye(site.n)]
                applied.bundle.path_of[i] = "low-rank"
                applied._factors[i] = tuple(f.contiguous() for f in factors)
            applied.bundle.live = [True] * len(applied.bundle.live)
            applied.gates = {b: ["cached" if g == "reuse" else g for g in found] for b, found in applied.gates.items()}
            got = case.sample()
        self.assertGreater(wrapped, 4)
        self.near(got, adapted)
        self.assertGreater(relative(near, adapted).min(), 1e-5)  # at the bundle's ranks something was cached

    def test_what_no_schedule_says_is_refused(self):
        flow = {"use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": "flow_prediction"}
        with self.assertRaisesRegex(ousac.Error, "WanPipeline: UniPCMultistepScheduler is no solver of a schedule; expected FlowMatch"):
            adapter_for(tiny.wan(diffusers.UniPCMultistepScheduler(**flow)), PROMPTS, {"steps": STEPS})
        pipe = tiny.wan()
        pipe.register_modules(transformer_2=pipe.transformer)
        with self.assertRaisesRegex(ousac.Error, "transformer_2"):
            adapter_for(pipe, PROMPTS, {"steps": STEPS})
        pipe = tiny.sd3()
        pipe.scheduler = diffusers.DPMSolverMultistepScheduler(**flow)
        with self.assertRaisesRegex(ousac.Error, "use_flow_sigmas"):
            adapter_for(pipe, PROMPTS, {"steps": STEPS}).schedule(STEPS)

    def test_encoded_prompts_are_the_prompts(self):
        pipe = tiny.pixart()
        by_text = adapter_for(pipe, {"prompt": PROMPTS, "max_sequence_length": TEXT}, None)
        encoded = adapter_for(pipe, dict(by_text.tensors), None)
        self.assertEqual(list(encoded.tensors), list(by_text.tensors))
        for name, value in by_text.tensors.items():
            self.assertTrue(torch.equal(encoded.tensors[name], value))

    def test_what_is_refused(self):
        alone = {"prompt_embeds": torch.zeros(2, TEXT, 12), "prompt_mask": torch.ones(2, TEXT)}
        guided = {"steps": STEPS, "guidance_scale": 4.5}
        for inputs, reference, what in (
                (alone, guided, "no negative_prompt_embeds"),
                ({"prompt_embeds": alone["prompt_embeds"]}, None, "lack prompt_mask"),
                ({**alone, "prompt_embeds": torch.zeros(3, TEXT, 12)}, None, "prompt_embeds 3, prompt_mask 2"),
                ({**alone, "labels": [1]}, None, "'labels'"),
                (PROMPTS, {"step": 3}, "'step'"),
                (None, None, "expected `inputs`")):
            with self.assertRaisesRegex(ousac.Error, what):
                adapter_for(tiny.pixart(), inputs, reference)
        with self.assertRaisesRegex(ousac.Error, "guidance_scale in the reference"):
            adapter_for(tiny.flux(), PROMPTS, {"steps": STEPS})
        with self.assertRaisesRegex(ousac.Error, "Thing: calibrated by hand"):
            adapter_for(type("Thing", (), {})(), PROMPTS)


if __name__ == "__main__":
    torch.set_num_threads(1)
    unittest.main()
