"""Gates `extrapolate` and `reuse` at work, without a bundle and with one: see tests/interop/test_torch_extrapolate.sh.

The reference is written here: hooks on modules that are listed by hand keep what these gave at full evaluations, and put
what the gate says of it in place of what they give elsewhere.
"""
import json
import os
import re
import unittest

import diffusers
import numpy
import support
import tiny
import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from pipelines_text import HELD, STEPS, Case, full, gates, path
from support import relative
from torch._dynamo.utils import counters

import ousac
from ousac.pipelines import adapter_for
from ousac.schedule import EXTRAPOLATE

BACKEND = {"backend": os.environ.get("BACKEND", "eager"), "fullgraph": True}
NEAR = 1e-5 if BACKEND["backend"] == "eager" else 1e-4  # others order sums as they like
ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "..")
DIT = ["transformer_blocks.%d.%s" % (i, name) for i in range(2) for name in ("attn1", "ff")]
SD3 = ["transformer_blocks.%d.%s" % (i, name) for i in range(3) for name in ("attn", "ff")] + [
    "transformer_blocks.0.attn2", "transformer_blocks.0.ff_context", "transformer_blocks.1.ff_context"]
FLUX = ["transformer_blocks.%d.%s" % (i, name) for i in range(2) for name in ("attn", "ff", "ff_context")] + [
    "single_transformer_blocks.%d.proj_out" % i for i in range(2)]


def lines(i, step):
    """Branches refreshed apart, one pass skipped, distances of one step and of more."""
    step["gate"] = ("full", "full", "extrapolate", "reuse", "full", "extrapolate", "extrapolate")[i]
    if step["mode"] == "cfg":
        step["scale"] = 2 + 0.5 * i
        if i == 1:
            step["gate"] = {"cond": "full", "uncond": "extrapolate"}  # its first full one is the only one: reuse
        elif i == 2:
            step["gate"] = {"cond": "extrapolate", "uncond": "full"}
        elif i == 5:
            step["mode"] = "cond"
            del step["scale"]


def mixed(i, step):
    """All four gates."""
    step["gate"] = ("full", "full", "extrapolate", "cached", "reuse", "full", "extrapolate")[i]
    if step["mode"] == "cfg" and i == 2:
        step["gate"] = {"cond": "extrapolate", "uncond": "cached"}


def reused(i, step):
    lines(i, step)
    named = step["gate"] if isinstance(step["gate"], dict) else {"cond": step["gate"], "uncond": step["gate"]}
    step["gate"] = {branch: "reuse" if gate == "extrapolate" else gate for branch, gate in named.items()}


class Labels(Case):
    """A DiTPipeline, which has labels in place of prompts."""

    def __init__(self, name):
        transformer = tiny.randomised(diffusers.DiTTransformer2DModel(
            num_attention_heads=2, attention_head_dim=8, in_channels=3, out_channels=3, num_layers=2, sample_size=8, patch_size=2,
            num_embeds_ada_norm=1000), 4)
        self.name, self.pipe, self.labels = name, support.pipeline(transformer=transformer), numpy.arange(8)
        self.noise = numpy.random.default_rng(5).standard_normal((8, 3, 8, 8)).astype(numpy.float32)
        self.adapter = adapter_for(self.pipe, {"label": self.labels, "noise": self.noise}, {"steps": STEPS, "guidance_scale": 3.0})
        os.makedirs(path(name), exist_ok=True)
        self.adapter.save(path(name, "inputs.safetensors"))

    def sample(self, rows=HELD):
        return support.sample(self.pipe, self.labels[rows], self.noise[rows], guidance_scale=3.0, num_inference_steps=STEPS)


def sd3(name):
    return Case(name, tiny.sd3(), {"steps": STEPS, "guidance_scale": 5.0}, {"guidance_scale": 5.0}, "round")


def flux(name):
    return Case(name, tiny.flux(), {"steps": STEPS, "guidance_scale": 3.5}, {"guidance_scale": 3.5})


class Line:
    """The hooks. `frozen`: paths of modules that give at `cached` what they gave; the others compute there."""

    def __init__(self, transformer, paths, frozen=()):
        self.frozen, self.kept, self.fulls = frozen, {}, {"cond": [], "uncond": []}
        self.hooks = [transformer.get_submodule(name).register_forward_hook(lambda _, args, out, name=name: self.hook(name, out))
                      for name in paths]

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        for hook in self.hooks:
            hook.remove()

    def begin(self, step, branch, gate):
        fulls = self.fulls[branch]
        if not fulls:
            gate = "full"
        elif len(fulls) == 1 and gate == "extrapolate":
            gate = "reuse"
        if gate == "full":
            fulls.append(step)
        self.step, self.branch, self.gate = step, branch, gate

    def hook(self, name, out):
        kept, fulls = self.kept.setdefault((self.branch, name), {}), self.fulls[self.branch]
        outs = out if isinstance(out, tuple) else (out,)
        if self.gate == "full":
            kept[self.step] = [t.clone() for t in outs]
            return None
        if self.gate == "cached" and name not in self.frozen:
            return None
        i, j = self.step, fulls[-1]
        if self.gate == "extrapolate":
            h = fulls[-2]
            made = [(last.double() + (i - j) / (j - h) * (last.double() - before.double())).to(last.dtype)
                    for last, before in zip(kept[j], kept[h])]
        else:
            made = [t.clone() for t in kept[j]]
        return tuple(made) if isinstance(out, tuple) else made[0]

    def bytes(self):
        """Of one full evaluation of every branch."""
        return sum(t.numel() * t.element_size() for kept in self.kept.values() for t in next(iter(kept.values())))


def by_hand(case, file, line, rows=HELD):
    """Every evaluation of a schedule a call of the transformer, under the hooks."""
    with open(file) as text:
        steps = json.load(text)["steps"]
    scheduler = ousac.Scheduler.from_schedule(file, case.pipe.scheduler)
    x, numbers = torch.from_numpy(case.noise[rows].copy()), list(range(rows.start, rows.stop))
    with torch.no_grad():
        for i, step in enumerate(steps):
            made = {}
            for branch in ("uncond", "cond"):
                if step["mode"] in ("cfg", branch):
                    line.begin(i, branch, step["gate"] if isinstance(step["gate"], str) else step["gate"][branch])
                    made[branch] = case.adapter.call(x, step["timestep"], None, branch, numbers)
            e = made["cond"]
            if step["mode"] == "cfg":
                e = made["uncond"] + step["scale"] * (e - made["uncond"])
            x = scheduler.step(e, step["timestep"], x).prev_sample
    return x.numpy()


class Applied(unittest.TestCase):
    def near(self, a, b, by=1e-5):
        self.assertTrue(numpy.isfinite(a).all())
        self.assertLess(relative(a, b).max(), by)

    def compiled(self, case, bundle, wanted, kinds, change=None, by=NEAR):
        """As many graphs as kinds of evaluations, none broken, and no other in a second run."""
        torch._dynamo.reset()
        counters.clear()
        with ousac.apply(case.pipe, bundle, compile=BACKEND) as applied, torch._dynamo.config.patch(error_on_recompile=True):
            if change:
                change(applied)
            first = case.sample()
            self.assertEqual(counters["stats"]["unique_graphs"], kinds)
            second = case.sample()
            self.assertEqual(counters["stats"]["unique_graphs"], kinds)
            self.assertFalse(counters["graph_break"])
        numpy.testing.assert_array_equal(first, second)
        self.near(first, wanted, by)
        return applied.record

    def alone(self, case, paths, guided):
        """A schedule and no bundle."""
        file = case.schedule("lines", lines)
        with Line(case.pipe.transformer, paths) as line:
            wanted = by_hand(case, file, line)
        with ousac.apply(case.pipe, file) as applied:
            self.assertEqual({module.path for module in applied.sites.modules}, set(paths))
            self.assertIsNone(applied.held_bytes(4))
            first = case.sample()
            numpy.testing.assert_array_equal(case.sample(), first)
        self.near(first, wanted)
        counts = {"cond": {"full": 3, "cached": 0, "reuse": 1, "extrapolate": 3, "skipped": 0},
                  "uncond": {"full": 3, "cached": 0, "reuse": 2, "extrapolate": 1, "skipped": 1} if guided else
                  dict.fromkeys(("full", "cached", "reuse", "extrapolate", "skipped"), 0)}
        record = ousac.summary(case.pipe)
        self.assertEqual(record.evaluations, {branch: {gate: 2 * n for gate, n in found.items()} for branch, found in counts.items()})
        self.assertIn("cond:   6 full, 0 cached, 2 reused, 6 extrapolated, 0 skipped\n", str(record))
        self.assertRegex(str(record), r"\nextrapolate: \d+\.\d+ s each\n")
        self.assertGreater(record.seconds["extrapolate"], 0)
        self.assertEqual(record.bytes, 2 * line.bytes())
        compiled = self.compiled(case, file, wanted, 3)
        self.assertEqual((compiled.evaluations, compiled.bytes), (record.evaluations, record.bytes))
        again = case.schedule("reused", reused)
        with Line(case.pipe.transformer, paths) as line:
            wanted = by_hand(case, again, line)
        with ousac.apply(case.pipe, again):
            got = case.sample()
        self.near(got, wanted)
        self.assertNotIn("extrapolate", str(ousac.summary(case.pipe)))
        self.assertEqual(ousac.summary(case.pipe).bytes, line.bytes())
        self.assertGreater(relative(got, first).min(), 1e-3)
        self.assertFalse([name for name, module in case.pipe.transformer.named_modules() if "forward" in module.__dict__])

    def test_dit_alone(self):
        self.alone(Labels("dit"), DIT, True)

    def test_sd3_alone(self):
        self.alone(sd3("sd3"), SD3, True)

    def test_flux_alone(self):
        self.alone(flux("flux"), FLUX, False)

    def with_bundle(self, case, paths):
        """All gates, and a bundle whose cached linears are the whole ones (W = W I); one module is frozen."""
        files = [path(case.name, kind) for kind in ("profile", "plan", "bundle")]
        with case.adapter.host().open(inputs=path(case.name, "inputs.safetensors"), micro_batch=2, threads=1) as context:
            context.profile(case.schedule("gates", gates), files[0], samples=4, pilot=2)
            context.plan(files[0], files[1], budget_step=0.6, forecast=1, compare=0)
            context.pack(*files)
        file, bundle = case.schedule("mixed", mixed), ousac.Bundle(files[2])
        bundle.schedule = ousac.Schedule.load(file)

        def whole(applied):
            self.assertIsNotNone(bundle.forecast)
            bundle.live = [module.path != paths[0] for module in applied.sites.modules]
            for i, site in enumerate(applied.sites.sites):
                w = site.linear.weight.detach()
                bundle.path_of[i] = "low-rank"
                applied._factors[i] = (w.t().contiguous(), torch.eye(w.shape[1]))

        with Line(case.pipe.transformer, paths, paths[:1]) as line:
            wanted = by_hand(case, file, line)
        with ousac.apply(case.pipe, bundle) as applied:
            whole(applied)
            said = applied.held_bytes(HELD.stop - HELD.start)
            got = case.sample()
        self.near(got, wanted, 1e-4)
        self.assertEqual(applied.record.evaluations["cond"], {"full": 3, "cached": 1, "reuse": 1, "extrapolate": 2, "skipped": 0})
        self.assertEqual(applied.record.bytes, said)
        record = self.compiled(case, bundle, wanted, 4, whole, 1e-4)
        self.assertEqual(record.bytes, said)

    def test_dit_with_a_bundle(self):
        self.with_bundle(Labels("dit-bundle"), DIT)

    def test_flux_with_a_bundle(self):
        self.with_bundle(flux("flux-bundle"), FLUX)

    def test_cached_gates_need_a_bundle(self):
        case = Labels("refused")
        with self.assertRaisesRegex(ousac.Error, "gates `cached`, which need a bundle"):
            ousac.apply(case.pipe, case.schedule("mixed", mixed))
        first = case.schedule("first", lambda i, step: step.update(gate="full" if i else "cached"))
        with ousac.apply(case.pipe, first) as applied:  # the first evaluation is full
            self.assertIsNone(applied.sites)
            self.assertEqual(applied.held_bytes(), 0)
            self.near(case.sample(), case.loop(case.schedule("full", full(lambda i, step: None))))


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.ff = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.Linear(16, 8))


class Own(torch.nn.Module):
    """A transformer that no map is shipped for. `order`: its blocks as they run."""

    def __init__(self):
        super().__init__()
        self.blocks, self.order = torch.nn.ModuleList([Block(), Block()]), (0, 1)

    def forward(self, hidden_states, timestep, return_dict=True):
        x = hidden_states
        for i in self.order:
            x = x + self.blocks[i].ff(x * (1 + timestep / 1000))
        return Transformer2DModelOutput(sample=x) if return_dict else (x,)


MAP = {"format": "ousac-sites", "version": 1, "family": "own", "classes": [], "streams": ["rows"], "blocks": [
    {"path": "blocks.{i}", "name": "blocks.{i}", "modules": [{"name": "ff", "path": "ff", "outputs": ["rows"], "stages": [
        [{"stream": "rows", "sites": ["ff.0"]}], [{"stream": "rows", "sites": ["ff.2"]}]]}]}]}
OWN = ["blocks.0.ff", "blocks.1.ff"]
COURSE = ("full", "full", "extrapolate", "extrapolate", "full", "extrapolate", "reuse", "extrapolate")


def schedule(course, version=4):
    steps = [{"timestep": 900 - 100 * i, "mode": "cond", "gate": gate} for i, gate in enumerate(course)]
    return {"format": "ousac-schedule", "version": version, "name": "own", "solver": "ddim", "step_count": len(steps), "steps": steps}


class OfOnesOwn(unittest.TestCase):
    """A transformer by a map that is given, in a loop by hand."""

    def setUp(self):
        self.transformer = tiny.randomised(Own(), 6)

    def inputs(self, dtype=torch.float32):
        generator = torch.Generator().manual_seed(7)
        return [torch.randn(3, 5, 8, generator=generator).to(dtype) for _ in COURSE]

    def call(self, x, i):
        with torch.no_grad():
            return self.transformer(x, timestep=torch.full((1, 1, 1), 900.0 - 100 * i, dtype=x.dtype)).sample

    def applied(self, xs, **options):
        with ousac.apply(self.transformer, ousac.Schedule(schedule(COURSE)), sites=MAP, **options) as applied:
            with applied.run(order=None), applied.branch("cond"):
                made = [self.call(x, i) for i, x in enumerate(xs)]
        return made, applied.record

    def hooked(self, xs, start=0):
        with Line(self.transformer, OWN) as line:
            made = []
            for i, x in enumerate(xs, start):
                line.begin(i, "cond", COURSE[i])
                made.append(self.call(x, i))
        return made

    def test_by_step(self):
        xs = self.inputs()
        wanted = self.hooked(xs)
        for options in ({}, {"compile": BACKEND}):
            made, record = self.applied(xs, **options)
            for got, by in zip(made, wanted):
                torch.testing.assert_close(got, by)
            self.assertEqual(record.evaluations["cond"], {"full": 3, "cached": 0, "reuse": 1, "extrapolate": 4, "skipped": 0})
            self.assertEqual(record.bytes, 2 * 2 * 3 * 5 * 8 * 4)  # modules, evaluations, rows, floats

    def test_lower_precision(self):
        for dtype in (torch.bfloat16, torch.float16):
            self.transformer.to(dtype)
            xs = self.inputs(dtype)
            wanted = self.hooked(xs)
            for options, by in (({}, 0.1), ({"compile": BACKEND}, 2)):  # a graph rounds at other places
                made, record = self.applied(xs, **options)
                for got, exact in zip(made, wanted):
                    self.assertEqual(got.dtype, dtype)
                    self.assertLess(relative(got.double(), exact.double()).max(), by * torch.finfo(dtype).eps)
                self.assertEqual(record.bytes, 2 * 2 * 3 * 5 * 8 * 2)

    def test_another_size_in_between(self):
        """What is kept of another size does not count: the next evaluation is full, and until there are two, reuse."""
        xs = self.inputs()
        xs = xs[:3] + [x[:2] for x in xs[3:]]
        wanted = self.hooked(xs[:3]) + self.hooked(xs[3:], 3)
        made, record = self.applied(xs)
        for got, by in zip(made, wanted):
            torch.testing.assert_close(got, by)
        self.assertEqual(record.evaluations["cond"], {"full": 4, "cached": 0, "reuse": 1, "extrapolate": 3, "skipped": 0})

    def test_what_is_refused(self):
        plan = ousac.Schedule(schedule(COURSE))
        with self.assertRaisesRegex(ousac.Error, "Own: no site map is shipped for this class"):
            ousac.apply(self.transformer, plan)
        ousac.apply(self.transformer, ousac.Schedule(schedule(["full"] * 8))).remove()  # which needs none
        xs = self.inputs()
        for order, what in (((0, 1, 1), r"blocks\.1\.ff: ran twice in one evaluation"), ((0,), r"blocks\.1\.ff: did not run")):
            self.transformer.order = order
            with self.assertRaisesRegex(ousac.Error, what):
                self.applied(xs)
        with self.assertRaisesRegex(ousac.Error, r"blocks\.1\.ff: did not run"):
            self.applied(xs, compile={"backend": "eager"})


class Schedules(unittest.TestCase):
    def test_the_documents_example(self):
        with open(os.path.join(ROOT, "formats", "SCHEDULE.md"), encoding="utf-8") as file:
            text = file.read()
        example = next(block for block in re.findall(r"```json\n(.*?)```", text, re.S) if '"version": 4' in block)
        found = ousac.Schedule(example)
        self.assertEqual(found.digest(), "487dcdb951eefe28228ea149b71be4ec86e6ae71093e7062376f6bfaea9e2fc6")
        self.assertIn(found.digest(), text)
        self.assertEqual(found.gates("cond"), ["full", "full", EXTRAPOLATE, EXTRAPOLATE])
        self.assertEqual(found.gates("uncond"), ["full", "reuse", "full", None])

    def test_versions(self):
        for version in (1, 2, 3):
            with self.assertRaisesRegex(ousac.Error, "step 2: a gate 'extrapolate' needs version 4"):
                ousac.Schedule(schedule(COURSE, version))
        with self.assertRaisesRegex(ousac.Error, "version 5; this reader knows 1 to 4"):
            ousac.Schedule(schedule(COURSE, 5))
        with self.assertRaisesRegex(ousac.Error, "gate 'extrapolated'"):
            ousac.Schedule(schedule(["full", "extrapolated"]))
        plain = ["full", "cached", "reuse"]  # a higher version that says no more is the same schedule
        self.assertEqual(ousac.Schedule(schedule(plain, 4)).digest(), ousac.Schedule(schedule(plain, 1)).digest())

    def test_a_result_without_factors(self):
        for course, what in ((["full"] * 8, "no cache pays .* 8 steps, uncached"), (COURSE, "no factors pay .* 8 steps, to be run as")):
            os.makedirs(path("result"), exist_ok=True)
            with open(path("result", "schedule.json"), "w") as file:
                json.dump(schedule(course), file)
            self.assertRegex(repr(ousac.Result(path("result"), {"cached": False, "steps": 8}, None)), what)

    def test_keys_of_version_3(self):
        data = schedule(COURSE)
        data["steps"][0]["guidance"] = 3.5
        data["steps"][1]["c"] = 0.25
        found = ousac.Schedule(data)
        self.assertEqual((found.tells, found.fitted), (True, True))
        self.assertEqual((found.steps[0].guidance, found.steps[1].guidance, found.steps[1].c), (3.5, None, 0.25))
        with open(path("told.json"), "w") as file:
            json.dump(data, file)
        self.assertIn(found.digest(), support.run("inspect", path("told.json"), "--json"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    unittest.main()
