"""Writing safetensors: inputs files from NumPy alone, checkpoints from torch's tensors. A file appears when it is complete."""
import json
import os
import struct

_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64", "int64": "I64", "int32": "I32"}


def _raw(values):
    """dtype, shape and a function that gives the bytes, of an array or a tensor."""
    dtype = _DTYPES[str(values.dtype).replace("torch.", "")]
    if hasattr(values, "numpy"):  # torch; NumPy knows no bfloat16
        import torch

        return dtype, list(values.shape), lambda: values.reshape(-1).view(torch.uint8).numpy().tobytes()
    return dtype, list(values.shape), lambda: values.tobytes()


def save(path, tensors):
    """name -> array or contiguous tensor."""
    header, offset, parts = {}, 0, []
    for name, values in tensors.items():
        dtype, shape, data = _raw(values)
        count = 1
        for n in shape:
            count *= n
        size = count * {"F64": 8, "I64": 8, "F32": 4, "I32": 4}.get(dtype, 2)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
        parts.append(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    part = "%s.part" % path
    with open(part, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for data in parts:
            file.write(data())
    os.replace(part, path)
