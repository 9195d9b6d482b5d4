"""PyTorch's .pt, .pth and .bin checkpoints to safetensors, which the program reads:

    python3 -m ousac.convert MODEL.bin [MODEL.safetensors] [--key model]

Weights only: nothing in the file is executed. --key names the entry that holds the tensors where the file has several.
"""
import argparse
import os
import sys

from .library import Error


def tensors_of(loaded, key=None):
    """name -> tensor, of a checkpoint as torch.load gives it."""
    if key is not None:
        if not isinstance(loaded, dict) or key not in loaded:
            raise Error("no entry %r; there are %s" % (key, ", ".join(sorted(map(str, loaded))) if isinstance(loaded, dict) else "none"))
        loaded = loaded[key]
    found = {str(name): value for name, value in loaded.items() if hasattr(value, "numel")} if isinstance(loaded, dict) else {}
    if not found:
        inner = [name for name, value in loaded.items() if isinstance(value, dict)] if isinstance(loaded, dict) else []
        raise Error("no tensors%s" % (" at its top; --key may name one of: " + ", ".join(map(str, inner)) if inner else ""), "FORMAT")
    return found


def convert(source, target, key=None):
    """Writes `target`; returns how many tensors it has."""
    import torch

    from .safetensors import save

    found = tensors_of(torch.load(source, map_location="cpu", weights_only=True), key)
    kinds = {torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32}
    for name, value in found.items():
        if value.dtype not in kinds:
            raise Error("%s: tensor %s is %s" % (source, name, value.dtype), "UNSUPPORTED")
    save(target, {name: value.contiguous() for name, value in found.items()})
    return len(found)


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python3 -m ousac.convert", description=__doc__.splitlines()[0])
    parser.add_argument("source")
    parser.add_argument("target", nargs="?")
    parser.add_argument("--key")
    args = parser.parse_args(arguments)
    target = args.target or os.path.splitext(args.source)[0] + ".safetensors"
    try:
        print("%s: %d tensors" % (target, convert(args.source, target, args.key)))
    except (Error, OSError) as error:
        sys.exit("ousac.convert: %s" % error)
    except ImportError:
        sys.exit("ousac.convert: torch is not installed")


if __name__ == "__main__":
    main()
