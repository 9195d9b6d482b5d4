"""A torch module as the library is told of it: its sites by a site map, its architecture, its weights.

What hosting and capturing have in common. Tokens of streams and shapes of outputs are found by watching one evaluation.
"""
import ctypes
import hashlib
import json

import torch

from .context import host_model
from .library import Error
from .sites import find_sites


class Described:
    """`levels` and `prediction` as in docs/MODELS.md. `constants`: what else decides a forward.
    `rescaled`: whether guidance gives every row of a sample, along its width, the length of the conditional prediction's."""

    def __init__(self, transformer, shape, levels, prediction="epsilon", sites=None, guided_channels=0, has_uncond=True, constants="",
                 name=None, rescaled=False):
        self.transformer = transformer
        self.shape = None if shape is None else tuple(int(v) for v in shape)
        self.sites = find_sites(transformer, sites)
        self.levels, self.prediction, self.constants = levels, prediction, constants
        self.guided_channels, self.has_uncond, self.rescaled = guided_channels, has_uncond, rescaled
        self.name = name or type(transformer).__name__
        if transformer.training:
            raise Error("%s: in training mode; call eval() first" % self.name, "USAGE")
        for site in self.sites.sites:
            if site.linear is not site.base:
                raise Error("%s: wrapped by an adapter; calibrate without it (unload or fuse), apply takes it on top" % site.path,
                            "UNSUPPORTED")

    # --- the architecture ---

    def watch(self, run, count):
        """Runs `count` samples by run(): tokens of every stream, shapes of modules' outputs. Returns what run() does."""
        tokens, outputs, hooks, calls = {}, {}, [], []

        def site_hook(site):
            def hook(module, args, out):
                calls.append(site.index)
                rows = args[0].numel() // site.n // count
                if tokens.setdefault(site.group.stream, rows) != rows:
                    raise Error("%s: %d tokens of stream %s, where others have %d" % (site.path, rows, site.group.stream,
                                                                                  tokens[site.group.stream]), "UNSUPPORTED")
            return hook

        def module_hook(module):
            def hook(_, args, out):
                outputs[module.index] = [tuple(t.shape) if torch.is_tensor(t) else None
                                         for t in (out if isinstance(out, tuple) else (out,))]
            return hook

        def constant_hook(stream, n):
            def hook(module, args, out):
                tokens.setdefault(stream, args[0].numel() // n // count)
            return hook

        for site in self.sites.sites:
            hooks.append(site.linear.register_forward_hook(site_hook(site)))
        for module in self.sites.modules:
            hooks.append(module.module.register_forward_hook(module_hook(module)))
        for _, stream, linears in self.sites.constants:
            hooks.append(linears[0].register_forward_hook(constant_hook(stream, linears[0].in_features)))
        try:
            with torch.no_grad():
                out = run()
        finally:
            for hook in hooks:
                hook.remove()
        for site in self.sites.sites:
            if calls.count(site.index) != 1:
                raise Error("%s: ran %d times in one evaluation; expected once" % (site.path, calls.count(site.index)), "UNSUPPORTED")
        for name, parts in self.sites.joined.items():
            tokens.setdefault(name, sum(tokens[part] for part in parts))
        for name in self.sites.streams:
            if name not in tokens:
                raise Error("%s: stream %s has no linears here" % (self.name, name), "UNSUPPORTED")
        self.tokens, self.shapes = tokens, outputs
        return out

    def _output_width(self, module, stream):
        return next(s.m for s in reversed(module.sites) if s.group.stream == stream and s.stage == module.stages - 1)

    def arch(self):
        """The architecture as formats/PROFILE.md has it."""
        streams = {name: i for i, name in enumerate(self.sites.streams)}
        sites = [{"name": s.name, "block": s.module.block, "module": s.module.index, "group": s.group.index, "stage": s.stage,
                  "m": s.m, "n": s.n} for s in self.sites.sites]
        groups = []
        for g in self.sites.groups:
            inward = len(g.sites) > 1 or g.sites[0].n <= g.sites[0].m
            groups.append({"name": g.name, "first_site": g.sites[0].index, "sites": len(g.sites), "stream": streams[g.stream],
                           "side": "input" if inward else "output", "dim": g.sites[0].n if inward else g.sites[0].m})
        modules = []
        for m in self.sites.modules:
            macs = sum(2 * self.tokens[q] * self.tokens[k] * m.sites[0].m for q, k in m.attention)
            modules.append({"name": m.name, "block": m.block, "stages": m.stages, "first_site": m.sites[0].index,
                            "sites": len(m.sites), "fixed_macs": str(macs),
                            "outputs": [{"stream": streams[o], "width": self._output_width(m, o)} for o in m.outputs]})
        constants = [{"name": name, "stream": streams[stream], "m": sum(linear.out_features for linear in linears),
                      "n": linears[0].in_features} for name, stream, linears in self.sites.constants]
        other = sum(linear.in_features * linear.out_features for linear in self.sites.other)
        return {"family": self.sites.family, "width": self._output_width(self.sites.modules[0], self.sites.modules[0].outputs[0]),
                "blocks": self.sites.blocks, "other_macs": str(other),
                "streams": [{"name": name, "tokens": self.tokens[name]} for name in self.sites.streams],
                "sites": sites, "groups": groups, "modules": modules, "constants": constants}

    def rest_digest(self):
        """Of every tensor of the transformer that is no site's."""
        mine = {id(p) for s in self.sites.sites for p in s.base.parameters()}
        state = hashlib.sha256()
        for name, value in list(self.transformer.named_parameters()) + list(self.transformer.named_buffers()):
            if id(value) not in mine:
                values = value.detach().to("cpu", torch.float32).contiguous()
                state.update(("%s %s\n" % (name, tuple(values.shape))).encode())
                state.update(values.numpy().tobytes())
        return state.hexdigest()

    def described(self, **more):
        """The structure that a Context is opened with, and what has to live as long; `copied`: how many weights are no
        memory of the module's."""
        kept, self.copied = [], 0
        count = len(self.sites.sites)
        weight, bias = (ctypes.c_void_p * count)(), (ctypes.c_void_p * count)()
        for site in self.sites.sites:
            for values, target in ((site.base.weight, weight), (site.base.bias, bias)):
                if values is None:
                    continue
                shared = values.detach().to("cpu", torch.float32).contiguous()
                self.copied += shared.data_ptr() != values.data_ptr()
                kept.append(shared)
                target[site.index] = shared.data_ptr()
        model = host_model(name=self.name, arch=json.dumps(self.arch()), levels=self.levels, prediction=self.prediction,
                           constants=self.constants, rest=self.rest_digest(), channels=self.shape[0], height=self.shape[1],
                           width=self.shape[2], guided_channels=self.guided_channels, has_uncond=int(self.has_uncond),
                           rescaled=int(self.rescaled), **more)
        model.weight, model.bias = weight, bias
        return model, kept
