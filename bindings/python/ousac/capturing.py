"""ousac.capture: a profile from a sampling loop that is the user's own, by hooks on the mapped linears.

The loop runs its module as ever and says which step and branch a call is of. Hooks hand every linear's input and output
to the library during the call; nothing is kept, and nothing of the module's results changes. The first call of the
transformer is run twice, once to learn the shapes.
"""
import contextlib
import ctypes
import os
import warnings

import torch

from .context import Context, made
from .described import Described
from .library import Error, ErrorRecord, check, library
from .schedule import BRANCHES, Schedule

_size, _u64, _int, _text, _pointer = ctypes.c_size_t, ctypes.c_uint64, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p
_DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}


class _Options(ctypes.Structure):
    _fields_ = [("size", _size), ("first", _u64), ("count", _u64), ("tokens", _size), ("dtype", _int), ("outputs", _int),
                ("pilot", _int), ("weights", _text), ("at_once", _size)]


class _Matrix(ctypes.Structure):
    _fields_ = [("data", _pointer), ("dtype", _int), ("rows", _size), ("columns", _size), ("taken", _int)]


_ARGUMENTS = {"begin": (_u64, _u64, _size, _int), "rows": (_int, _size, _pointer, _pointer), "input": (_int, _size, _pointer),
              "output": (_int, _size, _pointer), "module": (_int, _size, _size, _pointer), "end": (_int,), "write": (_text,)}
_functions = {}


def _function(name):
    """ousac_capture_NAME: looked up and told its types once, for it is called at every linear."""
    if name not in _functions:
        found = getattr(library(), "ousac_capture_" + name)
        found.argtypes = (_pointer,) + _ARGUMENTS[name] + (_pointer,)
        _functions[name] = found
    return _functions[name]


def _on_host(tensor):
    return tensor.device.type == "cpu"


class _CapturedContext(Context):
    """Of a model that cannot be run: plans are uniform."""

    def __init__(self, model, kept, **options):
        self._kept = kept
        super().__init__(model, **options)

    def plan(self, profile, output, budget_step=None, budget_total=None, forecast=0, compare=0):
        super().plan(profile, output, budget_step, budget_total, forecast, compare)


class _Step:
    """An open `with capture.step(...)`. `branches`: numbers, in the order in which they lie in a batch."""

    def __init__(self, index, branches, first, count):
        self.index, self.branches, self.first, self.count = index, branches, first, count
        self.begun, self.seen, self.inputs, self.last, self.rows = False, set(), {}, {}, {}


class Capture:
    """Made by ousac.capture. A context manager: at its end the profile is written, unless by an exception."""

    def __init__(self, transformer, schedule, samples=48, out="profile.oca", branches=("cond", "uncond"), site_map=None, tokens=None,
                 first_sample=0, micro_batch=None, seed=0, inputs=None, scheduler=None, levels=None, prediction=None, shape=None,
                 guided_channels=0, constants="", pilot=False, weights=None, at_once=1,
                 rescaled=False):
        if scheduler is not None:
            from .pipelines import levels_of

            levels, prediction = levels_of(scheduler)
        if levels is None or prediction is None:
            raise Error("%s: expected `scheduler`, of diffusers, or `levels` and `prediction`" % type(transformer).__name__, "USAGE")
        if len(branches) not in (1, 2) or len(set(branches)) != len(branches):
            raise Error("branches %r; expected the names of the conditional and the unconditional one" % (branches,), "USAGE")
        self.path, self.schedule, self.branches = os.fspath(out), os.fspath(schedule), tuple(branches)
        self._steps = Schedule.load(schedule).steps
        self._described = Described(transformer, shape, levels, prediction, site_map, guided_channels, len(branches) == 2, constants,
                                    rescaled=rescaled)
        self._first, self._samples, self._micro_batch = first_sample, samples, micro_batch
        self._options = {"tokens": tokens, "pilot": int(pilot), "weights": weights, "at_once": at_once}
        self._settings = {"seed": seed, "inputs": inputs}
        self._context = self._handle = self._step = self._model = None
        self._hooks, self._watching, self._told, self._record = [], False, False, ErrorRecord()

    # --- life ---

    def __enter__(self):
        if self._hooks:
            raise Error("%s: captured already" % self._described.name, "USAGE")
        d = self._described
        try:
            self._hooks.append(d.transformer.register_forward_pre_hook(self._called, with_kwargs=True))
            for site in d.sites.sites:
                self._hooks.append(site.linear.register_forward_hook(lambda _, args, out, site=site: self._linear(site, args, out)))
            for module in d.sites.modules:
                self._hooks.append(module.module.register_forward_hook(lambda _, args, out, module=module: self._module(module, out)))
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, kind, *unused):
        try:
            if kind is None:
                self._write()
        finally:
            self.remove()

    def _write(self):
        if self._handle is None:
            raise Error("%s: no step came; nothing is written" % self._described.name, "USAGE")
        self._call("write", os.fsencode(self.path))

    def remove(self):
        """Takes the hooks off, and forgets what was not written."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._step = [], None
        if self._handle is not None:
            library().ousac_capture_close.restype = None
            library().ousac_capture_close(self._handle)
            self._handle = None
        if self._context is not None:
            self._context.close()
            self._context = None

    def context(self, **options):
        """A Context on the captured model, after its first step: to plan and pack what was captured. It runs nothing."""
        if self._model is None:
            raise Error("%s: no step came; its shapes are not known" % self._described.name, "USAGE")
        model, kept = self._model
        return _CapturedContext(model, kept, **dict(self._settings, micro_batch=self._micro_batch, **options))

    # --- steps ---

    @contextlib.contextmanager
    def step(self, index, branch=None, samples=None, branches=None):
        """One call of the transformer: at step `index` of the schedule, for `samples`, (first, count) or a slice; all of them
        where that is left out. `branches`: both, in the order in which they lie in the batch."""
        if not self._hooks:
            raise Error("%s: not captured; use `with`" % self._described.name, "USAGE")
        if self._step is not None:
            raise Error("step %d within step %d; expected one after another, or `branches`" % (index, self._step.index), "USAGE")
        self._step = _Step(index, self._numbers(branch, branches), *self._range(samples))
        try:
            yield self
            if not self._step.begun:
                raise Error("step %d: the transformer was not called" % index, "USAGE")
            for b in sorted(self._step.branches, reverse=True):
                self._call("end", b)
        except BaseException:
            if self._handle is not None:
                library().ousac_capture_forget.restype = None
                library().ousac_capture_forget(self._handle)
            raise
        finally:
            self._step = None

    def _numbers(self, branch, branches):
        names = branches if branches is not None else [self.branches[0] if branch is None else branch]
        if branch is not None and branches is not None:
            raise Error("expected one of `branch` and `branches`", "USAGE")
        for name in names:
            if name not in self.branches:
                raise Error("branch %r; expected %s" % (name, " or ".join(map(repr, self.branches))), "USAGE")
        if not names or len(set(names)) != len(names):
            raise Error("branches %r; expected each once" % (names,), "USAGE")
        return [self.branches.index(name) for name in names]

    def _range(self, samples):
        if samples is None:
            return self._first, self._samples
        if isinstance(samples, slice):
            if samples.start is None or samples.stop is None or samples.step not in (None, 1):
                raise Error("samples %r; expected (first, count) or slice(first, end)" % (samples,), "USAGE")
            return samples.start, samples.stop - samples.start
        first, count = samples
        return int(first), int(count)

    def _call(self, name, *arguments):
        status = _function(name)(self._handle, *arguments, ctypes.byref(self._record))
        if status:
            check(status, self._record)

    # --- the transformer's calls ---

    def _called(self, transformer, args, kwargs):
        step = self._step
        if step is None or self._watching:
            return
        if step.begun:
            raise Error("step %d: the transformer was called twice" % step.index, "USAGE")
        if self._handle is None:
            self._open(step, transformer, args, kwargs)
        step.begun = True
        for b in sorted(step.branches, reverse=True):  # the program's order
            self._call("begin", step.first, step.count, step.index, b)

    def _open(self, step, transformer, args, kwargs):
        d = self._described
        self._watching = True
        try:
            d.watch(lambda: transformer(*args, **kwargs), step.count * len(step.branches))
        finally:
            self._watching = False
        if d.shape is None:
            x = next((v for v in list(args) + list(kwargs.values()) if torch.is_tensor(v)), None)
            if x is None or x.dim() != 4:
                raise Error("%s: its first argument is no sample (count, channels, height, width); expected `shape`" % d.name, "USAGE")
            d.shape = tuple(x.shape[1:])
        if self._micro_batch is None:
            self._micro_batch = step.count
        if self._model is None:
            self._model = d.described(captured=1)
            if d.copied:
                self._tell("weights that are not float32 on the CPU are copied there")
        self._context = self.context()
        dtype = d.sites.sites[0].base.weight.dtype
        if torch.is_autocast_enabled(d.sites.sites[0].base.weight.device.type):
            dtype = torch.get_autocast_dtype(d.sites.sites[0].base.weight.device.type)
        options = made(_Options, "ousac_capture_options", first=self._first, count=self._samples, dtype=_DTYPES[dtype], outputs=1,
                       **self._options)
        handle, record = _pointer(), ErrorRecord()
        status = library().ousac_capture_open(ctypes.byref(handle), self._context._handle, os.fsencode(self.schedule),
                                              ctypes.byref(options), ctypes.byref(record))
        if status:
            self._context.close()
        check(status, record)
        self._handle = handle

    def _tell(self, what):
        warnings.warn("%s: %s" % (self._described.name, what))

    def _linear(self, site, args, out):
        step = self._step
        if step is None or self._watching:
            return
        if not step.begun:
            raise Error("%s: runs outside of a call of the transformer" % site.path, "USAGE")
        if site.index in step.seen:
            raise Error("%s: ran twice in one evaluation" % site.path)
        step.seen.add(site.index)
        x, group = args[0], site.group
        at = (x.data_ptr(), x.shape)
        if group.index not in step.inputs:
            step.inputs[group.index] = at
            self._give("input", x, group.stream, site.n, group.index)
        elif step.inputs[group.index] != at:
            raise Error("%s: its input is not that of the other linears of %s" % (site.path, group.name))
        self._give("output", out, group.stream, site.m, site.index)
        if site.stage == site.module.stages - 1:
            step.last[site.module.index, group.stream] = (out, None if out.is_inference() else out._version, len(group.sites))

    def _module(self, module, out):
        step = self._step
        if step is None or self._watching or not step.begun:
            return
        outs = out if isinstance(out, tuple) else (out,)
        for i, stream in enumerate(module.outputs):
            y, version, sites = step.last.pop((module.index, stream), (None, None, 0))
            same = (y is not None and sites == 1 and version is not None and outs[i].data_ptr() == y.data_ptr() and
                    outs[i].numel() == y.numel() and outs[i].stride() == y.stride() and outs[i]._version == version)
            if not same:
                self._give("module", outs[i], stream, outs[i].shape[-1], module.index, i)

    def _give(self, what, tensor, stream, columns, *index):
        """A matrix of all branches of the call to the library, each its part."""
        step, parts = self._step, len(self._step.branches)
        if tensor.dtype not in _DTYPES:
            tensor = tensor.float()
        if not tensor.is_contiguous():
            tensor = tensor.contiguous()
        rows = tensor.numel() // columns
        if rows % parts:
            raise Error("step %d: %d rows; expected as many of each of %d branches" % (step.index, rows, parts))
        rows //= parts
        on_host, at = _on_host(tensor), tensor.data_ptr()
        for b in sorted(step.branches, reverse=True):
            place = step.branches.index(b) * rows
            if on_host:
                matrix = _Matrix(at + place * columns * tensor.element_size(), _DTYPES[tensor.dtype], rows, columns, 0)
            else:
                part = self._fetched(tensor.detach().reshape(-1, columns)[place:place + rows], b, stream)
                matrix = _Matrix(part.data_ptr(), _DTYPES[part.dtype], part.shape[0], columns, 1)
            self._call(what, b, *index, ctypes.byref(matrix))

    def _fetched(self, part, branch, stream):
        """The rows of a device's matrix that are looked at, on the host."""
        step = self._step
        if not self._told:
            self._told = True
            self._tell("activations are copied to the host from %s, the rows that are recorded alone" % part.device)
        if (branch, stream) not in step.rows:
            rows, count = ctypes.POINTER(ctypes.c_uint32)(), _size()
            self._call("rows", branch, self._described.sites.streams.index(stream), ctypes.byref(rows), ctypes.byref(count))
            step.rows[branch, stream] = torch.tensor(rows[:count.value], device=part.device) if rows else None
        wanted = step.rows[branch, stream]
        if wanted is not None and part.shape[0] == step.count * self._described.tokens[stream]:
            part = part.index_select(0, wanted)
        return part.to("cpu")


def capture(transformer, schedule, **options):
    """A profile of `schedule` (a file) from a loop around `transformer`, a torch module:

        with ousac.capture(transformer, "schedule.json", samples=8, scheduler=scheduler, out="profile.oca") as cap:
            for i, t in enumerate(timesteps):
                with cap.step(i, branches=["uncond", "cond"], samples=(0, 8)):
                    out = transformer(...)

    `samples`, `first_sample`: how many, and the first; shards are merged by `ousac merge`. They come in batches of
    `micro_batch`, by default that of the first step, each from its first step to its last; as many as `at_once` says
    may be under way together. `branches`: what the loop calls the conditional and the unconditional branch. `site_map`: as
    docs/PYTORCH.md has them; by default that of the class. `tokens`: of a sample that are recorded, at most 64 by default. `scheduler` of diffusers, or `levels` and
    `prediction`, as of ousac.Host. `shape`: of a sample; by default that of the transformer's first argument.
    `pilot`: True records step weights alone, which `weights`, its path, brings into a capture. `seed` chooses tokens.
    `inputs`, `constants`, `guided_channels`, `rescaled`: as of ousac.Host."""
    return Capture(transformer, schedule, **options)
