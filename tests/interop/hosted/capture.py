"""Capture from loops that are not ours: see tests/interop/test_torch_capture.sh."""
import json
import os
import unittest
import unittest.mock
import warnings

import numpy
import torch
from diffusers import DiTTransformer2DModel
from support import path, run
from tiny import randomised

import ousac

STEPS, SAMPLES, BATCH, SCALE, SEED, TOKENS = 6, 6, 2, 3.0, 11, 7
LEVELS, PREDICTION, NULL = "linear 0.0001 0.02 1000", "epsilon", 10
RNG = numpy.random.default_rng(5)
LABELS = torch.from_numpy(RNG.integers(0, 10, SAMPLES))
NOISE = torch.from_numpy(RNG.standard_normal((SAMPLES, 3, 8, 8)).astype(numpy.float32))
INPUTS = path("captured.safetensors")
ALPHAS = torch.cumprod(1 - torch.linspace(0.0001, 0.02, 1000, dtype=torch.float64), 0)


def transformer():
    made = DiTTransformer2DModel(num_attention_heads=2, attention_head_dim=8, in_channels=3, out_channels=3, num_layers=2, sample_size=8,
                                 patch_size=2, num_embeds_ada_norm=10)
    return randomised(made, 3)


def schedule():
    """Both branches cached, apart; a step without guidance, one without its counterpart; one reused."""
    gates = [("full", "full"), ("cached", "cached"), ("cached", "full"), ("full", "cached"), ("reuse", "cached"), ("cached", "cached")]
    steps = [{"timestep": (STEPS - 1 - i) * (1000 // STEPS), "mode": "cfg", "scale": SCALE, "gate": {"cond": c, "uncond": u}}
             for i, (c, u) in enumerate(gates)]
    steps[3] = {"timestep": steps[3]["timestep"], "mode": "cond", "gate": "full"}
    data = {"format": "ousac-schedule", "version": 1, "name": "six", "solver": "ddim", "step_count": STEPS, "steps": steps}
    with open(path("captured.json"), "w") as file:
        json.dump(data, file)
    return path("captured.json"), steps


SCHEDULE, THEIRS = schedule()


def predict(model, x, t, labels):
    return model(x, timestep=torch.full((len(x),), t), class_labels=labels).sample


def trajectory(model, cap, first, count, joined=False, late=False):
    """DDIM, by hand, a step a turn: the captured loop. `joined`: both branches in one call; `late`: the unconditional one
    second."""
    x, labels = NOISE[first:first + count].to(model.dtype), LABELS[first:first + count]
    null = torch.full_like(labels, NULL)
    for i, step in enumerate(THEIRS):
        t, samples = step["timestep"], (first, count)
        if step["mode"] == "cond":
            with cap.step(i, branch="cond", samples=samples):
                e = predict(model, x, t, labels)
        elif joined:
            with cap.step(i, branches=["cond", "uncond"], samples=slice(first, first + count)):
                c, u = predict(model, torch.cat([x, x]), t, torch.cat([labels, null])).chunk(2)
            e = u + SCALE * (c - u)
        else:
            parts = {}
            for branch in ("cond", "uncond") if late else ("uncond", "cond"):
                with cap.step(i, branch=branch, samples=samples):
                    parts[branch] = predict(model, x, t, labels if branch == "cond" else null)
            e = parts["uncond"] + SCALE * (parts["cond"] - parts["uncond"])
        a = float(ALPHAS[t])
        b = float(ALPHAS[THEIRS[i + 1]["timestep"]]) if i + 1 < STEPS else 1.0
        x = b ** 0.5 * (x - (1 - a) ** 0.5 * e) / a ** 0.5 + (1 - b) ** 0.5 * e
        yield x


def sampled(model, cap, first, count, **loop):
    with torch.no_grad():
        return list(trajectory(model, cap, first, count, **loop))[-1]


def open_capture(model, name, samples=SAMPLES, first=0, tokens=TOKENS, **options):
    return ousac.capture(model, SCHEDULE, samples=samples, first_sample=first, levels=LEVELS, prediction=PREDICTION, seed=SEED,
                         tokens=tokens, out=path(name), inputs=INPUTS, **options)


def captured(model, name, samples=SAMPLES, first=0, **loop):
    with open_capture(model, name, samples, first) as cap:
        for at in range(first, first + samples, BATCH):
            sampled(model, cap, at, BATCH, **loop)
    return path(name), cap


def distance(ours, theirs):
    """The largest relative distance of a tensor, and how many there were."""
    largest, count = 0, 0
    with ousac.oca.File(ours) as a, ousac.oca.File(theirs) as b:
        assert list(a) == list(b)
        for name in a:
            if a[name].dtype in ("f32", "f64"):
                x, y = a[name].read("f64"), b[name].read("f64")
                scale = numpy.linalg.norm(y)
                assert numpy.isfinite(scale)
                if scale > 0:
                    largest, count = max(largest, numpy.linalg.norm(x - y) / scale), count + 1
    return largest, count


def hooks(model):
    return [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]


class Capture(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        ousac.safetensors.save(INPUTS, {"label": LABELS.numpy(), "noise": NOISE.numpy()})
        cls.model = transformer()
        cls.profile, cls.capture = captured(cls.model, "captured.oca")

    def host(self):
        def call(x, timestep, guidance, branch, samples):
            return predict(self.model, x, int(timestep), LABELS[[j % SAMPLES for j in samples]] if branch == "cond" else torch.full((len(x),), NULL))
        return ousac.Host(self.model, call, (3, 8, 8), LEVELS, PREDICTION)

    def test_is_the_profile_of_the_hosted_model(self):
        with self.host().open(inputs=INPUTS, micro_batch=BATCH, seed=SEED) as context:
            context.profile(SCHEDULE, path("hosted.oca"), samples=SAMPLES, pilot=0, tokens=TOKENS)
            # and as good as one there: planned with forecasts tried out, and packed
            context.plan(self.profile, path("hosted.plan"), budget_step=0.5)
            context.pack(self.profile, path("hosted.plan"), path("hosted.bundle"))
        far, count = distance(self.profile, path("hosted.oca"))
        self.assertLess(far, 1e-4)
        self.assertGreater(count, 14)
        with ousac.oca.File(self.profile) as a, ousac.oca.File(path("hosted.oca")) as b:
            for key in ("arch", "schedule_digest", "model_digest", "model_constants", "model_process", "inputs_digest", "compute"):
                self.assertEqual(a.metadata[key], b.metadata[key], key)

    def test_one_call_for_both_branches(self):
        """Another order of sums, and of products within the model: rounding."""
        for name, loop in (("joined.oca", {"joined": True}), ("late.oca", {"late": True})):
            self.assertLess(distance(captured(self.model, name, **loop)[0], self.profile)[0], 1e-5)

    def test_interleaved_batches(self):
        """All batches at a step before the next step: the sequential loop's profile, to the last bit but for what tells when it was
        made; refused where only one may be under way."""
        with open_capture(self.model, "interleaved.oca", at_once=SAMPLES // BATCH) as cap, torch.no_grad():
            for _ in zip(*[trajectory(self.model, cap, at, BATCH) for at in range(0, SAMPLES, BATCH)]):
                pass
        self.assertEqual(distance(path("interleaved.oca"), self.profile)[0], 0)
        with torch.no_grad(), self.assertRaisesRegex(ValueError, "samples from 2 on come before the last step of those from 0 on; `at_once`"):
            with open_capture(self.model, "never.oca") as cap:
                for _ in zip(*[trajectory(self.model, cap, at, BATCH) for at in range(0, SAMPLES, BATCH)]):
                    pass

    def test_shards_merge(self):
        parts = [captured(self.model, "part%d.oca" % i, 3 * BATCH - 2 * BATCH * i, 2 * BATCH * i) if i else
                 captured(self.model, "part0.oca", 2 * BATCH) for i in range(2)]
        run("merge", *[part for part, _ in parts], "-o", path("whole.oca"))
        self.assertLess(distance(path("whole.oca"), self.profile)[0], 1e-12)

    def test_a_bundle_comes_of_it(self):
        with self.capture.context() as context:
            context.plan(self.profile, path("captured.plan"), budget_step=0.5)
            context.pack(self.profile, path("captured.plan"), path("captured.bundle"))
            with self.assertRaisesRegex(ValueError, "captured"):
                context.sample(schedule=SCHEDULE)
        run("verify", path("captured.bundle"))
        with ousac.apply(self.model, path("captured.bundle")) as applied, applied.run(order=None), torch.no_grad():
            for i, step in enumerate(THEIRS):
                for branch in ("uncond", "cond") if step["mode"] == "cfg" else ("cond",):
                    with applied.branch(branch):
                        self.assertTrue(torch.isfinite(predict(self.model, NOISE[:1], step["timestep"], LABELS[:1])).all())

    def test_rows_of_a_device(self):
        """The way of a device's tensors, on the host's: the rows that are recorded, fetched alone; of both branches in one
        call, and of streams that are seen whole."""
        for tokens, loop in ((TOKENS, {}), (TOKENS, {"joined": True}), (None, {"joined": True})):
            with open_capture(self.model, "plain.oca", tokens=tokens) as cap:
                for at in range(0, SAMPLES, BATCH):
                    sampled(self.model, cap, at, BATCH, **loop)
            with unittest.mock.patch("ousac.capturing._on_host", lambda tensor: False), warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                with open_capture(self.model, "fetched.oca", tokens=tokens) as cap:
                    for at in range(0, SAMPLES, BATCH):
                        sampled(self.model, cap, at, BATCH, **loop)
            self.assertEqual(len([w for w in told if "copied to the host" in str(w.message)]), 1)
            self.assertEqual(distance(path("fetched.oca"), path("plain.oca"))[0], 0)

    def test_half_precision(self):
        for dtype, said, bound in ((torch.bfloat16, "bf16+attention", 0.5), (torch.float16, "f16+attention", 0.1)):
            model = transformer().to(dtype)
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                made, _ = captured(model, "half.oca")
            self.assertEqual(len([w for w in told if "copied" in str(w.message)]), 1)
            far = distance(made, self.profile)[0]
            self.assertTrue(1e-4 < far < bound, far)
            with ousac.oca.File(made) as file:
                self.assertEqual(file.metadata["compute"], said)

    def test_pilot(self):
        with open_capture(self.model, "pilot.oca", tokens=None, pilot=True) as cap:
            for at in range(0, SAMPLES, BATCH):
                sampled(self.model, cap, at, BATCH)
        with open_capture(self.model, "weighed.oca", weights=path("pilot.oca")) as cap:
            for at in range(0, SAMPLES, BATCH):
                sampled(self.model, cap, at, BATCH)
        with self.host().open(inputs=INPUTS, micro_batch=BATCH, seed=SEED) as context:
            context.profile(SCHEDULE, path("hosted.weighed.oca"), samples=SAMPLES, pilot=SAMPLES, tokens=TOKENS)
        self.assertLess(distance(path("weighed.oca"), path("hosted.weighed.oca"))[0], 1e-3)

    def test_results_do_not_change_and_hooks_go(self):
        before = hooks(self.model)
        with torch.no_grad():
            plain = predict(self.model, NOISE[:2], 500, LABELS[:2])
            with self.assertRaisesRegex(ValueError, "from 2 on did not come"):
                with open_capture(self.model, "never.oca") as cap:
                    self.assertNotEqual(hooks(self.model), before)
                    self.assertTrue(torch.equal(predict(self.model, NOISE[:2], 500, LABELS[:2]), plain))  # no step: not captured
                    with cap.step(0, "cond", samples=(0, 2)):
                        self.assertTrue(torch.equal(predict(self.model, NOISE[:2], 500, LABELS[:2]), plain))
                    with self.assertRaisesRegex(ZeroDivisionError, "by zero"):
                        with cap.step(0, "uncond", samples=(0, 2)):
                            1 / 0
                    # what was under way is forgotten; samples come again from their first step
                    with self.assertRaisesRegex(ValueError, "expected step 0"):
                        with cap.step(1, "cond", samples=(0, 2)):
                            predict(self.model, NOISE[:2], 500, LABELS[:2])
                    sampled(self.model, cap, 0, 2)
            self.assertEqual(hooks(self.model), before)
            with self.assertRaises(KeyError):
                with open_capture(self.model, "never.oca") as cap:
                    sampled(self.model, cap, 0, 2)
                    raise KeyError
            self.assertEqual(hooks(self.model), before)
        self.assertFalse(os.path.exists(path("never.oca")))

    def test_what_is_wrong_is_named(self):
        x, labels, model = NOISE[:2], LABELS[:2], self.model
        attention = model.transformer_blocks[1].attn1

        def step(what, act=lambda: predict(model, x, 500, labels), **options):
            options.setdefault("samples", (0, 2))
            with torch.no_grad(), self.assertRaisesRegex((ousac.Error, ValueError), what):
                with cap.step(options.pop("index", 0), **options):
                    act()

        def twice():
            predict(model, x, 500, labels)
            attention.to_k(torch.zeros(2, 16, 16))

        def spoilt():
            predict(model, x * float("nan"), 500, labels)

        with self.assertRaisesRegex(ValueError, "did not come"):
            with open_capture(model, "never.oca") as cap:
                step("was not called", lambda: None)
                step("called twice", lambda: [predict(model, x, 500, labels), predict(model, x, 500, labels)])
                step(r"transformer_blocks\.1\.attn1\.to_k: ran twice", twice)
                step("blocks.0.attn.q, step 0, branch cond: activations are not finite", spoilt)
                step("'conditional'; expected 'cond' or 'uncond'", branch="conditional")
                step("each once", branches=["cond", "cond"])
                step("one of `branch` and `branches`", branch="cond", branches=["cond"])
                step("expected 2", samples=(0, 1), act=lambda: predict(model, x[:1], 500, labels[:1]))
                step("branch cond: blocks.0.attn.qkv is", act=lambda: predict(model, x[:1], 500, labels[:1]))
                step("not evaluated", index=3, branch="uncond")
                step("step within|within step", lambda: cap.step(1).__enter__())
                skipped = model.transformer_blocks[1].ff.forward
                model.transformer_blocks[1].ff.forward = lambda hidden, *rest, **more: hidden
                try:
                    step("group blocks.1.mlp.fc1 did not come")
                finally:
                    del model.transformer_blocks[1].ff.forward
                self.assertEqual(model.transformer_blocks[1].ff.forward, skipped)
        with self.assertRaisesRegex(ousac.Error, "`scheduler`"):
            ousac.capture(model, SCHEDULE)
        with self.assertRaisesRegex(ousac.Error, "training mode"):
            ousac.capture(transformer().train(), SCHEDULE, levels=LEVELS, prediction=PREDICTION)


if __name__ == "__main__":
    torch.set_num_threads(1)
    unittest.main()
