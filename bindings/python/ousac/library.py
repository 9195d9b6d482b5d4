"""libousac.so through ctypes, and what it says when it fails.

Found by OUSAC_LIBRARY, beside this file (a wheel carries it), under build/lib of the working directory, or by the
system's loader.
"""
import ctypes
import os

_FILE = "libousac.so.0"
_STATUS = {"USAGE": ValueError, "IO": OSError, "MEMORY": MemoryError, "INTERRUPTED": KeyboardInterrupt}


class Error(Exception):
    """What ousac refused; `status` is its status's name."""

    def __init__(self, message, status="MISMATCH"):
        super().__init__(message)
        self.status = status


class ErrorRecord(ctypes.Structure):
    """ousac_error of include/ousac/status.h."""

    _fields_ = [("status", ctypes.c_int), ("file", ctypes.c_char_p), ("line", ctypes.c_int), ("message", ctypes.c_char * 512)]


_loaded = None


def library():
    global _loaded
    if _loaded is None:
        here = os.path.dirname(os.path.abspath(__file__))
        places = [os.environ.get("OUSAC_LIBRARY"), os.path.join(here, _FILE), os.path.join("build", "lib", _FILE)]
        path = next((os.path.abspath(p) for p in places if p and os.path.exists(p)), _FILE)
        try:
            lib = ctypes.CDLL(path, use_errno=True)
        except OSError as error:
            raise OSError("%s: `make library` builds it, OUSAC_LIBRARY may name it (%s)" % (_FILE, error)) from None
        lib.ousac_version.restype = ctypes.c_char_p
        lib.ousac_status_name.restype, lib.ousac_status_name.argtypes = ctypes.c_char_p, [ctypes.c_int]
        lib.ousac_site_projections.restype = None
        lib.ousac_site_projections.argtypes = [ctypes.c_size_t] * 3 + [ctypes.c_void_p, ctypes.POINTER(ctypes.c_double)]
        _loaded = lib
    return _loaded


def check(status, record):
    """Raises what a status other than 0 means."""
    if status == 0:
        return
    name = library().ousac_status_name(status).decode().upper()
    message = record.message.decode(errors="replace") or name
    kind = _STATUS.get(name)
    if kind is not None:
        raise kind(message)
    raise Error(message, name)


def projections(site, weight):
    """The four projections of a site's weights, a C-contiguous float32 array (m, n)."""
    out = (ctypes.c_double * 4)()
    library().ousac_site_projections(site, weight.shape[0], weight.shape[1], weight.ctypes.data, out)
    return list(out)
