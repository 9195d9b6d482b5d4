"""Reading .oca archives from Python: formats/oca.c through ctypes, tensors as NumPy arrays.

    import oca
    with oca.File("bundle.oca") as file:
        a = file["factor/blocks.0.attn.q/A"].read("f32", rows=16)     # decoded, verified, converted
        w = file["plan/default/rank"].borrow()                        # in place, no copy, read-only

The file stands alone: copy it where you like, or import it as ousac.oca. The library is `make reader`'s
build/lib/liboca.so, or libousac.so, which holds the reader too: found by OCA_LIBRARY, beside this file, or under
build/lib of the working directory. NumPy is needed for arrays only: read_bytes() and everything about an archive work without.
An array that borrow() lends, and a tensor, keep their archive open for as long as they live. What the system refuses
is an OSError (FileNotFoundError, ...), what the reader refuses an oca.Error, and a closed file a ValueError.
"""
import collections.abc
import ctypes
import errno
import operator
import os
import sys

__all__ = ["File", "Tensor", "Error", "DTYPES"]

DTYPES = ("f64", "f32", "f16", "bf16", "i8", "u8", "i32", "i64")
CODECS = ("raw", "zstd", "shuffle+zstd")
_NUMPY = {"f64": "<f8", "f32": "<f4", "f16": "<f2", "bf16": "<u2", "i8": "i1", "u8": "u1", "i32": "<i4", "i64": "<i8"}
_BYTES = {"f64": 8, "f32": 4, "f16": 2, "bf16": 2, "i8": 1, "u8": 1, "i32": 4, "i64": 8}
_IO, _UNSUPPORTED, _RANGE = -2, -5, -7


class Error(Exception):
    """What the reader refused; `status` is its oca_status."""

    def __init__(self, status, what):
        super().__init__("%s: %s" % (what, _library().oca_status_string(status).decode()))
        self.status = status


class _Fault(ctypes.Structure):
    _fields_ = [("what", ctypes.c_char_p), ("item", ctypes.c_uint64)]


class _Options(ctypes.Structure):
    _fields_ = [
        ("allocate", ctypes.c_void_p), ("release", ctypes.c_void_p), ("memory_context", ctypes.c_void_p),
        ("decompress", ctypes.c_void_p), ("decompress_context", ctypes.c_void_p),
        ("parallel", ctypes.c_void_p), ("parallel_context", ctypes.c_void_p), ("lanes", ctypes.c_size_t),
        ("max_index_bytes", ctypes.c_uint64), ("fault", ctypes.POINTER(_Fault)),
    ]


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p), ("index", ctypes.c_size_t), ("dtype", ctypes.c_int), ("codec", ctypes.c_int),
        ("dims", ctypes.c_size_t), ("shape", ctypes.c_uint64 * 4), ("count", ctypes.c_uint64),
        ("bytes", ctypes.c_uint64), ("stored_bytes", ctypes.c_uint64), ("chunk_bytes", ctypes.c_size_t),
        ("chunks", ctypes.c_size_t),
    ]


_loaded = None


def _library():
    global _loaded
    if _loaded is None:
        here = os.path.dirname(os.path.abspath(__file__))
        places = [os.environ.get("OCA_LIBRARY")] + [
            os.path.join(folder, name)
            for folder in (here, os.path.join("build", "lib")) for name in ("liboca.so", "libousac.so.0")]
        path = next((p for p in places if p and os.path.exists(p)), None)
        if path is None:
            raise OSError("no liboca.so: `make reader` builds it; OCA_LIBRARY may name it")
        lib = ctypes.CDLL(os.path.abspath(path), use_errno=True)
        handle, size, pointer = ctypes.c_void_p, ctypes.c_size_t, ctypes.POINTER
        for name, result, arguments in (
            ("oca_status_string", ctypes.c_char_p, [ctypes.c_int]),
            ("oca_open_path", ctypes.c_int, [pointer(handle), ctypes.c_char_p, pointer(_Options)]),
            ("oca_open_memory", ctypes.c_int, [pointer(handle), ctypes.c_void_p, size, pointer(_Options)]),
            ("oca_close", None, [handle]),
            ("oca_minor_version", ctypes.c_uint, [handle]),
            ("oca_metadata_count", size, [handle]),
            ("oca_metadata_at", ctypes.c_int, [handle, size, pointer(ctypes.c_char_p), pointer(ctypes.c_char_p)]),
            ("oca_tensor_count", size, [handle]),
            ("oca_tensor_at", ctypes.c_int, [handle, size, pointer(_Tensor)]),
            ("oca_borrow", ctypes.c_int, [handle, size, pointer(ctypes.c_void_p)]),
            ("oca_read", ctypes.c_int,
             [handle, size, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int, ctypes.c_void_p, size]),
            ("oca_verify_tensor", ctypes.c_int, [handle, size]),
            ("oca_verify", ctypes.c_int, [handle, pointer(size)]),
        ):
            function = getattr(lib, name)
            function.restype, function.argtypes = result, arguments
        _loaded = lib
    return _loaded


class _Handle:
    """The open archive; closed when the last of file, tensors and borrowed arrays is gone. A copy is the same one."""

    def __init__(self, value, kept):
        self.value = value
        self.kept = kept  # memory that the archive is read from
        self.close = _library().oca_close

    def __del__(self):
        self.close(self.value)

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self

    def __reduce__(self):
        raise TypeError("an open .oca archive cannot be pickled")


class Tensor:
    """One tensor: name, dtype (text), shape, codec (text)."""

    def __init__(self, handle, record):
        self._handle, self._index = handle, record.index
        self.name = record.name.decode()
        self.dtype = DTYPES[record.dtype]
        self.codec = CODECS[record.codec]
        self.shape = tuple(record.shape[: record.dims])
        self.count = record.count
        self.bytes, self.stored_bytes = record.bytes, record.stored_bytes

    def __repr__(self):
        return "<oca.Tensor %r %s %s>" % (self.name, self.dtype, self.shape)

    def _rows(self, dtype, first, rows):
        """dtype, first, rows, elements; checked here, since ctypes would cut what is beyond 64 bits."""
        dtype = self.dtype if dtype is None else dtype
        if dtype not in DTYPES:
            raise ValueError("%s: dtype %r: expected one of %s" % (self.name, dtype, ", ".join(DTYPES)))
        first = operator.index(first)
        rows = self.shape[0] - first if rows is None else operator.index(rows)
        if first < 0 or rows < 0 or first + rows > self.shape[0]:
            raise Error(_RANGE, "%s: rows %d to %d of %d" % (self.name, first, first + rows, self.shape[0]))
        return dtype, first, rows, rows * (self.count // self.shape[0])

    def _read(self, dtype, first, rows, target, size):
        status = _library().oca_read(self._handle.value, self._index, first, rows, DTYPES.index(dtype), target, size)
        if status:
            raise Error(status, self.name)

    def read_bytes(self, dtype=None, first=0, rows=None):
        """Rows `first` to `first + rows - 1` as dtype, in this machine's byte order; verified."""
        dtype, first, rows, count = self._rows(dtype, first, rows)
        target = ctypes.create_string_buffer(max(1, count * _BYTES[dtype]))
        self._read(dtype, first, rows, target, count * _BYTES[dtype])
        return target.raw[: count * _BYTES[dtype]]

    def read(self, dtype=None, first=0, rows=None):
        """The same as a NumPy array of its own. NumPy has no bf16: its bits come as uint16."""
        import numpy

        dtype, first, rows, count = self._rows(dtype, first, rows)
        target = numpy.empty((rows,) + self.shape[1:], numpy.dtype(_NUMPY[dtype]).newbyteorder("="))
        self._read(dtype, first, rows, target.ctypes.data, count * _BYTES[dtype])
        return target

    def borrow(self):
        """The elements in place as a read-only array: no copy, and no check (see verify). None where they cannot be
        lent, being compressed; read() takes every tensor."""
        import numpy

        data = ctypes.c_void_p()
        status = _library().oca_borrow(self._handle.value, self._index, ctypes.byref(data))
        if status == _UNSUPPORTED:
            return None
        if status:
            raise Error(status, self.name)

        class Lender:  # keeps the archive open, and lends by NumPy's array interface, version 3
            handle = self._handle
            __array_interface__ = {
                "version": 3, "shape": self.shape, "typestr": numpy.dtype(_NUMPY[self.dtype]).str, "data": (data.value, True),
            }

        return numpy.asarray(Lender())

    def verify(self):
        status = _library().oca_verify_tensor(self._handle.value, self._index)
        if status:
            raise Error(status, self.name)


class File(collections.abc.Mapping):
    """An archive, from a path or from bytes: a mapping of names to tensors, and `metadata` (a dict)."""

    __eq__, __hash__ = object.__eq__, object.__hash__  # a file is itself alone

    def __init__(self, source):
        lib = _library()
        value, fault = ctypes.c_void_p(), _Fault()
        options = _Options(fault=ctypes.pointer(fault))
        kept = None
        if isinstance(source, (str, os.PathLike)):
            what, path = os.fspath(source), os.fsencode(source)
            if b"\0" in path:
                raise ValueError("a path cannot hold a NUL: %r" % (what,))
            ctypes.set_errno(0)
            status = lib.oca_open_path(ctypes.byref(value), path, ctypes.byref(options))
            code = errno.EISDIR if os.path.isdir(path) else ctypes.get_errno()
            if status == _IO and code:
                raise OSError(code, os.strerror(code), what)
        else:
            what, kept = "archive in memory", bytes(memoryview(source))
            address = ctypes.cast(ctypes.c_char_p(kept), ctypes.c_void_p)
            status = lib.oca_open_memory(ctypes.byref(value), address, len(kept), ctypes.byref(options))
        if status:
            raise Error(status, "%s: %s" % (what, fault.what.decode()) if fault.what else what)
        self._handle = _Handle(value, kept)
        self.minor_version = lib.oca_minor_version(value)
        self.metadata = {}
        key, text = ctypes.c_char_p(), ctypes.c_char_p()
        for i in range(lib.oca_metadata_count(value)):
            lib.oca_metadata_at(value, i, ctypes.byref(key), ctypes.byref(text))
            self.metadata[key.value.decode()] = text.value.decode()
        self._tensors = {}
        record = _Tensor()
        for i in range(lib.oca_tensor_count(value)):
            lib.oca_tensor_at(value, i, ctypes.byref(record))
            tensor = Tensor(self._handle, record)
            self._tensors[tensor.name] = tensor

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    def close(self):
        """Lets go of the archive; tensors that were taken and arrays that were lent stay valid."""
        self._tensors, self._handle = None, None

    def _open(self):
        if self._tensors is None:
            raise ValueError("the .oca file is closed")
        return self._tensors

    def __getitem__(self, name):
        return self._open()[name]

    def __contains__(self, name):
        return name in self._open()

    def __iter__(self):
        return iter(self._open())

    def __len__(self):
        return len(self._open())

    def keys(self):
        return self._open().keys()

    def values(self):
        return self._open().values()

    def items(self):
        return self._open().items()

    def verify(self):
        """Every checksum, and all padding."""
        for tensor in self.values():
            tensor.verify()


if __name__ == "__main__":
    for path in sys.argv[1:]:
        with File(path) as archive:
            for item in archive.values():
                print(path, item.name, item.dtype, item.shape, item.codec)
