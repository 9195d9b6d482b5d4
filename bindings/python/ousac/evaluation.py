"""One evaluation of a transformer at work: what is kept, and what its linears and modules give (applied.py)."""
import torch

from .bundle import DENSE, FROZEN
from .library import Error
from .schedule import BRANCHES, CACHED, CONTINUED, EXTRAPOLATE, FULL, GATES, REUSE


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
    """Of one branch in one run. `fulls`: the steps of the last two full evaluations that are kept, the last first;
    `modules` and `before`: outputs of modules at them."""

    def __init__(self):
        self.fulls, self.sites, self.modules, self.before = [], {}, {}, {}

    def push(self, index, outs, two):
        """A module's outputs; those at the full evaluation before stay where `two`."""
        before = self.modules.pop(index, None)
        if two and before is not None:
            self.before[index] = before
        else:
            self.before.pop(index, None)
        self.modules[index] = outs

    def end(self, step):
        """A full evaluation has been kept."""
        self.fulls = [step] + self.fulls[:1]

    def factor(self, step):
        """How far a step lies behind the last full evaluation, in distances of that from the one before."""
        j, h = self.fulls
        return (step - j) / (j - h)

    def bytes(self):
        tensors = [t for slot in self.sites.values() for t in slot.tensors()]
        tensors += [t for kept in (self.modules, self.before) for outs in kept.values() for t in outs]
        return sum(t.numel() * t.element_size() for t in tensors)


class Record:
    """What ran: evaluations by branch and gate, rows at once, bytes held at most, seconds by gate and in all."""

    def __init__(self):
        self.evaluations = {branch: {**dict.fromkeys(GATES, 0), "skipped": 0} for branch in BRANCHES}
        self.seconds = dict.fromkeys(GATES, 0.0)
        self.total, self.bytes, self.rows, self.runs, self.note = 0.0, 0, 0, 0, ""

    def __str__(self):
        if not self.runs:
            return "nothing has run yet"
        lines = ["%d run%s, %d rows at once, at most %.1f MB held" % (self.runs, "" if self.runs == 1 else "s", self.rows,
                                                                    self.bytes / 1e6)]
        for branch in BRANCHES:
            n = self.evaluations[branch]
            if any(n.values()):
                extrapolated = ", %d extrapolated" % n[EXTRAPOLATE] if n[EXTRAPOLATE] else ""
                lines.append("%-7s %d full, %d cached, %d reused%s, %d skipped" % (
                    branch + ":", n[FULL], n[CACHED], n[REUSE], extrapolated, n["skipped"]))
        for gate in GATES:
            count = sum(self.evaluations[branch][gate] for branch in BRANCHES)
            if count:
                lines.append("%-7s %.4f s each" % (gate + ":", self.seconds[gate] / count))
        lines.append("seconds in all: %.3f" % self.total)
        if not sum(self.evaluations[b][g] for b in BRANCHES for g in GATES if g != FULL):
            lines.append("no evaluation was cached")
        return "\n".join(lines + ([self.note] if self.note else []))


class Evaluation:
    """One pass of the transformer for one branch. `keep`: of how many full evaluations modules' outputs stay, this one's
    first; 0 where nothing looks back at it."""

    def __init__(self, applied, cache, gate, step, branch, keep):
        self.applied, self.cache, self.gate, self.step = applied, cache, gate, step
        self.branch, self.keep, self.seen = BRANCHES.index(branch), keep, set()
        self.bundle = applied.bundle
        self.two = self.bundle is not None and self.bundle.forecast is not None
        self.ran, self.continues = set(), any(g in CONTINUED for g in applied.gates[branch])

    def computes(self, module):
        return self.gate == FULL or (self.gate == CACHED and self.bundle.live[module.index])

    def module(self, module, compute):
        i = module.index
        if i in self.ran:
            raise Error("%s: ran twice in one evaluation" % module.path)
        self.ran.add(i)
        if self.computes(module):
            out = compute()
            if self.gate == FULL and self.keep and (self.continues or not self.bundle.live[i]):
                self.cache.push(i, [t.clone() for t in (out if isinstance(out, tuple) else (out,))], self.keep > 1)
            return out
        if self.gate == EXTRAPOLATE:
            weight = 1 + self.cache.factor(self.step)
            made = [torch.lerp(before, last, weight) for before, last in zip(self.cache.before[i], self.cache.modules[i])]
        else:
            made = [t.clone() for t in self.cache.modules[i]]
        return tuple(made) if len(made) > 1 else made[0]

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
        """Every linear that is to be corrected, and every module that is to be continued, has been seen."""
        if self.gate != FULL:
            return
        if self.bundle is not None:
            for site in self.applied.sites.sites:
                if site.index not in self.seen:
                    raise Error("%s: did not run in a full evaluation, so it cannot be corrected" % site.path)
        if self.keep:
            if self.continues:
                check_outputs(self.applied.sites.modules, self.cache.modules)
            self.cache.end(self.step)


def check_outputs(modules, made):
    """That modules which are to be continued have outputs."""
    for module in modules:
        if module.index not in made:
            raise Error("%s: did not run in a full evaluation, so it cannot be continued" % module.path)
