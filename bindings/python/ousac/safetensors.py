"""Writing safetensors with NumPy alone: inputs files."""
import json
import struct

import numpy

_DTYPES = {"float32": "F32", "float16": "F16", "float64": "F64", "int64": "I64", "int32": "I32"}


def save(path, tensors):
    """name -> array."""
    header, offset, arrays = {}, 0, []
    for name, values in tensors.items():
        values = numpy.ascontiguousarray(values)
        header[name] = {"dtype": _DTYPES[str(values.dtype)], "shape": list(values.shape), "data_offsets": [offset, offset + values.nbytes]}
        offset += values.nbytes
        arrays.append(values)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for values in arrays:
            file.write(values.tobytes())
