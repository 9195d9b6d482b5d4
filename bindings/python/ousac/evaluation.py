"""One evaluation of a transformer with a bundle at work: what is kept, and what its linears and modules give (applied.py)."""
import torch

from .bundle import DENSE, FROZEN
from .library import Error
from .schedule import BRANCHES, CACHED, FULL, REUSE


class Slot:
    """What a site has of a branch's last two full evaluations: y and t = B x."""

    __slots__ = ("y", "t", "y_before", "t_before")

    def __init__(self):
        self.y = self.t = self.y_before = self.t_before = None

    def push(self, y, t, keep_before):
        if keep_before:
            self.y_before, self.t_before = self.y, self.t
        self.y, self.t = y, t

    def tensors(self):
        return [v for v in (self.y, self.t, self.y_before, self.t_before) if v is not None]


class Cache:
    """Of one branch in one run."""

    def __init__(self):
        self.filled, self.sites, self.modules = 0, {}, {}

    def bytes(self):
        tensors = [t for slot in self.sites.values() for t in slot.tensors()]
        tensors += [t for outs in self.modules.values() for t in outs]
        return sum(t.numel() * t.element_size() for t in tensors)


class Record:
    """What ran: evaluations by branch and gate, rows at once, bytes held at most, seconds by gate and in all."""

    def __init__(self):
        self.evaluations = {branch: {FULL: 0, CACHED: 0, REUSE: 0, "skipped": 0} for branch in BRANCHES}
        self.seconds = {FULL: 0.0, CACHED: 0.0, REUSE: 0.0}
        self.total, self.bytes, self.rows, self.runs, self.note = 0.0, 0, 0, 0, ""

    def __str__(self):
        if not self.runs:
            return "nothing has run yet"
        lines = ["%d run%s, %d rows at once, at most %.1f MB held" % (self.runs, "" if self.runs == 1 else "s", self.rows,
                                                                    self.bytes / 1e6)]
        for branch in BRANCHES:
            n = self.evaluations[branch]
            if any(n.values()):
                lines.append("%-7s %d full, %d cached, %d reused, %d skipped" % (
                    branch + ":", n[FULL], n[CACHED], n[REUSE], n["skipped"]))
        for gate in (FULL, CACHED, REUSE):
            count = sum(self.evaluations[branch][gate] for branch in BRANCHES)
            if count:
                lines.append("%-7s %.4f s each" % (gate + ":", self.seconds[gate] / count))
        lines.append("seconds in all: %.3f" % self.total)
        if not sum(self.evaluations[b][g] for b in BRANCHES for g in (CACHED, REUSE)):
            lines.append("no evaluation was cached")
        return "\n".join(lines + ([self.note] if self.note else []))


class Evaluation:
    """One pass of the transformer for one branch."""

    def __init__(self, applied, cache, gate, step, branch, keep):
        self.applied, self.cache, self.gate, self.step = applied, cache, gate, step
        self.branch, self.keep, self.seen = BRANCHES.index(branch), keep, set()
        self.bundle = applied.bundle
        self.two = self.bundle is not None and self.bundle.forecast is not None

    def computes(self, module):
        return self.gate == FULL or (self.gate == CACHED and self.bundle.live[module.index])

    def module(self, module, compute):
        if self.computes(module):
            out = compute()
            if self.gate == FULL and self.keep and (not self.bundle.live[module.index] or self._is_reused()):
                self.cache.modules[module.index] = [t.clone() for t in (out if isinstance(out, tuple) else (out,))]
            return out
        kept = [t.clone() for t in self.cache.modules[module.index]]
        return tuple(kept) if len(kept) > 1 else kept[0]

    def _is_reused(self):
        return REUSE in self.applied.gates[BRANCHES[self.branch]]

    def site(self, site, x, compute):
        i, path = site.index, self.bundle.path_of[site.index]
        factors = self.applied._factors.get(i)
        if i in self.seen:
            raise Error("%s: ran twice in one evaluation" % site.path)
        self.seen.add(i)
        if self.gate == FULL:
            y = compute()
            if self.keep and (factors is not None or path == FROZEN):
                slot = self.cache.sites.setdefault(i, Slot())
                t = None if factors is None else torch.matmul(x.to(factors[1].dtype), factors[1].t())
                slot.push(y.detach().clone(), t, self.two and factors is not None)
            return y
        if path == DENSE:
            return compute()
        slot = self.cache.sites[i]
        if factors is None:
            return slot.y.clone()
        a, b = factors
        s = self.bundle.coefficient(self.step, self.branch, site.group.index) if slot.y_before is not None else 0.0
        t = slot.t if s == 0 else torch.add(slot.t, slot.t - slot.t_before, alpha=s)
        y = slot.y if s == 0 else torch.add(slot.y, slot.y - slot.y_before, alpha=s)
        z = torch.matmul(x.to(b.dtype), b.t()) - t
        flat = torch.addmm(y.reshape(-1, y.shape[-1]), z.reshape(-1, z.shape[-1]).to(y.dtype), a.to(y.dtype))
        return flat.reshape(y.shape)

    def end(self):
        """Every linear that is to be corrected has been seen."""
        if self.gate != FULL:
            return
        if self.bundle is not None:
            for site in self.applied.sites.sites:
                if site.index not in self.seen:
                    raise Error("%s: did not run in a full evaluation, so it cannot be corrected" % site.path)
        if self.keep:
            self.cache.filled = min(2, self.cache.filled + 1)
