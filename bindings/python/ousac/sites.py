"""Site maps: which linears of a torch module are sites, in JSON (docs/PYTORCH.md, "Site maps").

A map names blocks by a path with {i}, counted from 0 for as long as there is one; in a block its modules in the order
of execution, of each module the stages, of a stage the groups, which are the linears that read one input. Names of
sites are the block's name and the key; where a list stands in place of an object, keys and paths are the same. A
module, a group or a constant whose linears are not there is left out where it is "optional", or where only some of a
joint module's groups are missing (the last block of SD3 has no text output).
"""
import json
import os

from .library import Error

MAPS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "maps")


class Site:
    __slots__ = ("index", "name", "path", "linear", "base", "group", "module", "stage", "m", "n")


class Group:
    __slots__ = ("index", "name", "stream", "sites", "module")


class Module:
    """`path`: the torch module whose output is the module's; `skip`: others that need not run where it is reused."""

    __slots__ = ("index", "name", "block", "path", "module", "skip", "outputs", "stages", "attention", "sites", "groups")


class Sites:
    """A map applied to a transformer: `sites`, `groups`, `modules`, `constants` (name, stream, linears), `streams`
    (names; `joined` says of which others one is made), `other` (linears of one row a sample, computed at every gate)."""

    def __init__(self, transformer, spec):
        self.family, self.spec, self.transformer = spec["family"], spec, transformer
        self.streams, self.joined = [], {}
        for name in spec["streams"]:
            name, _, parts = name.partition("=")
            self.streams.append(name)
            if parts:
                self.joined[name] = parts.split("+")
        self.sites, self.groups, self.modules, self.constants, self.other = [], [], [], [], []
        self.blocks = 0
        self._add_outer(spec, "", "")
        for block in spec["blocks"]:
            i = 0
            while _find(transformer, block["path"].format(i=i)) is not None:
                self._add_block(block, block["path"].format(i=i) + ".", block["name"].format(i=i))
                i, self.blocks = i + 1, self.blocks + 1
        if not self.sites:
            raise Error("%s: nothing at the paths of its site map (%s)" % (
                type(transformer).__name__, ", ".join(b["path"] for b in spec["blocks"])), "UNSUPPORTED")

    def _add_outer(self, spec, path, name):
        """Linears that are no sites: of one row a sample, and constant ones, which are one group under a name."""
        for item in spec.get("other", ()):
            if _find(self.transformer, path + item) is not None:
                self.other.append(_linear(self.transformer, path + item)[1])
        for constant in spec.get("constants", ()):
            there = [(key, _linear(self.transformer, path + item)[1]) for key, item in _pairs(constant["sites"])
                     if _find(self.transformer, path + item) is not None]
            if "name" in constant and there:
                self.constants.append((name + constant["name"], constant["stream"], [linear for _, linear in there]))
            else:
                self.constants += [(name + key, constant["stream"], [linear]) for key, linear in there]

    def _add_block(self, block, path, name):
        self._add_outer(block, path, name + ".")
        for spec in block["modules"]:
            if _find(self.transformer, path + spec["path"]) is None:
                if spec.get("optional"):
                    continue
                raise Error("%s: no module %s, which its site map names" % (type(self.transformer).__name__, path + spec["path"]),
                            "UNSUPPORTED")
            self._add_module(spec, path, name)

    def _add_module(self, spec, path, name):
        module = Module()
        module.index, module.block = len(self.modules), self.blocks
        module.name = name + ("." + spec["name"] if spec["name"] else "")
        module.path, module.module = path + spec["path"], _find(self.transformer, path + spec["path"])
        module.skip = [_find(self.transformer, path + item) for item in spec.get("skip", ())]
        module.attention = [tuple(pair) for pair in spec.get("attention", ())]
        module.sites, module.groups, module.stages = [], [], len(spec["stages"])
        last = set()
        for stage, groups in enumerate(spec["stages"]):
            for wanted in groups:
                pairs = [(key, path + item) for key, item in _pairs(wanted["sites"])]
                there = [_find(self.transformer, item) is not None for _, item in pairs]
                if not any(there) and (len(groups) > 1 or spec.get("optional")):
                    continue
                pairs = [pair for pair, found in zip(pairs, there) if found]
                if not pairs:
                    raise Error("%s: no linear %s, which its site map names" % (
                        type(self.transformer).__name__, path + next(iter(_pairs(wanted["sites"])))[1]), "UNSUPPORTED")
                self._add_group(module, wanted, stage, pairs, name)
                if stage == len(spec["stages"]) - 1:
                    last.add(wanted["stream"])
        module.outputs = [stream for stream in spec["outputs"] if stream in last]
        self.modules.append(module)

    def _add_group(self, module, wanted, stage, pairs, name):
        group = Group()
        group.index, group.stream, group.module, group.sites = len(self.groups), wanted["stream"], module, []
        for key, path in pairs:
            site = Site()
            site.index, site.name, site.path = len(self.sites), name + "." + key, path
            site.linear, site.base = _linear(self.transformer, path)
            site.group, site.module, site.stage = group, module, stage
            site.m, site.n = site.base.weight.shape
            self.sites.append(site)
            group.sites.append(site)
        group.name = group.sites[0].name if len(group.sites) == 1 else name + "." + wanted.get("name", pairs[0][0])
        if len({site.n for site in group.sites}) > 1:
            raise Error("%s: its linears read inputs of different widths" % group.name, "UNSUPPORTED")
        self.groups.append(group)
        module.groups.append(group)
        module.sites += group.sites

    def check_arch(self, arch, where):
        """That an architecture has these sites, in this order and of these shapes."""
        theirs = [(s["name"], s["m"], s["n"]) for s in arch["sites"]]
        ours = [(s.name, s.m, s.n) for s in self.sites]
        for mine, wanted in zip(ours, theirs):
            if mine != wanted:
                raise Error("%s: site %s (%d, %d), but the pipeline has %s (%d, %d)" % ((where,) + wanted + mine))
        if len(ours) != len(theirs):
            raise Error("%s: %d sites, but the pipeline has %d" % (where, len(theirs), len(ours)))


def _pairs(sites):
    return sites.items() if isinstance(sites, dict) else [(item, item) for item in sites]


def _find(root, path):
    for part in path.split("."):
        root = getattr(root, part, None) if not part.isdigit() else (
            root[int(part)] if root is not None and int(part) < len(root) else None)
        if root is None:
            return None
    return root


def _linear(root, path):
    """The module at a path and the nn.Linear in it, which a LoRA may wrap; others are refused by name."""
    import torch

    module = _find(root, path)
    base = getattr(module, "base_layer", module)
    if type(base) is not torch.nn.Linear or base.weight.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise Error("%s: a %s of %s; expected torch.nn.Linear in float32, float16 or bfloat16" % (
            path, type(base).__name__, getattr(getattr(base, "weight", None), "dtype", "no weight")), "UNSUPPORTED")
    return module, base


def load_map(source):
    """A map by its name among those shipped, its path, or the object."""
    if isinstance(source, dict):
        spec, where = source, "site map"
    else:
        where = os.fspath(source)
        if not os.path.exists(where) and os.path.exists(os.path.join(MAPS, where + ".json")):
            where = os.path.join(MAPS, where + ".json")
        with open(where, encoding="utf-8") as file:
            spec = json.load(file)
    if spec.get("format") != "ousac-sites" or spec.get("version") != 1:
        raise Error('%s: not a site map: expected "format": "ousac-sites", "version": 1' % where, "FORMAT")
    return spec


def map_for(transformer):
    """The shipped map of the transformer's class."""
    names = [cls.__name__ for cls in type(transformer).__mro__]
    for file in sorted(os.listdir(MAPS)):
        spec = load_map(os.path.join(MAPS, file))
        if set(spec["classes"]) & set(names):
            return spec
    raise Error("%s: no site map is shipped for this class; give one (`sites=`)" % names[0], "UNSUPPORTED")


def find_sites(transformer, source=None):
    """Sites of a transformer by a given map or the one of its class. Fused projections are refused."""
    if hasattr(transformer, "_orig_mod"):
        raise Error("the transformer is compiled; give the module that was compiled, and `compile=` to ousac.apply", "UNSUPPORTED")
    for name, module in transformer.named_modules():
        if getattr(module, "fused_projections", False):
            raise Error("%s: its projections are fused; call unfuse_qkv_projections() first" % name, "UNSUPPORTED")
    return Sites(transformer, load_map(source) if source is not None else map_for(transformer))
