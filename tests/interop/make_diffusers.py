"""Rewrite a checkpoint in the format of data/shapes-dit in the layout of diffusers' DiTTransformer2DModel.

    make_diffusers.py SOURCE TARGET [--norm-eps 1e-5] [--null-label 1000]

SOURCE holds model.safetensors and config.json; TARGET gets diffusion_pytorch_model.safetensors and config.json. The
values are copied byte for byte: only names change, and attn.qkv is cut into its three parts. Positions are left out, as
diffusers computes them. The two conventions differ in the timestep frequencies (half - 1 in place of half) and in the
epsilon of the norm before the MLP, so equal weights give slightly different models. --null-label moves the last row of
the embedding table, the unconditional label's, to that row, where DiTPipeline expects it; rows between are zero. Needs
nothing but Python.
"""
import argparse
import json
import math
import os
import re
import struct

EMBEDDERS = {
    "t_embedder.mlp.0.weight": "timestep_embedder.linear_1.weight",
    "t_embedder.mlp.0.bias": "timestep_embedder.linear_1.bias",
    "t_embedder.mlp.2.weight": "timestep_embedder.linear_2.weight",
    "t_embedder.mlp.2.bias": "timestep_embedder.linear_2.bias",
    "y_embedder.embedding_table.weight": "class_embedder.embedding_table.weight",
}
OUTSIDE = {"x_embedder.proj": "pos_embed.proj", "final_layer.adaLN_modulation.1": "proj_out_1",
           "final_layer.linear": "proj_out_2"}
IN_BLOCK = {"adaLN_modulation.1": "norm1.linear", "attn.proj": "attn1.to_out.0", "mlp.fc1": "ff.net.0.proj",
            "mlp.fc2": "ff.net.2"}


def read_safetensors(path):
    """name -> (dtype, shape, bytes)"""
    with open(path, "rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        header, data = json.loads(file.read(size)), file.read()
    header.pop("__metadata__", None)
    return {name: (entry["dtype"], entry["shape"], data[slice(*entry["data_offsets"])])
            for name, entry in header.items()}


def write_safetensors(path, tensors):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, _, data in tensors.values():
            file.write(data)


def renamed(source, depth):
    target = {}
    for name, (dtype, shape, data) in source.items():
        stem, _, kind = name.rpartition(".")
        block = re.fullmatch(r"blocks\.(\d+)\.(.+)", stem)
        if name == "pos_embed":
            continue
        if name in EMBEDDERS:
            for i in range(depth):
                target[f"transformer_blocks.{i}.norm1.emb.{EMBEDDERS[name]}"] = (dtype, shape, data)
        elif block and block[2] == "attn.qkv":
            third = len(data) // 3
            for i, letter in enumerate("qkv"):
                part = data[i * third:(i + 1) * third]
                target[f"transformer_blocks.{block[1]}.attn1.to_{letter}.{kind}"] = (
                    dtype, [shape[0] // 3] + shape[1:], part)
        elif block:
            target[f"transformer_blocks.{block[1]}.{IN_BLOCK[block[2]]}.{kind}"] = (dtype, shape, data)
        else:
            target[f"{OUTSIDE[stem]}.{kind}"] = (dtype, shape, data)
    assert all(len(data) % math.prod(shape) == 0 for _, shape, data in target.values())
    return target


def move_null_label(source, label):
    name = "y_embedder.embedding_table.weight"
    dtype, (rows, width), data = source[name]
    row = len(data) // rows
    source[name] = (dtype, [label + 1, width], data[:-row] + bytes((label - rows + 1) * row) + data[-row:])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--norm-eps", type=float, default=1e-5)
    parser.add_argument("--null-label", type=int)
    args = parser.parse_args()
    with open(os.path.join(args.source, "config.json")) as file:
        old = json.load(file)
    source = read_safetensors(os.path.join(args.source, "model.safetensors"))
    classes = old["num_classes"]
    if args.null_label is not None:
        move_null_label(source, args.null_label)
        classes = args.null_label
    os.makedirs(args.target, exist_ok=True)
    write_safetensors(os.path.join(args.target, "diffusion_pytorch_model.safetensors"), renamed(source, old["depth"]))
    new = {
        "_class_name": "DiTTransformer2DModel",
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "attention_head_dim": old["hidden_size"] // old["num_heads"],
        "in_channels": old["in_channels"],
        "norm_elementwise_affine": False,
        "norm_eps": args.norm_eps,
        "norm_type": "ada_norm_zero",
        "num_attention_heads": old["num_heads"],
        "num_embeds_ada_norm": classes,
        "num_layers": old["depth"],
        "out_channels": old["in_channels"] * (2 if old["learn_sigma"] else 1),
        "patch_size": old["patch_size"],
        "sample_size": old["input_size"],
    }
    with open(os.path.join(args.target, "config.json"), "w") as file:
        json.dump(new, file, indent=2)
        file.write("\n")


if __name__ == "__main__":
    main()
