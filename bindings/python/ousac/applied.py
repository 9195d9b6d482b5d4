"""A bundle, or a schedule alone, at work in a PyTorch pipeline: ousac.apply.

At a full evaluation the linears run as they are, and of each corrected one y_c and t_c = B x_c are kept; at a cached
evaluation it is

    y = y_c + s (y_c - y_cc) + (B x - t_c - s (t_c - t_cc)) A          (formats/BUNDLE.md, with B applied first)

No input of a module is kept, by reference or otherwise. Modules that a plan freezes, and all at a gate `reuse`, give
the output of the branch's last full evaluation; at a gate `extrapolate` all give what lies on the line through the outputs
of its last two (formats/SCHEDULE.md). These two gates need no bundle. A run begins with a pipeline's call and ends with
it, whichever way it ends, and takes its caches along.
"""
import inspect
import threading
import time
import weakref

import torch

from .bundle import FROZEN, LOW_RANK, Bundle
from .compiled import Compiled
from .evaluation import Cache, Evaluation, Record
from .library import Error, projections
from .rules import Rule, check_scheduler, cut, plain_timestep, rule_for
from .schedule import BRANCHES, CACHED, CONTINUED, EXTRAPOLATE, FULL, REUSE, Schedule
from .sites import find_sites

_records = weakref.WeakKeyDictionary()  # pipeline or module -> its last Applied's record


class _Run:
    def __init__(self, scale, rule):
        self.scale, self.rule, self.owner = scale, rule, threading.get_ident()
        self.caches = {branch: Cache() for branch in BRANCHES}
        self.step, self.checked, self.branch, self.rows = -1, False, None, None
        self.held = self.cond = None
        self.done = set()


class Applied:
    """What ousac.apply returns: a context manager; remove() restores the modules, run() opens a run by hand."""

    def __init__(self, target, bundle, plan=None, sites=None, dtype=None, check=True, compile=None):
        self.target = target
        self.pipe = None if isinstance(target, torch.nn.Module) else target
        self.transformer = target if self.pipe is None else target.transformer
        self.rule = None if self.pipe is None else rule_for(target)
        self.bundle = None if isinstance(bundle, Schedule) else bundle if isinstance(bundle, Bundle) else _open(bundle, plan)
        if isinstance(self.bundle, Schedule):
            self.schedule, self.bundle = self.bundle, None
        else:
            self.schedule = bundle if self.bundle is None else self.bundle.schedule
        self.where = self.bundle.path if self.bundle else self.schedule.name or "schedule"
        self.gates = {branch: self.schedule.gates(branch) for branch in BRANCHES}
        if self.bundle is None and any(CACHED in gates for gates in self.gates.values()):
            raise Error("%s: a schedule with gates `cached`, which need a bundle; give one, or a schedule made with --uncached"
                        % self.where)
        config = getattr(self.transformer, "config", None)
        if self.schedule.tells and getattr(config, "guidance_embeds", True) is False:
            raise Error("%s: its steps state a guidance, but %s has no guidance embedder to be told it"
                        % (self.where, type(self.transformer).__name__))
        self.keeps = {branch: self._keeping(branch) for branch in BRANCHES}
        self.record = Record()
        self._run = self._now = None
        self._undo, self._factors = [], {}
        self._compiled = Compiled(self, {} if compile is True else compile) if compile else None
        patches = self.bundle or any(g in CONTINUED for gates in self.gates.values() for g in gates)
        self.sites = find_sites(self.transformer, sites) if patches else None
        if self.bundle:
            self.sites.check_arch(self.bundle.arch, self.where)
            if check:
                self._check_weights()
            self._take_factors(dtype)
        self._attach()
        _records[target] = self.record

    # --- before the first step ---

    def _keeping(self, branch):
        """Per step of how many full evaluations, the last first, modules' outputs stay after one there; 0 where no later gate
        looks back at it."""
        gates, keeps = self.gates[branch], []
        back = {CACHED: 2 if self.bundle and self.bundle.forecast is not None else 1, REUSE: 1, EXTRAPOLATE: 2}
        for i, gate in enumerate(gates):
            fulls, keep = 0, 0
            for later in gates[i + 1:] if gate == FULL else ():
                fulls += later == FULL
                if fulls < back.get(later, 0):
                    keep = max(keep, 2 if later == EXTRAPOLATE and fulls == 0 else 1)
            keeps.append(keep)
        return keeps

    def held_bytes(self, samples=1):
        """What a run of so many samples will hold at most, of as many tokens as the bundle was made with: `bytes` of the
        summary, in advance. None for a schedule alone whose gates look back: tokens are known to a bundle."""
        if self.bundle is None:
            return 0 if self.sites is None else None
        item = self.sites.sites[0].base.weight.element_size()
        two, total = self.bundle.forecast is not None, 0
        tokens = [stream["tokens"] for stream in self.bundle.streams]
        for branch in BRANCHES:
            kept, continued = sum(keep > 0 for keep in self.keeps[branch]), any(g in CONTINUED for g in self.gates[branch])
            if not kept:
                continue
            for site, path in zip(self.sites.sites, self.bundle.path_of):
                rows = tokens[self.bundle.groups[site.group.index]["stream"]]
                if site.index in self._factors:
                    b = self._factors[site.index][1]
                    total += rows * (site.m * item + len(b) * b.element_size()) * (2 if two and kept > 1 else 1)
                elif path == FROZEN:
                    total += rows * site.m * item
            for module, live in zip(self.bundle.modules, self.bundle.live):
                if not live or continued:
                    outputs = item * sum(tokens[out["stream"]] * out["width"] for out in module["outputs"])
                    total += outputs * max(self.keeps[branch])
        return samples * total

    def _check_weights(self):
        """The projections of every linear, as formats/BUNDLE.md says, "Identity of the model"."""
        for site in self.sites.sites:
            w = site.base.weight.detach().to(device="cpu", dtype=torch.float32).contiguous()
            found, rms = projections(site.index, w.numpy()), float(w.double().square().mean().sqrt())
            for mine, wanted in zip(found, self.bundle.probes[site.index]):
                if not abs(mine - wanted) <= 6 * 2.0 ** -8 * rms:
                    raise Error("%s: made for other weights: %s (%s) is not the bundle's" % (self.where, site.path, site.name))

    def _take_factors(self, dtype):
        for site, path in zip(self.sites.sites, self.bundle.path_of):
            extra = _adapters(site.linear)
            if path == LOW_RANK or (path == FROZEN and extra):
                weight = site.base.weight
                kind = dtype or weight.dtype
                a, b = ([torch.from_numpy(v) for v in self.bundle.factors(site.index)] if path == LOW_RANK
                        else [torch.empty(0, site.m), torch.empty(0, site.n)])
                for up, down in extra:  # W + s U D: the factors of the difference are appended as they are
                    a, b = torch.cat([a, up.t().float().cpu()]), torch.cat([b, down.float().cpu()])
                self._factors[site.index] = (a.to(weight.device, kind), b.to(weight.device, kind))

    # --- attaching ---

    def _patch(self, module, name, make):
        """Replaces an attribute of an instance, to be restored as it was: present or absent."""
        there, before = name in module.__dict__, module.__dict__.get(name)
        made = make(getattr(module, name))
        object.__setattr__(module, name, made)
        self._undo.append((module, name, there, before, made))

    def _attach(self):
        if self.bundle:
            for site in self.sites.sites:
                self._patch(site.linear, "forward", lambda original, site=site: self._site_forward(site, original))
        if self.sites:
            for module in self.sites.modules:
                self._patch(module.module, "forward", lambda original, module=module: self._module_forward(module, original))
                for skipped in module.skip:
                    self._patch(skipped, "forward", lambda original, module=module, skipped=skipped:
                                self._skip_forward(module, skipped, original))
        self._patch(self.transformer, "forward", self._transformer_forward)
        if self.rule is not None and self.rule.order is None:
            self._patch(self.transformer, "cache_context", self._context)
        if self.pipe is not None:
            self._wrap_call()

    def _wrap_call(self):
        cls, applied = type(self.pipe), self

        def call(pipe, *args, **kwargs):
            if pipe is not applied.pipe:
                return cls.__call__(pipe, *args, **kwargs)
            with applied.run(guidance_scale=applied.rule.guidance(pipe, args, kwargs)):
                return cls.__call__(pipe, *args, **kwargs)

        call.__wrapped__, call.__doc__ = cls.__call__, cls.__call__.__doc__
        made = type(cls.__name__, (cls,), {"__call__": call, "__module__": cls.__module__, "__qualname__": cls.__qualname__})
        self.pipe.__class__ = made
        self._classes = (cls, made)

    def remove(self):
        """Restores every module, and the pipeline, as they were. Twice is fine. Of several attached to the same
        modules the last must go first."""
        if not self._undo:
            return
        last = {(id(module), name): (module, made) for module, name, _, _, made in self._undo}
        for (_, name), (module, made) in last.items():
            if module.__dict__.get(name) is not made:
                raise Error("%s: something else was attached to %s since; remove that first" % (self.where, type(module).__name__),
                            "USAGE")
        if self.pipe is not None and type(self.pipe) is not self._classes[1]:
            raise Error("%s: something else was attached to the pipeline since; remove that first" % self.where, "USAGE")
        for module, name, there, before, _ in reversed(self._undo):
            if there:
                object.__setattr__(module, name, before)
            else:
                module.__dict__.pop(name)
        if self.pipe is not None:
            self.pipe.__class__ = self._classes[0]
        self._undo, self._run, self._factors = [], None, {}

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.remove()

    # --- runs ---

    def run(self, guidance_scale=1.0, order=("cond", "uncond"), batched=None, time=1.0):
        """A run, as a context manager, for loops that are not a known pipeline's: its calls of the transformer are the
        schedule's. `guidance_scale` is the loop's own, 1 for none; `order` that of the halves of its batches, None
        where it names branches by branch(). `time` is what timesteps are to be multiplied with."""
        rule = self.rule
        if rule is None:
            rule = Rule(order, batched, time)
        return _RunContext(self, _Run(float(guidance_scale), rule))

    def branch(self, name):
        """A context manager: the calls in it are of this branch, by the caller's word; they give what the branch's
        evaluation gives, and guidance is the caller's."""
        if name not in BRANCHES:
            raise Error("branch %r; expected cond or uncond" % (name,), "USAGE")
        return _BranchContext(self, name)

    def _context(self, original):
        def cache_context(name, *args, **kwargs):
            inner = original(name, *args, **kwargs)
            return _BranchContext(self, name, inner)
        return cache_context

    def _begin(self, run):
        if self._run is not None:
            raise Error("%s: a run is under way" % self.where, "USAGE")
        if any(s.mode == "cfg" for s in self.schedule.steps) and run.scale == 1 and self.pipe is not None:
            raise Error("%s: its schedule is guided, but the pipeline was called without guidance" % self.where)
        self._run, self._began = run, time.perf_counter()
        self.record.runs += 1

    def _end(self):
        self._run = self._now = None
        self.record.total += time.perf_counter() - self._began

    # --- the transformer ---

    def _transformer_forward(self, original):
        signature = inspect.signature(original)

        def forward(*args, **kwargs):
            run = self._run
            if run is None or run.owner != threading.get_ident() or self._now is not None:
                return original(*args, **kwargs)
            bound = signature.bind(*args, **kwargs)
            return self._step(run, original, bound.arguments)
        forward.__signature__ = signature  # for what is attached on top
        return forward

    def _step(self, run, original, arguments):
        kwargs = {}
        for name, value in arguments.items():
            kwargs.update(value) if name == "kwargs" and isinstance(value, dict) else kwargs.__setitem__(name, value)
        if not run.checked:
            if self.pipe is not None:
                check_scheduler(self.pipe.scheduler, self.schedule, self.bundle.levels() if self.bundle else (None, None), self.where)
            run.checked = True
        timestep = plain_timestep(kwargs["timestep"], run.rule)
        step = self.schedule.nearest(timestep)
        if step < 0:
            raise Error("%s: a call at timestep %g, where its schedule has no step" % (self.where, timestep))
        if step < run.step:  # another trajectory in the same call
            run.caches, run.held, run.cond = {branch: Cache() for branch in BRANCHES}, None, None
            run.done = set()
        run.step = step
        told = self.schedule.steps[step].guidance
        if told is not None:  # in place of the pipeline's one value
            if not hasattr(kwargs.get("guidance"), "new_full"):
                raise Error("%s: step %d states guidance %g, but the call has no tensor `guidance` to put it into"
                            % (self.where, step, told))
            kwargs["guidance"] = torch.full_like(kwargs["guidance"], told)
        rows = kwargs["hidden_states"].shape if hasattr(kwargs["hidden_states"], "shape") else None
        if rows != run.rows:  # another size: nothing that is kept fits
            run.caches, run.held, run.rows = {branch: Cache() for branch in BRANCHES}, None, rows
        if run.branch is not None:
            return self._apart(run, step, original, kwargs)
        if run.rule.order is None:
            raise Error("%s: a call without a branch's name; expected it within cache_context(\"cond\" or \"uncond\") or "
                        "applied.branch(...)" % self.where)
        return self._batched(run, step, original, kwargs)

    def _batched(self, run, step, original, kwargs):
        """One call for both branches: halves in the rule's order."""
        s, rows = self.schedule.steps[step], kwargs["hidden_states"].shape[0]
        if run.scale == 1:
            if s.mode == "cfg":
                raise Error("%s: step %d is guided, but the pipeline was called without guidance" % (self.where, step))
            return self._evaluate(run, step, s.mode, original, kwargs)
        if rows % 2:
            raise Error("%s: a call with %d rows; expected both branches, one half each" % (self.where, rows))
        halves = dict(zip(run.rule.order, (slice(0, rows // 2), slice(rows // 2, rows))))
        names = run.rule.batched or [name for name, value in kwargs.items()
                                     if hasattr(value, "shape") and len(value.shape) and value.shape[0] == rows]
        made = {}
        for branch in BRANCHES:
            if s.evaluates(branch):
                part = {name: cut(value, halves[branch]) if name in names else value for name, value in kwargs.items()}
                made[branch] = self._evaluate(run, step, branch, original, part)
            else:
                self.record.evaluations[branch]["skipped"] += 1
        whole = next(iter(made.values()))
        c, u = self._guide(run, s, *(_tensor(made[b]) if b in made else None for b in BRANCHES))
        return _like(whole, torch.cat([c, u] if run.rule.order[0] == "cond" else [u, c]))

    def _apart(self, run, step, original, kwargs):
        """A call for one branch, which has been named."""
        s, branch = self.schedule.steps[step], run.branch
        if (step, branch) in run.done:
            raise Error("%s: step %d of branch %s ran twice" % (self.where, step, branch))
        run.done.add((step, branch))
        if self.rule is None or self.rule.order is not None:  # by the caller's word
            if not s.evaluates(branch):
                raise Error("%s: step %d does not evaluate branch %s" % (self.where, step, branch), "USAGE")
            return self._evaluate(run, step, branch, original, kwargs)
        if branch == "cond":
            if s.mode == "uncond":
                raise Error("%s: step %d runs the unconditional branch alone, which %s cannot" % (
                    self.where, step, type(self.pipe).__name__), "UNSUPPORTED")
            if s.mode == "cfg" and run.scale == 1:
                raise Error("%s: step %d is guided, but the pipeline was called without guidance" % (self.where, step))
            out = self._evaluate(run, step, branch, original, kwargs)
            c, _ = self._guide(run, s, _tensor(out), None) if s.mode == "cond" else (_tensor(out), None)
            run.cond = c
            return _like(out, c)
        if run.cond is None:
            raise Error("%s: branch uncond was called before cond at step %d" % (self.where, step))
        c, run.cond = run.cond, None
        if not s.evaluates(branch):
            self.record.evaluations[branch]["skipped"] += 1
            return (c.clone(),) if kwargs.get("return_dict") is False else self._output(c.clone())
        out = self._evaluate(run, step, branch, original, kwargs)
        return _like(out, self._guide(run, s, c, _tensor(out))[1])

    def _guide(self, run, s, c, u):
        """What to hand to a pipeline that computes u' + s0 (c' - u'), so that it gets the step's prediction."""
        if s.mode != "cfg":
            e = u if c is None else c
            if s.hold != 0 and run.held is not None:
                e = (e.float() + s.hold * run.held).to(e.dtype)
            return e, e
        difference = c.float() - u.float()
        guided = self.bundle.guided() if self.bundle else None
        if guided and guided[0] < guided[1] and difference.dim() == 4:
            difference[:, guided[0]:guided[1]] = 0
        run.held = difference if any(step.hold != 0 for step in self.schedule.steps) else None
        return c, (c.float() - (s.scale - 1) / (run.scale - 1) * difference).to(c.dtype)

    # --- an evaluation ---

    def _evaluate(self, run, step, branch, original, kwargs):
        cache = run.caches[branch]
        gate = self.gates[branch][step] if cache.fulls else FULL
        gate = REUSE if gate == EXTRAPOLATE and len(cache.fulls) < 2 else gate  # caches of another size, or trajectory, have gone
        keep = self.keeps[branch][step] or (gate == FULL and self.gates[branch][step] != FULL)
        began = time.perf_counter()
        try:
            if self._compiled is not None:
                out = self._compiled.evaluate(original, kwargs, cache, gate, step, branch, keep)
            else:
                self._now = Evaluation(self, cache, gate, step, branch, keep)
                out = original(**kwargs)
                self._now.end()
        finally:
            self._now = None
        device = _tensor(out).device
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        record = self.record
        record.seconds[gate] += time.perf_counter() - began
        record.evaluations[branch][gate] += 1
        record.rows = max(record.rows, kwargs["hidden_states"].shape[0])
        if gate == FULL and keep:
            record.bytes = max(record.bytes, sum(c.bytes() for c in run.caches.values()))
        return out

    def _elsewhere(self):
        """Whether another thread than the run's asks; a graph belongs to the run."""
        return not torch.compiler.is_compiling() and threading.get_ident() != self._run.owner

    def _site_forward(self, site, original):
        def forward(x, *args, **kwargs):
            now = self._now
            if now is None or self._elsewhere():
                return original(x, *args, **kwargs)
            return now.site(site, x, lambda: original(x, *args, **kwargs))
        return forward

    def _module_forward(self, module, original):
        def forward(*args, **kwargs):
            now = self._now
            if now is None or self._elsewhere():
                return original(*args, **kwargs)
            return now.module(module, lambda: original(*args, **kwargs))
        return forward

    def _skip_forward(self, module, skipped, original):
        def forward(*args, **kwargs):
            now = self._now
            if now is None or now.computes(module):
                return original(*args, **kwargs)
            x = args[0] if args else kwargs["hidden_states"]
            width = skipped.out_features if isinstance(skipped, torch.nn.Linear) else x.shape[-1]
            return x.new_zeros(1).expand(x.shape[:-1] + (width,))
        return forward

    @staticmethod
    def _output(tensor):
        from diffusers.models.modeling_outputs import Transformer2DModelOutput

        return Transformer2DModelOutput(sample=tensor)

    def summary(self):
        return self.record


class _RunContext:
    def __init__(self, applied, run):
        self.applied, self.run = applied, run

    def __enter__(self):
        self.applied._begin(self.run)
        return self.run

    def __exit__(self, *unused):
        self.applied._end()


class _BranchContext:
    def __init__(self, applied, name, inner=None):
        self.applied, self.name, self.inner = applied, name, inner

    def __enter__(self):
        if self.inner is not None:
            self.inner.__enter__()
        run = self.applied._run
        if run is not None:
            self.before, run.branch = run.branch, self.name if self.name in BRANCHES else None
        elif self.inner is None:
            raise Error("%s: branch() outside of a run" % self.applied.where, "USAGE")

    def __exit__(self, *what):
        if self.applied._run is not None:
            self.applied._run.branch = self.before
        if self.inner is not None:
            return self.inner.__exit__(*what)
        return None


def _adapters(linear):
    """(s U, D) of the active LoRA adapters of a PEFT layer."""
    active = getattr(linear, "active_adapters", None)
    if getattr(linear, "base_layer", None) is None or not active or getattr(linear, "merged", False) or getattr(
            linear, "disable_adapters", False):
        return []
    return [(linear.scaling[name] * linear.lora_B[name].weight.detach(), linear.lora_A[name].weight.detach())
            for name in active if name in linear.lora_A]


def _tensor(out):
    if torch.is_tensor(out):
        return out
    return out[0] if isinstance(out, tuple) else out.sample


def _like(out, tensor):
    if torch.is_tensor(out):
        return tensor
    return (tensor,) + tuple(out[1:]) if isinstance(out, tuple) else type(out)(sample=tensor)


def _open(source, plan):
    """A bundle, or, of a name that ends in .json, a schedule."""
    return Schedule.load(source) if str(source).endswith(".json") else Bundle(source, plan)


def apply(target, bundle, plan=None, sites=None, dtype=None, check=True, compile=None):
    """Puts a bundle (a path or ousac.Bundle) to work in a pipeline of diffusers or a transformer; or a schedule alone
    (a path ending in .json or ousac.Schedule) where none of its gates is `cached`.

    `plan` names one of the bundle's; `sites` is a site map where none is shipped for the class; `dtype` that of the
    factors, by default the linears'; `check=False` leaves out the comparison of weights; `compile`, True or a dict of
    torch.compile's options, compiles the transformer, one graph for each of full, cached, reused and extrapolated
    evaluations. A schedule alone needs a site map where it has gates other than `full`. Errors are ousac.Error, raised here
    for other weights and before the first step for another schedule."""
    return Applied(target, bundle, plan, sites, dtype, check, compile)


def summary(target):
    """What has run in a pipeline or transformer since ousac.apply, also after remove()."""
    if target not in _records:
        raise Error("%s: nothing was applied to it" % type(target).__name__, "USAGE")
    return _records[target]
