"""ousac in Python: bundles at work in PyTorch pipelines, and archives read with NumPy alone.

    with ousac.apply(pipe, "bundle.oca"):
        image = pipe(...).images[0]
    print(ousac.summary(pipe))

docs/PYTORCH.md is the tutorial. torch and diffusers are imported where they are needed and not before.
"""
from .library import Error

_WHERE = {"apply": "applied", "summary": "applied", "Applied": "applied", "Scheduler": "scheduler", "Bundle": "bundle",
          "Schedule": "schedule", "find_sites": "sites", "load_map": "sites", "oca": None, "Context": "context", "Host": "host", "capture": "capturing", "Capture": "capturing", "safetensors": None, "calibrate": "calibration", "Result": "calibration"}
__all__ = ["Error"] + sorted(_WHERE)


def __getattr__(name):
    import importlib

    if name not in _WHERE:
        raise AttributeError("module 'ousac' has no attribute %r" % name)
    module = importlib.import_module("." + (_WHERE[name] or name), __name__)
    value = module if _WHERE[name] is None else getattr(module, name)
    globals()[name] = value
    return value
