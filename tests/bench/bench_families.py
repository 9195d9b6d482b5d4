"""Full forwards of PixArt and FLUX at full width beside diffusers' classes on the same weights and threads.

    bench_families.py --build build -o build/bench/families.json [--depth N] [--repeats 3] [--models PixArt-XL/2-512,...]

Models are synthetic (`ousac synth`, float32), shortened to DEPTH blocks of each kind: 2 is two blocks of a PixArt, two
double and two single blocks of a FLUX. FLUX.1-dev/512 is that preset at 512 pixels. Forwards are compared first, the
worst relative deviation of a sample; then timed in turns, as bench_speed.py says, wall time and processor time a sample,
on one thread one sample, on N threads N samples at once. Of a PixArt diffusers makes the captions' keys and values in
each forward, ousac once a run.

Baselines: torch: the forward of diffusers' class. SGEMM: OpenBLAS's products of the blocks' linears alone.
"""
import argparse
import json
import os
import subprocess
import sys
import time

from bench_speed import Server, compare, print_row, use_threads

try:
    import torch
    from diffusers import FluxTransformer2DModel, PixArtTransformer2DModel
    from safetensors.torch import load_file
except ImportError as missing:
    sys.exit(f"bench_families.py: {missing}: it compares with diffusers, so it needs torch and diffusers (TORCH_PYTHON)")

TOLERANCE = 1e-4  # of what is predicted, relative
STEPS = 3  # of a run: the median of its forwards is of one that has touched its memory before
TIMESTEP = 421.0


def load_class(kind, config, path):
    """diffusers' class on the weights of the file, which it maps; keys of ours alone are left out."""
    own = {"synthetic", "caption_tokens", "text_tokens", "_class_name"}
    with torch.device("meta"):
        net = kind(**{key: value for key, value in config.items() if key not in own and
                      not (key == "sample_size" and kind is FluxTransformer2DModel)})
    net.load_state_dict(load_file(path), assign=True, strict=True)
    return net


class PixArt:
    def __init__(self, config, path, inputs):
        net = load_class(PixArtTransformer2DModel, config, path)
        if net.pos_embed.pos_embed.is_meta:  # computed, not stored
            fresh = PixArtTransformer2DModel(**{**net.config, "num_layers": 0})
            net.pos_embed.pos_embed = fresh.pos_embed.pos_embed
        self.net, self.inputs, self.size = net.eval(), inputs, config["sample_size"]
        self.channels = config["in_channels"]

    def __call__(self, x):
        rows, edge = len(x), 8.0 * self.size
        told = self.net.use_additional_conditions
        sizes = {"resolution": torch.full((rows, 2), edge) if told else None,
                 "aspect_ratio": torch.ones(rows, 1) if told else None}
        out = self.net(x, self.inputs["prompt_embeds"][:rows], torch.full((rows,), TIMESTEP), sizes,
                       encoder_attention_mask=self.inputs["prompt_mask"][:rows], return_dict=False)[0]
        return out[:, :self.channels]


class Flux:
    def __init__(self, config, path, inputs):
        self.net = load_class(FluxTransformer2DModel, config, path).eval()
        self.inputs, self.size, self.text = inputs, config["sample_size"], config["text_tokens"]
        self.channels = config["in_channels"] // 4
        half = self.size // 2
        rows, cols = torch.meshgrid(torch.arange(half), torch.arange(half), indexing="ij")
        self.image_ids = torch.stack([torch.zeros(half * half), rows.flatten(), cols.flatten()], 1)

    def __call__(self, x):
        b, c, h, w = x.shape
        packed = x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, c * 4)
        guidance = self.inputs["guidance"][:b] if self.net.config.guidance_embeds else None
        out = self.net(hidden_states=packed, encoder_hidden_states=self.inputs["prompt_embeds"][:b],
                       pooled_projections=self.inputs["pooled"][:b], timestep=torch.full((b,), TIMESTEP) / 1000,
                       img_ids=self.image_ids, txt_ids=torch.zeros(self.text, 3), guidance=guidance,
                       return_dict=False)[0]
        return out.view(b, h // 2, w // 2, c, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(b, c, h, w)


class TorchForward:
    """One forward of as many samples as threads, per sample."""

    def __init__(self, model, x, threads):
        self.model, self.x, self.threads = model, x[:threads], threads

    def __call__(self):
        use_threads(self.threads)
        with torch.no_grad():
            start, cpu = time.perf_counter(), time.process_time()
            self.model(self.x)
            return {"seconds": (time.perf_counter() - start) / self.threads,
                    "cpu": (time.process_time() - cpu) / self.threads}


def check(build, work, model, x):
    """The worst relative deviation of a sample, of ousac's forward from diffusers'."""
    x.numpy().tofile(f"{work}/x.f32")
    torch.full((len(x),), TIMESTEP).numpy().tofile(f"{work}/t.f32")
    subprocess.run([os.path.join(build, "tests/interop/inputs_forward"), f"{work}/model.safetensors",
                    f"{work}/inputs.safetensors", f"{work}/x.f32", f"{work}/t.f32", f"{work}/out.f32"], check=True)
    with open(f"{work}/out.f32", "rb") as file:
        ours = torch.frombuffer(bytearray(file.read()), dtype=torch.float32)
    ours = ours[:x.numel()].reshape(x.shape)  # the conditional branch comes first
    with torch.no_grad():
        theirs = model(x)
    return float(((ours - theirs).flatten(1).norm(dim=1) / theirs.flatten(1).norm(dim=1)).max())


def measure(args, name, work, counts):
    threads = counts[-1]
    flux = name.startswith("FLUX")
    preset, _, pixels = name.partition("/") if flux else (name, "", "")
    os.makedirs(work, exist_ok=True)
    path, config_path = f"{work}/model.safetensors", f"{work}/config.json"
    subprocess.run([os.path.join(args.build, "ousac"), "synth", "--preset", preset, "--dtype", "f32", "-q", "-o",
                    path, "--inputs-output", f"{work}/inputs.safetensors", "--prompts", str(threads)]
                   + (["--depth", str((2 if flux else 1) * args.depth)] if args.depth else [])
                   + (["--input-size", str(int(pixels) // 8)] if pixels else []), check=True, stdout=subprocess.DEVNULL)
    with open(config_path) as file:
        config = json.load(file)
    inputs = {key: value.float() for key, value in load_file(f"{work}/inputs.safetensors").items()}
    model = (Flux if flux else PixArt)(config, path, inputs)
    torch.manual_seed(1)
    x = torch.randn(threads, model.channels, model.size, model.size)
    error = check(args.build, work, model, x[:1])
    blocks = [config[key] for key in ("num_layers", "num_single_layers") if key in config]
    print(f"\n{name}: {' + '.join(map(str, blocks))} blocks; forward agrees with diffusers to {error:.1e}", flush=True)
    if not error < TOLERANCE:
        sys.exit(f"bench_families.py: {name}: expected below {TOLERANCE:g}")
    server = Server(args.build, path, config_path, work, 1, f"{work}/inputs.safetensors", STEPS)
    result = {"model": name, **server.facts, "checks": {"forward_relative_error": error}, "rows": []}
    print("  {:<32}{:>10}{:>10}{:>8}{:>9}   {:<10}{:>7}{:>8}  {}".format(
        "stage", "time", "GFLOP/s", "GB/s", "peak MB", "against", "ratio", "of CPU", "least..most"))
    for count in counts:
        result["rows"].append(compare(
            f"forward full, {count} thread{'s' * (count > 1)}",
            {"ousac": lambda: server.ask("full", count), "torch": TorchForward(model, x, count),
             "SGEMM": lambda: server.ask("sgemm-full", count)}, args.repeats))
        print_row(result["rows"][-1])
    server.close()
    os.remove(path)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default="build")
    parser.add_argument("--depth", type=int, default=2, help="blocks of each kind, 0 for all")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--models", default="PixArt-XL/2-512,PixArt-XL/2-1024,FLUX.1-dev/512")
    parser.add_argument("--threads", help="counts to time, by default 1 and as many as there are processors")
    parser.add_argument("-o", "--output", required=True)
    args = parser.parse_args()
    counts = sorted({1, len(os.sched_getaffinity(0))} if not args.threads else map(int, args.threads.split(",")))
    base = os.path.dirname(os.path.abspath(args.output))
    results = {"threads": counts, "repeats": args.repeats, "torch": torch.__version__, "models": []}
    for name in args.models.split(","):
        results["models"].append(measure(args, name, os.path.join(base, name.replace("/", "-")), counts))
    results["machine"] = results["models"][0]["backend"]
    with open(args.output + ".part", "w") as file:
        json.dump(results, file, indent=1)
        file.write("\n")
    os.replace(args.output + ".part", args.output)
    print(f"\n{args.output}: {len(results['models'])} models, {args.repeats} repetitions, "
          f"PyTorch {torch.__version__}")


if __name__ == "__main__":
    main()
