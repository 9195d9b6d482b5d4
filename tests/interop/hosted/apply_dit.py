"""ousac.apply in an unmodified DiTPipeline, against the program: see tests/interop/test_torch_apply.sh."""
import gc
import json
import os
import unittest

import numpy
import torch
from diffusers import DDIMScheduler
from safetensors import safe_open
from safetensors.torch import load_file
from support import MODEL, calibrate, error_over, evaluation, given_noise, native, path, pipeline, relative, run, sample, write_inputs

import ousac
from ousac.convert import convert

LABELS, NOISE = write_inputs()
STEPS = 12


def schedule(name, edit=None, solver="ddim"):
    """12 guided steps where DDIMScheduler has them, every third full, edited."""
    steps = [{"timestep": (STEPS - 1 - i) * (1000 // STEPS), "mode": "cfg", "scale": 3,
              "gate": "full" if i % 3 == 0 else "cached"} for i in range(STEPS)]
    data = {"format": "ousac-schedule", "version": 1, "name": name, "solver": solver, "step_count": STEPS, "steps": steps}
    if edit:
        edit(data)
    with open(path(name + ".json"), "w") as file:
        json.dump(data, file)
    return path(name + ".json")


def sparse(data):
    """Some passes skipped, scales that vary, branches refreshed apart, a reuse."""
    for i, step in enumerate(data["steps"]):
        step["scale"] = 2 + 0.25 * i
        if i % 4 == 1:
            step["mode"] = "cond"
            del step["scale"]
        elif i % 4 == 2:
            step["gate"] = {"cond": "cached", "uncond": "full"}
    data["steps"][7]["gate"] = "reuse"


def mixed(data):
    """All four gates, branches refreshed apart."""
    data["version"] = 4
    for step, gate in zip(data["steps"], ("full", "full", "extrapolate", "cached", "full", "extrapolate", "reuse", "cached", "full",
                                          "cached", "extrapolate", "extrapolate")):
        step["gate"] = gate
    data["steps"][1]["gate"] = {"cond": "full", "uncond": "extrapolate"}
    data["steps"][2]["gate"] = {"cond": "extrapolate", "uncond": "full"}


def fitted(data):
    sparse(data)
    rng = numpy.random.default_rng(3)
    data["version"] = 2
    times = numpy.round(numpy.linspace(0, 999, STEPS)[::-1])
    for i, step in enumerate(data["steps"]):
        step.update(timestep=float(times[i]), k=0.002 * rng.standard_normal(), m=0.02 * rng.standard_normal(),
                    c=0.1 * rng.standard_normal(), d=0.05 * rng.standard_normal())
        if step["mode"] == "cond":
            step["hold"] = 1.5


class Apply(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.plain = calibrate("plain", schedule("plain"), "on")
        cls.sparse = calibrate("sparse", schedule("sparse", sparse))
        cls.fitted = calibrate("fitted", schedule("fitted", fitted), "on")
        cls.mixed = calibrate("mixed", schedule("mixed", mixed), "on")
        cls.pipe = pipeline()

    def calibrated(self, bundle, pipe=None, rows=slice(16, 18), scale=3.0, **options):
        pipe = pipe or self.pipe
        with ousac.apply(pipe, bundle, **options):
            return sample(pipe, LABELS[rows], NOISE[rows], guidance_scale=scale, num_inference_steps=STEPS)

    def exact(self, rows=slice(16, 18), pipe=None, scale=3.0):
        return sample(pipe or self.pipe, LABELS[rows], NOISE[rows], guidance_scale=scale, num_inference_steps=STEPS)

    def test_samples_are_the_programs(self):
        self.assertLess(relative(self.exact(), native(self.plain, "exact")).max(), 1e-4)
        self.assertLess(relative(self.calibrated(self.plain), native(self.plain)).max(), 1e-4)
        record = ousac.summary(self.pipe)
        self.assertEqual(record.evaluations["cond"], {"full": 4, "cached": 8, "reuse": 0, "extrapolate": 0, "skipped": 0})

    def test_error_is_what_eval_states(self):
        stated = evaluation(self.plain)
        measured = error_over(self.calibrated(self.plain), self.exact())
        self.assertLess(abs(measured / stated - 1), 1e-3)

    def test_scales_skips_and_reuse_in_an_unmodified_pipeline(self):
        for scale in (3.0, 7.5):  # whatever the pipeline's own scale is
            self.assertLess(relative(self.calibrated(self.sparse, scale=scale), native(self.sparse)).max(), 1e-4)
        record = ousac.summary(self.pipe)
        self.assertEqual(record.evaluations["uncond"]["skipped"], 3)
        self.assertEqual(record.evaluations["cond"]["reuse"], 1)

    def test_all_gates(self):
        self.assertLess(relative(self.calibrated(self.mixed), native(self.mixed)).max(), 1e-4)
        record = ousac.summary(self.pipe)
        self.assertEqual(record.evaluations["cond"], {"full": 4, "cached": 3, "reuse": 1, "extrapolate": 4, "skipped": 0})
        self.assertEqual(record.evaluations["uncond"], {"full": 4, "cached": 3, "reuse": 2, "extrapolate": 3, "skipped": 0})

    def test_fitted_coefficients(self):
        pipe = pipeline()
        with self.assertRaisesRegex(ousac.Error, "ousac.Scheduler"):
            self.calibrated(self.fitted, pipe)
        pipe.scheduler = ousac.Scheduler.from_schedule(self.fitted, pipe.scheduler)
        wanted = native(self.fitted)
        self.assertLess(relative(self.calibrated(self.fitted, pipe), wanted).max(), 1e-4)
        pipe.scheduler.save_pretrained(path("scheduler"))
        pipe.scheduler = ousac.Scheduler.from_pretrained(path("scheduler"))
        self.assertLess(relative(self.calibrated(self.fitted, pipe), wanted).max(), 1e-4)
        with self.assertRaisesRegex(ousac.Error, "num_inference_steps=12"):
            sample(pipe, LABELS[:1], NOISE[:1], num_inference_steps=50)

    def test_second_order_solver_from_a_schedule_file(self):
        file = schedule("second", lambda d: [d.update(solver="dpmpp-2m"), d["steps"].pop()] and [
            d.update(step_count=STEPS - 1)] and [s.update(gate="full") for s in d["steps"]])
        pipe = pipeline()
        pipe.scheduler = ousac.Scheduler.from_schedule(file, pipe.scheduler)
        run("sample", "--model", MODEL, "--inputs", path("inputs.safetensors"), "--schedule", file, "--samples", "16:18",
            "--raw", path("native.oca"), "-o", path("native.png"))
        with ousac.oca.File(path("native.oca")) as archive:
            wanted = archive["samples/exact"].read("f32")
        got = sample(pipe, LABELS[16:18], NOISE[16:18], guidance_scale=3.0, num_inference_steps=STEPS - 1)
        self.assertLess(relative(got, wanted).max(), 1e-4)

    def test_a_batch_is_its_samples(self):
        batch = self.calibrated(self.plain, rows=slice(16, 20))
        singles = numpy.concatenate([self.calibrated(self.plain, rows=slice(i, i + 1)) for i in range(16, 20)])
        self.assertLess(relative(batch, singles).max(), 1e-5)

    def test_runs_leave_no_trace(self):
        first = self.calibrated(self.plain)
        with ousac.apply(self.pipe, self.plain) as applied:
            call = lambda rows: sample(self.pipe, LABELS[rows], NOISE[rows], guidance_scale=3.0, num_inference_steps=STEPS)
            call(slice(0, 3))
            forward, seen = self.pipe.transformer.pos_embed.forward, []

            def failing(x):
                seen.append(1)
                if len(seen) == 9:
                    raise RuntimeError("in mid-run")
                return forward(x)

            self.pipe.transformer.pos_embed.forward = failing
            with self.assertRaisesRegex(RuntimeError, "mid-run"):
                call(slice(0, 4))
            del self.pipe.transformer.pos_embed.forward
            self.assertIsNone(applied._run)
            numpy.testing.assert_array_equal(call(slice(16, 18)), first)
            numpy.testing.assert_array_equal(call(slice(16, 18)), first)

    def test_pipelines_that_share_a_transformer(self):
        other = pipeline()
        other.transformer = self.pipe.transformer
        exact = self.exact(pipe=other)
        with ousac.apply(self.pipe, self.plain):
            numpy.testing.assert_array_equal(self.exact(pipe=other), exact)
            self.assertEqual(ousac.summary(self.pipe).runs, 0)

    def test_bundles_at_work_in_both_pipelines_of_a_transformer(self):
        other = pipeline()
        other.transformer = self.pipe.transformer
        wanted = self.calibrated(self.plain), self.calibrated(self.sparse, pipe=other)
        with ousac.apply(self.pipe, self.plain), ousac.apply(other, self.sparse):
            for _ in range(2):
                for pipe, result in zip((self.pipe, other), wanted):
                    numpy.testing.assert_array_equal(self.exact(pipe=pipe), result)

    def test_remove_restores_exactly(self):
        modules = list(self.pipe.transformer.modules())
        before = [dict(m.__dict__) for m in modules]
        kind, exact = type(self.pipe), self.exact()
        applied = ousac.apply(self.pipe, self.plain)
        second = ousac.apply(self.pipe, self.sparse)
        with self.assertRaisesRegex(ousac.Error, "remove that first"):
            applied.remove()
        second.remove()
        applied.remove()
        applied.remove()
        self.assertIs(type(self.pipe), kind)
        self.assertEqual([list(m.__dict__) for m in modules], [list(d) for d in before])
        for module, old in zip(modules, before):
            for key, value in old.items():
                self.assertIs(module.__dict__[key], value)
        numpy.testing.assert_array_equal(self.exact(), exact)

    def test_sparse_guidance_is_a_hand_written_loop(self):
        file = schedule("guided", lambda d: (sparse(d), [s.update(gate="full") for s in d["steps"]]))
        got = self.calibrated(file)
        transformer, scheduler = self.pipe.transformer, DDIMScheduler(clip_sample=False, timestep_spacing="leading")
        scheduler.set_timesteps(STEPS)
        x = torch.from_numpy(NOISE[16:18])
        labels, null = torch.from_numpy(LABELS[16:18]), torch.full((2,), 1000)
        with open(file) as text, torch.no_grad():
            for t, step in zip(scheduler.timesteps, json.load(text)["steps"]):
                e = transformer(x, timestep=t.expand(2), class_labels=labels).sample
                if step["mode"] == "cfg":
                    u = transformer(x, timestep=t.expand(2), class_labels=null).sample
                    e = u + step["scale"] * (e - u)
                x = scheduler.step(e, t, x).prev_sample
        self.assertLess(relative(got, x.numpy()).max(), 1e-4)

    def test_full_rank_is_the_plain_pipeline(self):
        with ousac.apply(self.pipe, self.sparse) as applied:
            bundle = applied.bundle
            for i, site in enumerate(applied.sites.sites):  # W = W I
                w = site.linear.weight.detach()
                bundle.path_of[i] = "low-rank"
                applied._factors[i] = (w.t().contiguous(), torch.eye(w.shape[1]))
            bundle.live = [True] * len(bundle.live)
            applied.gates = {b: ["cached" if g == "reuse" else g for g in gates] for b, gates in applied.gates.items()}
            got = sample(self.pipe, LABELS[16:18], NOISE[16:18], guidance_scale=3.0, num_inference_steps=STEPS)
        file = schedule("guided2", lambda d: (sparse(d), [s.update(gate="full") for s in d["steps"]]))
        self.assertLess(relative(got, self.calibrated(file)).max(), 1e-4)

    def test_no_input_is_held(self):
        """Whatever a module was handed may be overwritten once it has returned."""
        wanted = self.calibrated(self.plain)
        hooks = []

        def spoil(module, args, out):
            args[0].fill_(float("nan"))

        with ousac.apply(self.pipe, self.plain):
            blocks = self.pipe.transformer.transformer_blocks
            for block in blocks:  # inputs that nobody reads afterwards
                hooks.append(block.ff.net[2].register_forward_hook(spoil))
                hooks.append(block.attn1.to_out[0].register_forward_hook(spoil))
            got = sample(self.pipe, LABELS[16:18], NOISE[16:18], guidance_scale=3.0, num_inference_steps=STEPS)
        for hook in hooks:
            hook.remove()
        numpy.testing.assert_array_equal(got, wanted)

    def test_bytes_held_are_those_of_the_plan(self):
        self.calibrated(self.plain)
        bundle, floats = ousac.Bundle(self.plain), 0
        for i, site in enumerate(bundle.sites):
            if bundle.path_of[i] == "low-rank":
                floats += 2 * (site["m"] + bundle.ranks[i])  # a forecast looks two back
            elif bundle.path_of[i] == "frozen":
                floats += site["m"]
        self.assertGreater(floats, 0)
        tokens = bundle.streams[0]["tokens"]
        self.assertEqual(ousac.summary(self.pipe).bytes, 2 * 2 * 4 * tokens * floats)  # branches, samples, bytes

    def test_memory_is_what_was_said(self):
        """Bytes of all tensors that are alive, after as many evaluations as fill a run's caches: what is said in advance and what
        the summary says."""
        def alive():
            gc.collect()
            storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in gc.get_objects() if torch.is_tensor(t)}
            return sum(storages.values())

        transformer, rows = self.pipe.transformer, slice(16, 19)
        x, labels = torch.from_numpy(NOISE[rows]), torch.from_numpy(LABELS[rows])
        null = torch.full_like(labels, 1000)
        for bundle in (self.plain, self.sparse, self.mixed):  # with a forecast; with a reuse; with outputs of two evaluations
            with ousac.apply(transformer, bundle) as applied, torch.no_grad(), applied.run(order=None):
                said, before = applied.held_bytes(3), alive()
                for step in applied.schedule.steps:
                    for branch in ("uncond", "cond"):
                        if step.evaluates(branch):
                            with applied.branch(branch):
                                transformer(x, timestep=torch.full((3,), int(step.timestep)), class_labels=labels if branch == "cond" else null)
                held = alive() - before
            self.assertGreater(said, 0)
            self.assertEqual(said, applied.record.bytes)
            self.assertLess(abs(held / said - 1), 0.02)

    def test_other_weights_and_other_schedules(self):
        other = pipeline()
        with torch.no_grad():
            other.transformer.transformer_blocks[3].ff.net[2].weight.mul_(1.1)
        with self.assertRaisesRegex(ousac.Error, r"blocks\.3\.mlp\.fc2"):
            ousac.apply(other, self.plain)
        calls = []
        hook = self.pipe.transformer.proj_out_2.register_forward_hook(lambda *unused: calls.append(1))
        with ousac.apply(self.pipe, self.plain):
            for options, what in (({"num_inference_steps": 20}, "20"), ({"num_inference_steps": STEPS, "guidance_scale": 1.0}, "guid")):
                with self.assertRaisesRegex(ousac.Error, what):
                    sample(self.pipe, LABELS[:1], NOISE[:1], **options)
        for key, value, what in (("clip_sample", True, "clip"), ("beta_end", 0.012, "noise levels"),
                                 ("set_alpha_to_one", False, "alpha"), ("prediction_type", "v_prediction", "predicts")):
            self.pipe.scheduler = DDIMScheduler(**{"clip_sample": False, "timestep_spacing": "leading", key: value})
            with self.assertRaisesRegex(ousac.Error, what):
                self.calibrated(self.plain)
        self.pipe.scheduler = DDIMScheduler(clip_sample=False, timestep_spacing="leading")
        hook.remove()
        self.assertEqual(calls, [])

    def test_fused_and_foreign_linears_are_refused_by_name(self):
        other = pipeline()
        other.transformer.transformer_blocks[2].ff.net[2] = torch.nn.Identity()
        with self.assertRaisesRegex(ousac.Error, r"transformer_blocks\.2\.ff\.net\.2"):
            ousac.apply(other, self.plain)
        other = pipeline()
        other.transformer.transformer_blocks[1].attn1.fuse_projections()
        with self.assertRaisesRegex(ousac.Error, "fuse"):
            ousac.apply(other, self.plain)

    def test_lora_on_top(self):
        """Linears wrapped as PEFT wraps them: appended to the factors, so that full rank is the wrapped model exactly."""
        class Wrapped(torch.nn.Module):
            def __init__(self, base, seed):
                super().__init__()
                generator = torch.Generator().manual_seed(seed)
                rows, columns = base.weight.shape
                down, up = torch.nn.Linear(columns, 3, bias=False), torch.nn.Linear(3, rows, bias=False)
                with torch.no_grad():
                    down.weight.copy_(torch.randn(3, columns, generator=generator) / columns ** 0.5)
                    up.weight.copy_(torch.randn(rows, 3, generator=generator) / 3 ** 0.5)
                self.base_layer, self.lora_A, self.lora_B = base, {"style": down}, {"style": up}
                self.scaling, self.active_adapters, self.merged, self.disable_adapters = {"style": 0.3}, ["style"], False, False

            def forward(self, x):
                return self.base_layer(x) + self.scaling["style"] * self.lora_B["style"](self.lora_A["style"](x))

        pipe = pipeline()
        for i, block in enumerate(pipe.transformer.transformer_blocks):
            block.attn1.to_q, block.ff.net[2] = Wrapped(block.attn1.to_q, i), Wrapped(block.ff.net[2], 100 + i)
        pipe.transformer.eval()
        exact = self.exact(pipe=pipe)
        self.assertGreater(relative(exact, self.exact()).min(), 0.01)  # it does something
        with ousac.apply(pipe, self.plain) as applied:
            ranks, wrapped = applied.bundle.ranks, 0
            for i, site in enumerate(applied.sites.sites):
                a, b = applied._factors.get(i, (None, None))
                w = site.base.weight.detach()
                extra = (w.new_zeros(0, site.m), w.new_zeros(0, site.n))
                if site.linear is not site.base:
                    up, down = site.linear.lora_B["style"].weight.detach(), site.linear.lora_A["style"].weight.detach()
                    extra = (0.3 * up.t(), down)
                    if a is not None:  # the bundle's rows, where it has any, and the adapter's behind them
                        wrapped += 1
                        kept = ranks[i] if applied.bundle.path_of[i] == "low-rank" else 0
                        self.assertEqual((len(a), len(b)), (kept + 3, kept + 3))
                        torch.testing.assert_close(a[kept:].t() @ b[kept:], 0.3 * up @ down)
                applied.bundle.path_of[i] = "low-rank"
                applied._factors[i] = (torch.cat([w.t(), extra[0]]), torch.cat([torch.eye(site.n), extra[1]]))
            applied.bundle.live = [True] * len(applied.bundle.live)
            got = sample(pipe, LABELS[16:18], NOISE[16:18], guidance_scale=3.0, num_inference_steps=STEPS)
            self.assertEqual(applied.record.evaluations["cond"]["cached"], 8)
            self.assertGreater(wrapped, 0)
        self.assertLess(relative(got, exact).max(), 1e-4)
        with ousac.apply(pipe, self.plain):
            near = sample(pipe, LABELS[16:18], NOISE[16:18], guidance_scale=3.0, num_inference_steps=STEPS)
        self.assertLess(relative(near, exact).max(), relative(exact, self.exact()).min())
        with self.assertRaisesRegex(ousac.Error, r"transformer_blocks\.0\.attn1\.to_q: wrapped by an adapter"):
            ousac.Host(pipe.transformer, None, (3, 32, 32), "linear 0.0001 0.02 1000")

    def test_quantised_linears_are_refused_by_name(self):
        class Linear4bit(torch.nn.Linear):
            pass

        pipe = pipeline()
        pipe.transformer.transformer_blocks[1].ff.net[2] = Linear4bit(4, 4)
        with self.assertRaisesRegex(ousac.Error, r"transformer_blocks\.1\.ff\.net\.2: a Linear4bit"):
            ousac.apply(pipe, self.plain)
        for kind, what in ((torch.float8_e4m3fn, "float8_e4m3fn"), (torch.int8, "int8")):
            pipe = pipeline()
            linear = pipe.transformer.transformer_blocks[0].attn1.to_v
            linear.weight = torch.nn.Parameter(linear.weight.detach().to(kind), requires_grad=False)
            with self.assertRaisesRegex(ousac.Error, r"transformer_blocks\.0\.attn1\.to_v: .*" + what):
                ousac.apply(pipe, self.plain)

    def test_a_transformer_in_a_loop_of_ones_own(self):
        wanted = self.calibrated(self.plain)
        transformer, scheduler = self.pipe.transformer, DDIMScheduler(clip_sample=False, timestep_spacing="leading")
        scheduler.set_timesteps(STEPS)
        labels, null = torch.from_numpy(LABELS[16:18]), torch.full((2,), 1000)
        x = torch.from_numpy(NOISE[16:18])
        with ousac.apply(transformer, self.plain) as applied, torch.no_grad(), applied.run(order=None):
            for t in scheduler.timesteps:
                with applied.branch("uncond"):
                    u = transformer(x, timestep=t.expand(2), class_labels=null).sample
                with applied.branch("cond"):
                    c = transformer(x, timestep=t.expand(2), class_labels=labels).sample
                x = scheduler.step(u + 3.0 * (c - u), t, x).prev_sample
        self.assertLess(relative(x.numpy(), wanted).max(), 1e-5)

    def test_lower_precision(self):
        pipe = pipeline()
        pipe.transformer.to(torch.bfloat16)
        wanted = native(self.plain)
        with ousac.apply(pipe, self.plain), given_noise(NOISE[16:18]):
            got = pipe([int(v) for v in LABELS[16:18]], guidance_scale=3.0, num_inference_steps=STEPS, output_type="pt").images
        self.assertLess(relative(got.float().numpy(), numpy.clip(wanted / 2 + 0.5, 0, 1)).max(), 0.05)
        self.assertEqual(ousac.summary(pipe).evaluations["cond"]["cached"], 8)

    def test_checkpoints_of_torch_are_converted(self):
        state = {name: value.to(torch.bfloat16) if "proj_out" in name else value
                 for name, value in self.pipe.transformer.state_dict().items()}
        torch.save({"model": state, "step": 3}, path("model.bin"))
        with self.assertRaisesRegex(ousac.Error, "model"):
            convert(path("model.bin"), path("converted.safetensors"))
        self.assertEqual(convert(path("model.bin"), path("converted.safetensors"), "model"), len(state))
        found = load_file(path("converted.safetensors"))
        self.assertEqual(set(found), set(state))
        for name, value in state.items():
            self.assertEqual(found[name].dtype, value.dtype)
            self.assertTrue(torch.equal(found[name], value))

        class Trap:
            def __reduce__(self):
                return os.mkdir, (path("trapped"),)

        torch.save({"model": Trap()}, path("trap.bin"))
        with self.assertRaises(Exception):
            convert(path("trap.bin"), path("trap.safetensors"))
        self.assertFalse(os.path.exists(path("trapped")) or os.path.exists(path("trap.safetensors")))

    def test_a_corrected_layer_from_its_safetensors_form_alone(self):
        """As another loader would: the file's `config` and tensors, and the model's weights; against what ousac.apply gives."""
        run("export", "--safetensors", self.plain, "-o", path("plain.safetensors"))
        with safe_open(path("plain.safetensors"), framework="pt") as file:
            config = json.loads(file.metadata()["config"])
            plan = config["plans"][config["plan"]]
            index = plan["paths"].index("low-rank")
            site, rank = config["sites"][index], plan["ranks"][index]
            factors = {}
            for side in "AB":
                name = "factor/%s/%s" % (site["name"], side)
                factors[side] = file.get_tensor(name)[:rank].float()
                if name + ".scale" in file.keys():
                    factors[side] *= file.get_tensor(name + ".scale")[:rank, None]
            forecast = file.get_tensor("forecast/" + config["plan"]) if plan["forecast"] else None
        self.assertIsNotNone(forecast)
        a, b, seen = factors["A"], factors["B"], []
        with ousac.apply(self.pipe, self.plain) as applied:
            linear = applied.sites.sites[index].linear
            self.assertEqual((linear.out_features, linear.in_features), (site["m"], site["n"]))
            hook = linear.register_forward_hook(lambda _, args, out: seen.append((args[0].clone(), out.clone(), applied._now)))
            sample(self.pipe, LABELS[16:18], NOISE[16:18], guidance_scale=3.0, num_inference_steps=STEPS)
            hook.remove()
        w, bias, kept, corrected = linear.weight.detach(), linear.bias.detach(), [[], []], 0
        gates = [step["gate"] for step in config["schedule"]["steps"]]
        for x, got, now in seen:
            fulls = kept[now.branch]
            if gates[now.step] == "full":
                fulls.append((x, x @ w.t() + bias))
                continue
            (x_c, y_c), (x_cc, y_cc) = fulls[-1], fulls[-2] if len(fulls) > 1 else fulls[-1]
            s = float(forecast[now.step, now.branch, site["group"]])
            y = y_c + s * (y_c - y_cc) + (x - x_c - s * (x_c - x_cc)) @ b.t() @ a
            self.assertLess(relative(y.numpy(), got.numpy()).max(), 1e-5)
            corrected += 1
        self.assertEqual(corrected, 16)

    def test_schedules_read_alike(self):
        for name in ("plain", "sparse", "fitted", "mixed"):
            text = run("inspect", path(name + ".json"), "--json")
            self.assertIn(ousac.Schedule.load(path(name + ".json")).digest(), text)


if __name__ == "__main__":
    torch.set_num_threads(1)
    unittest.main()
