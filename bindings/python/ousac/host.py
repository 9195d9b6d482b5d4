"""A torch module as a model of libousac: its forward runs here, its mapped linears in the library.

Host(transformer, call=..., ...) takes any module and a function that runs it; pipelines that are known come with theirs
(pipelines.py). Every linear that the site map names is multiplied by the library, in float32 on the CPU; where weights
or activations are elsewhere or in another dtype they are copied, and that is said once.
"""
import ctypes
import hashlib
import json
import warnings

import numpy
import torch

from .context import FORWARD, Context, host_model
from .library import Error, library
from .sites import find_sites


class _Stopped(Exception):
    """The library has failed or was interrupted; it knows why."""


class Host:
    """`call(x, timestep, guidance, branch, samples)` runs the transformer on x (count, channels, height, width), float32 on
    the CPU, for the numbered samples, and returns what it predicts in the same shape. `levels` and `prediction` as in
    docs/MODELS.md. `constants`: what else decides a forward."""

    def __init__(self, transformer, call, shape, levels, prediction="epsilon", sites=None, guided_channels=0, has_uncond=True,
                 constants="", name=None):
        self.transformer, self.call, self.shape = transformer, call, tuple(int(v) for v in shape)
        self.sites = find_sites(transformer, sites)
        self.levels, self.prediction, self.constants = levels, prediction, constants
        self.guided_channels, self.has_uncond = guided_channels, has_uncond
        self.name = name or type(transformer).__name__
        if transformer.training:
            raise Error("%s: in training mode; call eval() first" % self.name, "USAGE")
        for site in self.sites.sites:
            if site.linear is not site.base:
                raise Error("%s: wrapped by an adapter; calibrate without it (unload or fuse), apply takes it on top" % site.path,
                            "UNSUPPORTED")
        self.tokens, self.shapes = self._trace()
        self._call = self._patches = self._context = None

    # --- the architecture ---

    def _trace(self):
        """Runs one sample: tokens of every stream, shapes of modules' outputs, the order in which linears come."""
        tokens, outputs, hooks, calls = {}, {}, [], []

        def site_hook(site):
            def hook(module, args, out):
                calls.append(site.index)
                rows = args[0].numel() // site.n
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
                tokens.setdefault(stream, args[0].numel() // n)
            return hook

        for site in self.sites.sites:
            hooks.append(site.linear.register_forward_hook(site_hook(site)))
        for module in self.sites.modules:
            hooks.append(module.module.register_forward_hook(module_hook(module)))
        for _, stream, linears in self.sites.constants:
            hooks.append(linears[0].register_forward_hook(constant_hook(stream, linears[0].in_features)))
        try:
            with torch.no_grad():
                x = torch.zeros((1,) + self.shape)
                out = self.call(x, 1.0, 1.0, "cond", [0])
        finally:
            for hook in hooks:
                hook.remove()
        if tuple(out.shape) != (1,) + self.shape:
            raise Error("%s: its call returns %s; expected %s" % (self.name, tuple(out.shape), (1,) + self.shape), "USAGE")
        for site in self.sites.sites:
            if calls.count(site.index) != 1:
                raise Error("%s: ran %d times in one evaluation; expected once" % (site.path, calls.count(site.index)), "UNSUPPORTED")
        for name, parts in self.sites.joined.items():
            tokens.setdefault(name, sum(tokens[part] for part in parts))
        for name in self.sites.streams:
            if name not in tokens:
                raise Error("%s: stream %s has no linears here" % (self.name, name), "UNSUPPORTED")
        return tokens, outputs

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

    def open(self, inputs=None, **options):
        """A Context on this model; close it to restore the module."""
        if self._patches is not None:
            raise Error("%s: hosted already" % self.name, "USAGE")
        self._weights, copied = [], 0
        count = len(self.sites.sites)
        weight, bias = (ctypes.c_void_p * count)(), (ctypes.c_void_p * count)()
        for site in self.sites.sites:
            for values, target in ((site.base.weight, weight), (site.base.bias, bias)):
                if values is None:
                    continue
                shared = values.detach().to("cpu", torch.float32).contiguous()
                copied += shared.data_ptr() != values.data_ptr()
                self._weights.append(shared)
                target[site.index] = shared.data_ptr()
        if copied:
            warnings.warn("%s: weights that are not float32 on the CPU are copied there, activations at every call" % self.name)
        self._forward = FORWARD(self._run)
        model = host_model(name=self.name, arch=json.dumps(self.arch()), levels=self.levels, prediction=self.prediction,
                           constants=self.constants, rest=self.rest_digest(), channels=self.shape[0], height=self.shape[1],
                           width=self.shape[2], guided_channels=self.guided_channels, has_uncond=int(self.has_uncond))
        model.weight, model.bias, model.forward = weight, bias, self._forward
        self._patch()
        try:
            self._context = _HostContext(self, model, inputs, options)
        except BaseException:
            self._restore()
            raise
        return self._context

    # --- attached ---

    def _patch(self):
        self._patches = []

        def replace(module, make):
            there, before = "forward" in module.__dict__, module.__dict__.get("forward")
            object.__setattr__(module, "forward", make(module.forward))
            self._patches.append((module, there, before))

        for site in self.sites.sites:
            replace(site.linear, lambda original, site=site: lambda x, *args, **kwargs: self._linear(site, x) if self._call
                    else original(x, *args, **kwargs))
        for module in self.sites.modules:
            replace(module.module, lambda original, module=module: lambda *args, **kwargs: self._module(
                module, lambda: original(*args, **kwargs)) if self._call else original(*args, **kwargs))
            for skipped in module.skip:
                replace(skipped, lambda original, module=module, skipped=skipped: lambda *args, **kwargs: self._skip(
                    module, skipped, original, args, kwargs) if self._call else original(*args, **kwargs))

    def _restore(self):
        for module, there, before in reversed(self._patches or []):
            if there:
                object.__setattr__(module, "forward", before)
            else:
                module.__dict__.pop("forward", None)
        self._patches = None

    def _run(self, _, evaluation, call, message, size):
        """The library's callback."""
        e = evaluation.contents
        try:
            shape = (e.count,) + self.shape
            x = torch.from_numpy(numpy.ctypeslib.as_array(e.x, shape).copy())
            self._call, self._groups, self._seen, self._begun, self._count = call, {}, set(), {}, e.count
            with torch.no_grad():
                out = self.call(x, e.timestep, e.guidance, ("cond", "uncond")[e.branch], list(range(e.first, e.first + e.count)))
            numpy.ctypeslib.as_array(e.out, shape)[...] = out.detach().to("cpu", torch.float32).numpy()
            return 0
        except _Stopped:
            return 1
        except BaseException as error:
            if self._context is not None:
                self._context.failure = error
            text = (str(error) or type(error).__name__).replace("\n", " ").encode()[: size - 1]
            ctypes.memmove(message, text + b"\0", len(text) + 1)
            return 1
        finally:
            self._call, self._groups = None, None

    def _begin(self, module):
        """1 where the module is live; else its outputs, which the library has written."""
        if module.index not in self._begun:
            outs = [torch.empty(self._count * self.tokens[o], self._output_width(module, o)) for o in module.outputs]
            pointers = (ctypes.c_void_p * len(outs))(*[t.data_ptr() for t in outs])
            live = ctypes.c_int()
            if library().ousac_host_module_begin(ctypes.c_void_p(self._call), ctypes.c_size_t(module.index), pointers, ctypes.byref(live)):
                raise _Stopped
            self._begun[module.index] = None if live.value else outs
        return self._begun[module.index]

    def _module(self, module, compute):
        kept = self._begin(module)
        shapes = self.shapes[module.index]
        like = self._like
        if kept is not None:
            made = [t.reshape((self._count,) + shapes[i][1:]).to(*like) for i, t in enumerate(kept)]
            made += [None] * (len(shapes) - len(made))
            return tuple(made) if len(shapes) > 1 else made[0]
        out = compute()
        outs = out if isinstance(out, tuple) else (out,)
        flat = [outs[i].to("cpu", torch.float32).contiguous() for i in range(len(module.outputs))]
        pointers = (ctypes.c_void_p * len(flat))(*[t.data_ptr() for t in flat])
        if library().ousac_host_module_end(ctypes.c_void_p(self._call), ctypes.c_size_t(module.index), pointers):
            raise _Stopped
        return out

    def _skip(self, module, skipped, original, args, kwargs):
        if self._begin(module) is None:
            return original(*args, **kwargs)
        x = args[0] if args else kwargs["hidden_states"]
        width = skipped.out_features if isinstance(skipped, torch.nn.Linear) else x.shape[-1]
        return x.new_zeros(1).expand(x.shape[:-1] + (width,))

    @property
    def _like(self):
        p = self.sites.sites[0].base.weight
        return p.device, p.dtype

    def _linear(self, site, x):
        group, at = site.group, sum(s.m for s in site.group.sites if s.index < site.index)
        if site.index in self._seen:
            raise Error("%s: ran twice in one evaluation" % site.path)
        self._seen.add(site.index)
        self._begin(site.module)
        if group.index not in self._groups:
            rows = x.to("cpu", torch.float32).contiguous()
            y = torch.empty(rows.numel() // site.n, sum(s.m for s in group.sites))
            if y.shape[0] != self._count * self.tokens[group.stream]:
                raise Error("%s: %d rows; expected %d tokens of %d samples" % (site.path, y.shape[0], self.tokens[group.stream],
                                                                            self._count))
            if library().ousac_host_linear(ctypes.c_void_p(self._call), ctypes.c_size_t(group.index), ctypes.c_void_p(rows.data_ptr()),
                                           ctypes.c_void_p(y.data_ptr())):
                raise _Stopped
            self._groups[group.index] = (x, y)
        shared, y = self._groups[group.index]
        if shared is not x and (shared.data_ptr() != x.data_ptr() or shared.shape != x.shape):
            raise Error("%s: its input is not that of the other linears of %s" % (site.path, group.name))
        return y[:, at:at + site.m].reshape(x.shape[:-1] + (site.m,)).to(*self._like)


class _HostContext(Context):
    def __init__(self, host, model, inputs, options):
        self._host = host
        super().__init__(model, inputs=inputs, **options)

    def close(self):
        super().close()
        self._host._restore()
        self._host._context = None
