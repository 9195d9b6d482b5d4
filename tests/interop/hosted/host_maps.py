"""Every site map on a small instance of its class, every parameter random: see tests/interop/test_torch_maps.sh.

Of each: a run through the library is the plain module's; a bundle made through it gives in the library and by ousac.apply
the same samples; a batch is its samples; and what is attached is taken off again.
"""
import json
import os
import unittest

import diffusers
import numpy
import torch

import ousac

WORK = os.environ["WORK"]
STEPS, SHAPE, TEXT, ROWS = 7, (4, 8, 8), 5, 4


def path(name):
    return os.path.join(WORK, name)


def schedule():
    gates = ["full", "cached", "cached", "full", "cached", "reuse", "cached"]
    steps = [{"timestep": 900 - 130 * i, "mode": "cond", "gate": gate} for i, gate in enumerate(gates)]
    data = {"format": "ousac-schedule", "version": 1, "name": "seven", "solver": "ddim", "step_count": STEPS, "steps": steps}
    with open(path("seven.json"), "w") as file:
        json.dump(data, file)
    return path("seven.json")


def tokens(x):
    return x.flatten(2).transpose(1, 2)


def pixels(y, like):
    return y.transpose(1, 2).reshape(like.shape)


def pixart():
    model = diffusers.PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, cross_attention_dim=16,
        caption_channels=12, sample_size=8, patch_size=2, use_additional_conditions=False)

    def call(x, t, text, pooled):
        return model(x, encoder_hidden_states=text, timestep=t,
                     added_cond_kwargs={"resolution": None, "aspect_ratio": None}).sample[:, :4]
    return model, call


def sd3():
    model = diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_layers=3, attention_head_dim=8, num_attention_heads=2, joint_attention_dim=12,
        caption_projection_dim=16, pooled_projection_dim=10, out_channels=4, pos_embed_max_size=8, dual_attention_layers=(0,),
        qk_norm="rms_norm")

    def call(x, t, text, pooled):
        return model(x, encoder_hidden_states=text, pooled_projections=pooled, timestep=t).sample
    return model, call


def flux():
    model = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=2, num_single_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=12, pooled_projection_dim=10, guidance_embeds=True, axes_dims_rope=(2, 2, 4))
    places = torch.stack([torch.zeros(64), torch.arange(64) // 8, torch.arange(64) % 8], 1)

    def call(x, t, text, pooled):
        out = model(tokens(x), encoder_hidden_states=text, pooled_projections=pooled, timestep=t / 1000, img_ids=places,
                    txt_ids=torch.zeros(TEXT, 3), guidance=torch.full((len(x),), 3.5)).sample
        return pixels(out, x)
    return model, call


def qwenimage():
    model = diffusers.QwenImageTransformer2DModel(
        patch_size=1, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2, joint_attention_dim=12,
        axes_dims_rope=(2, 2, 4))

    def call(x, t, text, pooled):
        out = model(tokens(x), encoder_hidden_states=text, encoder_hidden_states_mask=torch.ones(len(x), TEXT, dtype=torch.bool),
                    timestep=t / 1000, img_shapes=[[(1, 8, 8)]] * len(x)).sample
        return pixels(out, x)
    return model, call


def wan():
    model = diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=12, freq_dim=16,
        ffn_dim=48, num_layers=2, cross_attn_norm=True, rope_max_seq_len=32)

    def call(x, t, text, pooled):
        return model(x[:, :, None], timestep=t, encoder_hidden_states=text).sample[:, :, 0]
    return model, call


class Maps(unittest.TestCase):
    def check(self, make, time=1.0):
        torch.manual_seed(11)
        transformer, run = make()
        transformer.eval()
        with torch.no_grad():
            for name, parameter in transformer.named_parameters():
                parameter.normal_(1.0 if "norm" in name and name.endswith("weight") and parameter.dim() == 1 else 0.0, 0.2)
        text, pooled = torch.randn(ROWS, TEXT, 12), torch.randn(ROWS, 10)
        noise = numpy.random.default_rng(5).standard_normal((ROWS,) + SHAPE).astype(numpy.float32)
        ousac.safetensors.save(path("inputs.safetensors"), {"noise": noise})

        def call(x, timestep, guidance, branch, samples):
            rows = [j % ROWS for j in samples]
            return run(x, torch.full((len(rows),), timestep), text[rows], pooled[rows])

        def loop(rows):
            x, scheduler = torch.from_numpy(noise[rows].copy()), ousac.Scheduler.from_schedule(schedule())
            with torch.no_grad():
                for t in scheduler.timesteps:
                    x = scheduler.step(call(x, float(t), 1.0, "cond", rows), t, x).prev_sample
            return x.numpy()

        before = [list(m.__dict__) for m in transformer.modules()]
        host = ousac.Host(transformer, call, SHAPE, "linear 0.0001 0.02 1000", constants="of a test")
        files = {name: path("%s.%s" % (make.__name__, name)) for name in ("profile", "plan", "bundle")}
        with host.open(inputs=path("inputs.safetensors"), micro_batch=2, threads=1) as context:
            exact = context.sample(schedule=schedule(), count=ROWS)
            context.profile(schedule(), files["profile"], samples=ROWS, pilot=2)
            context.plan(files["profile"], files["plan"], budget_step=0.6, forecast=1, compare=0)
            context.pack(files["profile"], files["plan"], files["bundle"])
            calibrated = context.sample(bundle=files["bundle"], count=ROWS)
        rows = list(range(ROWS))
        self.near(exact, loop(rows))
        with ousac.apply(transformer, files["bundle"]) as applied:
            self.assertIn("low-rank", applied.bundle.path_of)

            def cached(rows):
                with applied.run(order=None, time=time), applied.branch("cond"):
                    return loop(rows)

            batch = cached(rows)
            self.near(batch, calibrated)
            self.near(batch, numpy.concatenate([cached([row]) for row in rows]))
            self.assertGreater(abs(batch - exact).max(), 1e-6)  # something was cached
        self.near(exact, loop(rows))
        self.assertEqual([list(m.__dict__) for m in transformer.modules()], before)

    def near(self, a, b):
        self.assertTrue(numpy.isfinite(a).all())
        difference = numpy.linalg.norm((a - b).reshape(ROWS, -1), axis=1) / numpy.linalg.norm(b.reshape(ROWS, -1), axis=1)
        self.assertLess(difference.max(), 1e-4)

    def test_pixart(self):
        self.check(pixart)

    def test_sd3(self):
        self.check(sd3)

    def test_flux(self):
        self.check(flux, 1000.0)

    def test_qwenimage(self):
        self.check(qwenimage, 1000.0)

    def test_wan(self):
        self.check(wan)

    def test_every_shipped_map_has_a_test(self):
        shipped = {name[:-5] for name in os.listdir(os.path.join(os.path.dirname(ousac.__file__), "maps"))}
        self.assertEqual(shipped, {"dit", "pixart", "sd3", "flux", "qwenimage", "wan"})


if __name__ == "__main__":
    torch.set_num_threads(1)
    unittest.main()
