"""The training loop that the models here share, and their files.

DDPM noise prediction, label dropout 0.1, AdamW without weight decay, a linear warm-up, cosine decay over the steps
or the wall clock, gradient clipping at norm 1, bfloat16 autocast, exponential moving average of the weights
(decay 0.999; the average is what is written). The loss can be weighted by min(SNR, k) / SNR (arXiv 2303.09556). Where
the model learns variances, the variational bound's KL term (arXiv 2102.09672, equations 4, 10, 14 and 15) is added
without a gradient through the mean; timestep 0, whose posterior variance is 0, takes that of timestep 1 there.
"""
import argparse
import copy
import json
import math
import struct
import time

import torch


def write_safetensors(path, tensors, metadata):
    """Every tensor in bfloat16."""
    header, offset = {"__metadata__": metadata}, 0
    for name, tensor in tensors.items():
        size = tensor.numel() * 2
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            file.write(tensor.to(torch.bfloat16).contiguous().view(torch.int16).numpy().tobytes())


def read_safetensors(path):
    """Tensors of a bfloat16 file that write_safetensors wrote, as float32."""
    with open(path, "rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        header, data = json.loads(file.read(size)), file.read()
    header.pop("__metadata__", None)
    return {name: torch.frombuffer(bytearray(data[slice(*entry["data_offsets"])]), dtype=torch.bfloat16)
            .float().reshape(entry["shape"]) for name, entry in header.items()}


def noise_levels(text):
    """"linear FIRST LAST STEPS" or "scaled_linear FIRST LAST STEPS" (linear in the root of beta) -> betas, double."""
    kind, first, last, steps = text.split()
    power = {"linear": 1, "scaled_linear": 2}[kind]
    ends = (float(first) ** (1 / power), float(last) ** (1 / power))
    return torch.linspace(*ends, int(steps), dtype=torch.float64) ** power


class VarianceBound:
    """KL divergence of the learned reverse step from the true posterior, per value."""

    def __init__(self, betas):
        alpha_bar = torch.cumprod(1 - betas, 0)
        before = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
        tilde = betas * (1 - before) / (1 - alpha_bar)
        tilde[0] = tilde[1]
        self.log_beta, self.log_tilde = betas.log().float(), tilde.log().float()
        # Both means depend on x_t alike, so they differ by this much times the error of the predicted noise.
        self.mean_by_noise = (betas / ((1 - alpha_bar).sqrt() * (1 - betas).sqrt())).float()

    def __call__(self, error, v, t):
        """error: predicted minus true noise; v: the variance output, -1 for beta tilde, 1 for beta; t: timesteps."""
        log_beta, log_tilde, scale = (row[t][:, None, None, None]
                                      for row in (self.log_beta, self.log_tilde, self.mean_by_noise))
        log_learned = log_tilde + (v + 1) / 2 * (log_beta - log_tilde)
        gap = log_tilde - log_learned
        return 0.5 * (gap.exp() - gap - 1 + (scale * error.detach()) ** 2 * (-log_learned).exp()).mean((1, 2, 3))


def parser(**defaults):
    """The options that train() reads."""
    result = argparse.ArgumentParser()
    result.add_argument("--steps", type=int, help="how many at most")
    result.add_argument("--minutes", type=float, help="how long at most")
    result.add_argument("--threads", type=int, default=2)
    result.add_argument("--batch", type=int, default=48)
    result.add_argument("--rate", type=float, default=6e-4)
    result.add_argument("--warm-up", type=int, default=300, help="steps until the full rate")
    result.add_argument("--min-snr", type=float, default=5.0, help="0 for uniform weights")
    result.add_argument("--float32", action="store_true", help="no bfloat16: processors without it emulate it slowly")
    result.add_argument("--seed", type=int, default=0)
    result.add_argument("--start", help="model.safetensors to go on from")
    result.add_argument("--out", default=".")
    result.set_defaults(**defaults)
    return result


def train(make, render, classes, betas, data, args):
    """Writes model.safetensors and config.json into args.out.

    make() -> model, render(labels) -> images (B, C, H, W) in [-1, 1], classes: their names, or how many there are,
    betas: as noise_levels() reads them, data: what the images are called in the file's metadata. Where the model gives
    more channels than the images have, the others are variances.
    """
    if not args.steps and not args.minutes:
        raise SystemExit("training.py: give --steps or --minutes")
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    net = make()
    if args.start:
        net.load_state_dict(read_safetensors(args.start))
    average = copy.deepcopy(net)
    optimiser = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=args.rate, weight_decay=0.0,
                                  betas=(0.9, 0.99), foreach=True)
    levels = noise_levels(betas)
    alpha_bar = torch.cumprod(1 - levels, 0).float()
    bound = VarianceBound(levels)
    snr = alpha_bar / (1 - alpha_bar)
    weight = snr.clamp(max=args.min_snr) / snr if args.min_snr > 0 else torch.ones(len(levels))
    named = not isinstance(classes, int)
    count = len(classes) if named else classes
    config = dict(average.config, betas=betas, prediction="epsilon", data_range=[-1, 1],
                  **({"classes": classes} if named else {}))
    with open(f"{args.out}/config.json", "w") as file:
        json.dump(config, file, indent=1)
        file.write("\n")

    def write(step):
        write_safetensors(f"{args.out}/model.safetensors", dict(average.state_dict()),
                          {"format": "pt", "steps": str(step), "data": data})

    start, step, running = time.time(), 0, None
    while True:
        elapsed = (time.time() - start) / 60
        done = max(step / args.steps if args.steps else 0, elapsed / args.minutes if args.minutes else 0)
        if done >= 1:
            break
        rate = args.rate * min(1, (step + 1) / args.warm_up) * (0.485 * (1 + math.cos(math.pi * done)) + 0.03)
        for group in optimiser.param_groups:
            group["lr"] = rate
        labels = torch.randint(0, count, (args.batch,))
        clean = render(labels)
        labels = torch.where(torch.rand(args.batch) < 0.1, torch.full_like(labels, count), labels)
        t = torch.randint(0, len(levels), (args.batch,))
        noise = torch.randn_like(clean)
        signal = alpha_bar[t][:, None, None, None]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=not args.float32):
            predicted = net(signal.sqrt() * clean + (1 - signal).sqrt() * noise, t, labels)
        predicted = predicted.float()
        error = predicted[:, :clean.shape[1]] - noise
        loss = ((error ** 2).mean((1, 2, 3)) * weight[t]).mean()
        running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
        if predicted.shape[1] > clean.shape[1]:
            loss = loss + bound(error, predicted[:, clean.shape[1]:], t).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        step += 1
        decay = min(0.999, (1 + step) / (10 + step))
        with torch.no_grad():
            for target, source in zip(average.parameters(), net.parameters()):
                if source.requires_grad:
                    target.lerp_(source, 1 - decay)
        if step % 50 == 0:
            print(f"step {step}  {elapsed:.1f} min  loss {running:.4f}", flush=True)
        if step % 500 == 0:
            write(step)
    write(step)
