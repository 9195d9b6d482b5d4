"""Evaluations under torch.compile: a graph for each of what an evaluation may be, chosen outside of it.

    full         what later ones look back at is handed out too; of a schedule alone, outputs of modules
    cached       linears are corrected
    reuse        every module gives what it gave
    extrapolate  every module gives what lies on the line through what it gave twice

These are four at most: full evaluations that none looks back at run the same graph, and both branches do.
A graph takes what is kept as arguments and returns what is to be kept, so that nothing is decided in a block and no step
asks for another graph; the forecast's coefficients, and how far a step is extrapolated, are tensors for the same reason.
Where a branch has one full evaluation behind it, the one before counts as the same (another tensor of the same values,
since a graph is made for what is the same tensor): the forecast is then y_c, as without compilation.
"""
import types

import torch

from .bundle import DENSE, FROZEN
from .evaluation import Slot, check_outputs
from .library import Error
from .schedule import BRANCHES, CACHED, CONTINUED, EXTRAPOLATE, FULL


class _Traced:
    """What Evaluation (evaluation.py) is, as a graph sees it. `y`, `t`, `outputs`, and those `before`: by number."""

    def __init__(self, bundle, factors, keeps_all, kind, kept, s):
        self.bundle, self.factors, self.keeps_all, self.kind, self.s = bundle, factors, keeps_all, kind, s
        self.y, self.t, self.y_before, self.t_before, self.outputs, self.outputs_before = kept
        self.made_y, self.made_t, self.made_outputs = {}, {}, {}

    def computes(self, module):
        return self.kind == FULL or (self.kind == CACHED and self.bundle.live[module.index])

    def module(self, module, compute):
        if self.computes(module):
            out = compute()
            if self.kind == FULL and (self.keeps_all or not self.bundle.live[module.index]):
                self.made_outputs[module.index] = [t.clone() for t in (out if isinstance(out, tuple) else (out,))]
            return out
        last = self.outputs[module.index]
        if self.kind == EXTRAPOLATE:
            made = [t + self.s * (t - before) for t, before in zip(last, self.outputs_before[module.index])]
        else:
            made = [t.clone() for t in last]
        return tuple(made) if len(made) > 1 else made[0]

    def site(self, site, x, compute):
        i, path = site.index, self.bundle.path_of[site.index]
        corrected = i in self.factors
        if self.kind == FULL:
            y = compute()
            if corrected or path == FROZEN:
                self.made_y[i] = y.clone()
                if corrected:
                    b = self.factors[i][1]
                    self.made_t[i] = torch.matmul(x.to(b.dtype), b.t())
            return y
        if path == DENSE:
            return compute()
        if not corrected:
            return self.y[i].clone()
        a, b = self.factors[i]
        y, t = self.y[i], self.t[i]
        if i in self.y_before:
            s = self.s[site.group.index]
            y, t = y + s * (y - self.y_before[i]), t + s * (t - self.t_before[i])
        z = torch.matmul(x.to(b.dtype), b.t()) - t
        flat = torch.addmm(y.reshape(-1, y.shape[-1]), z.reshape(-1, z.shape[-1]).to(y.dtype), a.to(y.dtype))
        return flat.reshape(y.shape)


def _alone(function):
    """The same function with a code object of its own: torch counts recompilations by code object."""
    return types.FunctionType(function.__code__.replace(), function.__globals__, function.__name__, function.__defaults__,
                              function.__closure__)


class Compiled:
    """`options`: of torch.compile, as a dict."""

    def __init__(self, applied, options):
        self.applied, self.options, self.graphs = applied, dict(options), {}

    def _graph(self, original, kind):
        if kind not in self.graphs:
            applied = self.applied
            bundle, factors = applied.bundle, applied._factors
            keeps_all = any(gate in CONTINUED for gates in applied.gates.values() for gate in gates)
            patched = applied.sites is not None

            def graph(kwargs, kept, s):
                now = applied._now = _Traced(bundle, factors, keeps_all, kind, kept, s) if patched else None
                out = original(**kwargs)
                applied._now = None
                return out, (now.made_y, now.made_t, now.made_outputs) if patched else None

            self.graphs[kind] = torch.compile(_alone(graph), **self.options)
        return self.graphs[kind]

    def evaluate(self, original, kwargs, cache, gate, step, branch, keep):
        """What the transformer gives; the cache has what is to be kept."""
        applied, bundle = self.applied, self.applied.bundle
        two, s = bundle is not None and bundle.forecast is not None, None
        kept, device = ({}, {}, {}, {}, {}, {}), next(applied.transformer.parameters()).device
        if gate == CACHED:
            slots = cache.sites.items()
            kept = ({i: v.y for i, v in slots}, {i: v.t for i, v in slots if v.t is not None},
                    {i: v.y_before if v.y_before is not None else v.y.detach() for i, v in slots if two and v.t is not None},
                    {i: v.t_before if v.t_before is not None else v.t.detach() for i, v in slots if two and v.t is not None},
                    {i: v for i, v in cache.modules.items() if not bundle.live[i]}, {})
            if two:
                s = torch.from_numpy(bundle.forecast[step, BRANCHES.index(branch)].copy()).float().to(device)
        elif gate in CONTINUED:
            kept = ({}, {}, {}, {}, cache.modules, cache.before if gate == EXTRAPOLATE else {})
            s = torch.full((), cache.factor(step), dtype=torch.float32, device=device) if gate == EXTRAPOLATE else None
        whole = kwargs.get("return_dict", True)
        out, made = self._graph(original, gate)({**kwargs, "return_dict": False}, kept, s)
        if gate == FULL and keep:
            continues = any(g in CONTINUED for g in applied.gates[branch])
            for i in applied._factors:
                if i not in made[1]:
                    raise Error("%s: did not run in a full evaluation, so it cannot be corrected" % applied.sites.sites[i].path)
            if continues:
                check_outputs(applied.sites.modules, made[2])
            for i, y in made[0].items():
                cache.sites.setdefault(i, Slot()).push(y, made[1].get(i), two and i in made[1])
            for i, outs in made[2].items():
                if continues or not bundle.live[i]:
                    cache.push(i, outs, keep > 1)
            cache.end(step)
        return applied._output(out[0]) if whole else out
