"""A calibration context of libousac (include/ousac/ousac.h): profile, plan, pack, evaluate, sample, calibrate."""
import ctypes
import math
import os
import threading

import numpy

from .library import Error, ErrorRecord, check, library

_size, _u64, _double, _int, _text, _pointer = (
    ctypes.c_size_t, ctypes.c_uint64, ctypes.c_double, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
PROGRESS = ctypes.CFUNCTYPE(None, _pointer, _text, _u64, _u64)
NOTE = ctypes.CFUNCTYPE(None, _pointer, _text)


class _Options(ctypes.Structure):
    _fields_ = [("size", _size), ("model", _text), ("config", _text), ("device", _text), ("heads", _size), ("bf16", _int),
                ("seed", _u64), ("micro_batch", _size), ("threads", _size), ("self", _pointer), ("progress", PROGRESS),
                ("note", NOTE), ("inputs", _text)]


class _Profile(ctypes.Structure):
    _fields_ = [("size", _size), ("first", _u64), ("count", _u64), ("pilot", _u64), ("tokens", _size)]


class _Plan(ctypes.Structure):
    _fields_ = [("size", _size), ("budget_step", _double), ("budget_total", _double), ("forecast", _int), ("compare", _int)]


class _Evaluate(ctypes.Structure):
    _fields_ = [("size", _size), ("first", _u64), ("count", _u64), ("reference", _text), ("force", _int)]


class _ErrorOf(ctypes.Structure):
    _fields_ = [("mean", _double), ("low", _double), ("high", _double)]


class _Evaluation(ctypes.Structure):
    _fields_ = [("size", _size), ("held_out", _int), ("calibrated", _ErrorOf), ("reuse", _ErrorOf), ("against_reference", _ErrorOf),
                ("macs_share", _double), ("calibrated_s", _double), ("exact_s", _double), ("reference_s", _double)]


class _Calibrate(ctypes.Structure):
    _fields_ = [("size", _size), ("reference", _text), ("schedule", _text), ("budget_total", _double), ("effort", _int),
                ("samples", _u64), ("validation", _u64), ("tokens", _size), ("budget_time", _double), ("time", _text)]


class _Calibration(ctypes.Structure):
    _fields_ = [("size", _size), ("cached", _int), ("steps", _size), ("validation_error", _double), ("next_sample", _u64)]


class HostEvaluation(ctypes.Structure):
    _fields_ = [("branch", _int), ("first", _u64), ("count", _u64), ("timestep", _double), ("guidance", _double),
                ("x", ctypes.POINTER(ctypes.c_float)), ("out", ctypes.POINTER(ctypes.c_float))]


FORWARD = ctypes.CFUNCTYPE(_int, _pointer, ctypes.POINTER(HostEvaluation), _pointer, _pointer, _size)


class HostModel(ctypes.Structure):
    _fields_ = [("size", _size), ("name", _text), ("arch", _text), ("levels", _text), ("prediction", _text), ("constants", _text),
                ("rest", _text), ("channels", _size), ("height", _size), ("width", _size), ("guided_channels", _size),
                ("has_uncond", _int), ("weight", ctypes.POINTER(_pointer)), ("bias", ctypes.POINTER(_pointer)), ("self", _pointer),
                ("forward", FORWARD), ("captured", _int), ("rescaled", _int)]


def made(kind, name, /, **values):
    """A structure with the library's defaults and the given values; None leaves a default."""
    made = kind()
    getattr(library(), name + "_init_sized")(ctypes.byref(made), _size(ctypes.sizeof(kind)))
    for key, value in values.items():
        if value is not None:
            setattr(made, key, os.fsencode(value) if isinstance(value, (str, os.PathLike)) else value)
    return made


def host_model(**values):
    return made(HostModel, "ousac_host_model", **values)


def _interval(found):
    return {"mean": found.mean, "low": found.low, "high": found.high}


class Context:
    """`model`: a checkpoint's path, or a structure made by host_model. `progress(label, done, total)` and `note(line)`
    are told of the work. Outputs are files, as the program's. A context manager; close() may be called twice."""

    def __init__(self, model, config=None, inputs=None, seed=0, micro_batch=4, threads=0, device=None, progress=None, note=None):
        lib = library()
        lib.ousac_context_close.restype = None
        self._progress = PROGRESS(lambda _, label, done, total: progress(label.decode(), done, total)) if progress else PROGRESS()
        self._note = NOTE(lambda _, line: note(line.decode(errors="replace"))) if note else NOTE()
        hosted = isinstance(model, HostModel)
        options = made(_Options, "ousac_context_options", model=None if hosted else model, config=config, inputs=inputs,
                        device=device, seed=seed, micro_batch=micro_batch, threads=threads)
        options.progress, options.note = self._progress, self._note
        self._handle, record = _pointer(), ErrorRecord()
        if hosted:
            self._model = model
            status = lib.ousac_context_open_host(ctypes.byref(self._handle), ctypes.byref(options), ctypes.byref(model), ctypes.byref(record))
        else:
            status = lib.ousac_context_open(ctypes.byref(self._handle), ctypes.byref(options), ctypes.byref(record))
        check(status, record)
        shape = (_size * 3)()
        lib.ousac_context_sample_shape.restype = None
        lib.ousac_context_sample_shape(self._handle, shape)
        self.shape, self.micro_batch = tuple(shape), micro_batch
        self.failure = None  # an exception of a hosted forward, raised in place of the library's word for it

    def close(self):
        if self._handle:
            library().ousac_context_close(self._handle)
            self._handle = None

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    def _work(self, name, *arguments):
        """A function of the library on a thread of its own, so that an interrupt reaches this one."""
        record, result = ErrorRecord(), []
        self.failure = None
        if not self._handle:
            raise ValueError("the context is closed")

        def call():
            result.append(getattr(library(), name)(self._handle, *arguments, ctypes.byref(record)))

        thread = threading.Thread(target=call, name=name)
        thread.start()
        try:
            while thread.is_alive():
                thread.join(0.1)
        except BaseException:
            library().ousac_context_interrupt(self._handle)
            thread.join()
            raise
        if self.failure is not None and result[0]:
            raise self.failure
        check(result[0], record)

    def profile(self, schedule, output, samples=None, first=0, pilot=None, tokens=None):
        options = made(_Profile, "ousac_context_profile_options", first=first, count=samples, pilot=pilot, tokens=tokens)
        self._work("ousac_context_profile", os.fsencode(schedule), ctypes.byref(options), os.fsencode(output))

    def plan(self, profile, output, budget_step=None, budget_total=None, forecast=None, compare=None):
        options = made(_Plan, "ousac_context_plan_options", budget_step=budget_step, budget_total=budget_total, forecast=forecast,
                        compare=compare)
        self._work("ousac_context_plan", os.fsencode(profile), ctypes.byref(options), os.fsencode(output))

    def pack(self, profile, plan, output):
        self._work("ousac_context_pack", os.fsencode(profile), os.fsencode(plan), os.fsencode(output))

    def evaluate(self, bundle, first, count, reference=None, force=False):
        """Errors (mean, low, high), cost and seconds, as a dict."""
        options = made(_Evaluate, "ousac_context_evaluate_options", first=first, count=count, reference=reference, force=int(force))
        found = made(_Evaluation, "ousac_context_evaluation")
        self._work("ousac_context_evaluate", os.fsencode(bundle), ctypes.byref(options), ctypes.byref(found))
        result = {name: _interval(getattr(found, name)) for name in ("calibrated", "reuse", "against_reference")}
        result.update({name: getattr(found, name) for name in ("macs_share", "calibrated_s", "exact_s", "reference_s")})
        return dict(result, held_out=bool(found.held_out))

    def sample(self, schedule=None, bundle=None, first=0, count=1):
        """Final samples (count, channels, height, width)."""
        out = numpy.empty((count,) + self.shape, numpy.float32)
        self._work("ousac_context_sample", None if schedule is None else os.fsencode(schedule),
                   None if bundle is None else os.fsencode(bundle), _u64(first), _u64(count), _pointer(out.ctypes.data))
        return out

    def calibrate(self, directory, reference=None, schedule=None, budget_total=None, effort="auto", samples=None, validation=None,
                  tokens=None, budget_time=None, time=None):
        """Into a folder: schedule.json, and where a cache pays profile.oca, plan.oca and bundle.oca."""
        efforts = ("quick", "full", "auto")
        if effort not in efforts:
            raise ValueError("effort %r; expected quick, full or auto" % (effort,))
        options = made(_Calibrate, "ousac_context_calibrate_options", reference=reference, schedule=schedule,
                        budget_total=budget_total, effort=efforts.index(effort), samples=samples, validation=validation, tokens=tokens,
                        budget_time=budget_time, time=time)
        found = made(_Calibration, "ousac_context_calibration")
        self._work("ousac_context_calibrate", ctypes.byref(options), os.fsencode(directory), ctypes.byref(found))
        error = found.validation_error
        return {"cached": bool(found.cached), "steps": found.steps, "next_sample": found.next_sample,
                "validation_error": None if math.isnan(error) else error}
