"""Run a DiT checkpoint in PyTorch, float32, for comparison with ousac's own engine.

    dit_torch.py DIR --x x.f32 --t t.f32 --labels labels.i32 --out out.f32

DIR holds model.safetensors and config.json in the format of data/shapes-dit, which data/dit/model.py computes, or a
checkpoint in the diffusers layout (a config.json with "_class_name"), which the diffusers package computes. Files are
raw, little-endian, row-major: x (B, C, H, W) float32, t (B) float32, labels (B) int32, out (B, C_out, H, W) float32; B
is the length of t. Exit status 77: skipped, PyTorch or diffusers is not installed.
"""
import argparse
import array
import json
import math
import os
import struct
import sys

SKIPPED = 77
TYPES = {"F32": (4, "float32"), "F16": (2, "float16"), "BF16": (2, "bfloat16"), "F64": (8, "float64")}


def skip(reason):
    print(f"dit_torch.py: skipped: {reason}")
    sys.exit(SKIPPED)


def read_raw(path, kind):
    values = array.array(kind)
    with open(path, "rb") as file:
        values.frombytes(file.read())
    if sys.byteorder != "little":
        values.byteswap()
    return values


def write_raw(path, values):
    values = array.array("f", values)
    if sys.byteorder != "little":
        values.byteswap()
    with open(path, "wb") as file:
        file.write(values.tobytes())


def read_safetensors(path, torch):
    """Every tensor of the file, as float32."""
    with open(path, "rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        header, data = json.loads(file.read(size)), file.read()
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        width, kind = TYPES[entry["dtype"]]
        first, last = entry["data_offsets"]
        assert last - first == width * math.prod(entry["shape"]), name
        values = torch.frombuffer(bytearray(data[first:last]), dtype=getattr(torch, kind))
        tensors[name] = values.float().reshape(entry["shape"])
    return tensors


def public_model(directory, config):
    """The model of data/dit, resized where the checkpoint has another MLP width."""
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../data/dit"))
    import torch
    import model

    tensors = read_safetensors(os.path.join(directory, "model.safetensors"), torch)
    keys = ("input_size", "patch_size", "in_channels", "hidden_size", "depth", "num_heads", "num_classes",
            "learn_sigma")
    net = model.DiT(**{key: config[key] for key in keys})
    d, hidden = config["hidden_size"], tensors["blocks.0.mlp.fc1.weight"].shape[0]
    for block in net.blocks:
        block.mlp = model.Mlp(d, hidden)
    tensors.setdefault("pos_embed", model.sincos_2d(d, net.side))
    net.load_state_dict(tensors)
    return net.eval()


def diffusers_model(directory, config):
    import torch

    try:
        from diffusers import DiTTransformer2DModel
    except ImportError:
        skip("diffusers is not installed")
    keys = {key: value for key, value in config.items() if not key.startswith("_")}
    net = DiTTransformer2DModel(**keys)
    tensors = read_safetensors(os.path.join(directory, "diffusion_pytorch_model.safetensors"), torch)
    net.load_state_dict(tensors)
    net.eval()
    return lambda x, t, labels: net(x, timestep=t, class_labels=labels).sample


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory")
    for name in ("x", "t", "labels", "out"):
        parser.add_argument(f"--{name}", required=True)
    args = parser.parse_args()
    try:
        import torch
    except ImportError:
        skip("PyTorch is not installed")
    torch.set_num_threads(1)
    with open(os.path.join(args.directory, "config.json")) as file:
        config = json.load(file)
    foreign = "_class_name" in config
    size = config["sample_size" if foreign else "input_size"]
    net = (diffusers_model if foreign else public_model)(args.directory, config)
    t = torch.tensor(read_raw(args.t, "f"))
    labels = torch.tensor(read_raw(args.labels, "i"), dtype=torch.int64)
    x = torch.tensor(read_raw(args.x, "f")).reshape(len(t), config["in_channels"], size, size)
    with torch.no_grad():
        out = net(x, t, labels)
    write_raw(args.out, out.flatten().tolist())


if __name__ == "__main__":
    main()
