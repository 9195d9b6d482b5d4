"""A torch module as a model of libousac: its forward runs here, its mapped linears in the library.

Host(transformer, call=..., ...) takes any module and a function that runs it; pipelines that are known come with theirs
(pipelines.py). Every linear that the site map names is multiplied by the library, in float32 on the CPU; where weights
or activations are elsewhere or in another dtype they are copied, and that is said once.
"""
import ctypes
import warnings

import numpy
import torch

from .context import FORWARD, Context
from .described import Described
from .library import Error, library


class _Stopped(Exception):
    """The library has failed or was interrupted; it knows why."""


class Host(Described):
    """`call(x, timestep, guidance, branch, samples)` runs the transformer on x (count, channels, height, width), float32 on
    the CPU, for the numbered samples, and returns what it predicts in the same shape. `levels` and `prediction` as in
    docs/MODELS.md. `constants`: what else decides a forward. `rescaled`: whether guidance gives every
    row of a sample, along its width, the length of the conditional prediction's."""

    def __init__(self, transformer, call, shape, levels, prediction="epsilon", sites=None, guided_channels=0, has_uncond=True,
                 constants="", name=None, rescaled=False):
        super().__init__(transformer, shape, levels, prediction, sites, guided_channels, has_uncond, constants, name, rescaled)
        self.call = call
        out = self.watch(lambda: self.call(torch.zeros((1,) + self.shape), 1.0, 1.0, "cond", [0]), 1)
        if tuple(out.shape) != (1,) + self.shape:
            raise Error("%s: its call returns %s; expected %s" % (self.name, tuple(out.shape), (1,) + self.shape), "USAGE")
        self._call = self._patches = self._context = None

    def open(self, inputs=None, **options):
        """A Context on this model; close it to restore the module."""
        if self._patches is not None:
            raise Error("%s: hosted already" % self.name, "USAGE")
        model, self._weights = self.described()
        if self.copied:
            warnings.warn("%s: weights that are not float32 on the CPU are copied there, activations at every call" % self.name)
        self._forward = model.forward = FORWARD(self._run)
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
