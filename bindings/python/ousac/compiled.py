"""Evaluations under torch.compile: a graph for each of what an evaluation may be, chosen outside of it.

    full      what later ones look back at is handed out too; without a bundle, nothing
    cached    linears are corrected
    reuse     every module gives what it gave

These are three at most: full evaluations that none looks back at run the same graph, and both branches do.
A graph takes what is kept as arguments and returns what is to be kept, so that nothing is decided in a block and no step
asks for another graph; the forecast's coefficients are a tensor for the same reason. Where a branch has one full evaluation
behind it, the one before counts as the same (another tensor of the same values, since a graph is made for what is the same
tensor): the forecast is then y_c, as without compilation.
"""
import types

import torch

from .bundle import DENSE, FROZEN
from .evaluation import Slot
from .library import Error
from .schedule import BRANCHES, CACHED, FULL, REUSE


class _Traced:
    """What Evaluation (evaluation.py) is, as a graph sees it. `y`, `t`, `y_before`, `t_before`, `outputs`: by number."""

    def __init__(self, bundle, factors, keeps_all, kind, kept, s):
        self.bundle, self.factors, self.keeps_all, self.kind, self.s = bundle, factors, keeps_all, kind, s
        self.y, self.t, self.y_before, self.t_before, self.outputs = kept
        self.made_y, self.made_t, self.made_outputs = {}, {}, {}

    def computes(self, module):
        return self.kind == FULL or (self.kind == CACHED and self.bundle.live[module.index])

    def module(self, module, compute):
        if self.computes(module):
            out = compute()
            if self.kind == FULL and (self.keeps_all or not self.bundle.live[module.index]):
                self.made_outputs[module.index] = [t.clone() for t in (out if isinstance(out, tuple) else (out,))]
            return out
        kept = [t.clone() for t in self.outputs[module.index]]
        return tuple(kept) if len(kept) > 1 else kept[0]

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
            keeps_all = any(REUSE in gates for gates in applied.gates.values())

            def graph(kwargs, kept, s):
                now = applied._now = _Traced(bundle, factors, keeps_all, kind, kept, s) if bundle is not None else None
                out = original(**kwargs)
                applied._now = None
                return out, (now.made_y, now.made_t, now.made_outputs) if bundle is not None else None

            self.graphs[kind] = torch.compile(_alone(graph), **self.options)
        return self.graphs[kind]

    def evaluate(self, original, kwargs, cache, gate, step, branch, keep):
        """What the transformer gives; the cache has what is to be kept."""
        applied, bundle = self.applied, self.applied.bundle
        two, s = bundle is not None and bundle.forecast is not None, None
        kept = ({}, {}, {}, {}, {})
        if gate == CACHED:
            slots = cache.sites.items()
            kept = ({i: v.y for i, v in slots}, {i: v.t for i, v in slots if v.t is not None},
                    {i: v.y_before if v.y_before is not None else v.y.detach() for i, v in slots if two and v.t is not None},
                    {i: v.t_before if v.t_before is not None else v.t.detach() for i, v in slots if two and v.t is not None},
                    {i: v for i, v in cache.modules.items() if not bundle.live[i]})
            if two:
                device = next(applied.transformer.parameters()).device
                s = torch.from_numpy(bundle.forecast[step, BRANCHES.index(branch)].copy()).float().to(device)
        elif gate == REUSE:
            kept = ({}, {}, {}, {}, cache.modules)
        whole = kwargs.get("return_dict", True)
        out, made = self._graph(original, gate)({**kwargs, "return_dict": False}, kept, s)
        if gate == FULL and keep and bundle is not None:
            for i in applied._factors:
                if i not in made[1]:
                    raise Error("%s: did not run in a full evaluation, so it cannot be corrected" % applied.sites.sites[i].path)
            for i, y in made[0].items():
                cache.sites.setdefault(i, Slot()).push(y, made[1].get(i), two and i in made[1])
            cache.modules.update((i, v) for i, v in made[2].items() if not bundle.live[i] or REUSE in applied.gates[branch])
            cache.filled = min(2, cache.filled + 1)
        return applied._output(out[0]) if whole else out
