"""A bundle (formats/BUNDLE.md) as a runtime needs it: schedule, plan, and the factors of every corrected linear. NumPy."""
import json
import re

from . import oca
from .library import Error
from .schedule import CACHED, Schedule

FROZEN, LOW_RANK, DENSE, SKIPPED = "frozen", "low-rank", "dense", "skipped"


class Bundle:
    """`plan`: the name of one, where there are several and none is called "default"."""

    def __init__(self, path, plan=None):
        self.path = str(path)
        self.file = oca.File(path)
        meta = self.file.metadata
        if meta.get("format") != "ousac-bundle":
            raise Error("%s: not a bundle, but %s" % (self.path, meta.get("format", "another archive")), "FORMAT")
        self.arch = json.loads(meta["arch"])
        if "streams" not in self.arch:
            raise Error("%s: a bundle of version 1; pack it again" % self.path, "UNSUPPORTED")
        self.family = self.arch["family"]
        self.streams, self.sites = self.arch["streams"], self.arch["sites"]
        self.groups, self.modules = self.arch["groups"], self.arch["modules"]
        self.schedule = Schedule(meta["schedule"], self.path)
        self.model_digest, self.model_constants = meta["model_digest"], meta.get("model_constants", "")
        self.process = meta.get("model_process", "")
        self.plans = sorted(name[5:-5] for name in self.file if re.fullmatch(r"plan/[^/]+/rank", name))
        if plan is None:
            plan = "default" if "default" in self.plans else self.plans[0] if len(self.plans) == 1 else None
        if plan not in self.plans:
            raise Error("%s: no plan %s; there are %s" % (self.path, plan, ", ".join(self.plans)), "USAGE")
        self.plan = plan
        self.ranks = [int(r) for r in self.file["plan/%s/rank" % plan].read("i32")]
        forecast = "forecast/" + plan
        self.forecast = self.file[forecast].read("f32") if forecast in self.file else None
        self.probes = self.file["probe"].read("f64")
        self._find_paths()

    def _find_paths(self):
        """What a cached evaluation does at every site, and which modules it computes (formats/PLAN.md)."""
        self.live, self.path_of = [], []
        for module in self.modules:
            stages = [False] * module["stages"]
            for s in range(module["first_site"], module["first_site"] + module["sites"]):
                stages[self.sites[s]["stage"]] |= self.ranks[s] > 0
            self.live.append(all(stages))
        for site, rank in zip(self.sites, self.ranks):
            m, n = site["m"], site["n"]
            if not self.live[site["module"]]:
                self.path_of.append(SKIPPED)
            elif rank == 0:
                self.path_of.append(FROZEN)
            else:
                self.path_of.append(DENSE if rank * (m + n) >= m * n else LOW_RANK)

    def factors(self, index):
        """A (rank, m) and B (rank, n) of a site at the plan's rank, float32; row i is direction i."""
        name, rank = self.sites[index]["name"], self.ranks[index]
        made = []
        for side in "AB":
            tensor = "factor/%s/%s" % (name, side)
            if tensor not in self.file or self.file[tensor].shape[0] < rank:
                raise Error("%s: %s: rank %d, but fewer directions are stored" % (self.path, tensor, rank), "FORMAT")
            made.append(self.file[tensor].read("f32", rows=rank))
        return made

    def coefficient(self, step, branch, group):
        """s of the residual forecast."""
        return 0.0 if self.forecast is None else float(self.forecast[step, branch, group])

    def guided(self):
        """(guided, channels): guidance acts on the first so many; None where the process does not say."""
        found = re.search(r"guidance on (\d+) of (\d+) channels", self.process)
        return (int(found[1]), int(found[2])) if found else None

    def levels(self):
        """The word of the noise levels, and what is predicted."""
        found = re.search(r"^predicts (\w+),.*noise levels (\S+)$", self.process)
        return (found[2], found[1]) if found else (None, None)

    def __repr__(self):
        cached = sum(gate == CACHED for branch in ("cond", "uncond") for gate in self.schedule.gates(branch))
        return "<ousac.Bundle %s: %s, %d sites, plan %s, %d steps, %d cached evaluations>" % (
            self.path, self.family, len(self.sites), self.plan, len(self.schedule.steps), cached)
