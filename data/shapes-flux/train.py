"""Train the shapes FLUX and write model.safetensors and config.json.

    python3 train.py --minutes 20 --threads 2 --out .

Needs diffusers, whose FluxTransformer2DModel is trained: a flow from noise to images, timesteps logit-normal (arXiv
2403.03206), captions left out a tenth of the time, AdamW without weight decay, cosine decay over the wall clock, float32;
what is written is the exponential moving average of the weights, in bfloat16.
"""
import copy
import json
import math
import os
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[1:1] = [HERE, os.path.join(HERE, "../dit"), os.path.join(HERE, "../shapes-dit")]

import torch
from diffusers import FluxTransformer2DModel

from prompts import CHANNELS, POOLED, TOKENS, captions
from shapes import CLASSES, render
from training import parser, write_safetensors

SIDE = 16  # pixels; a token is 2 x 2 of them
SHAPE = dict(patch_size=1, in_channels=12, num_layers=2, num_single_layers=4, attention_head_dim=32,
             num_attention_heads=3, joint_attention_dim=CHANNELS, pooled_projection_dim=POOLED, guidance_embeds=False,
             axes_dims_rope=[8, 12, 12])


def make():
    net = FluxTransformer2DModel(**SHAPE)
    for module in net.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.xavier_uniform_(module.weight)
            torch.nn.init.zeros_(module.bias)
    gates = [net.proj_out, net.norm_out.linear]
    for block in net.transformer_blocks:
        gates += [block.norm1.linear, block.norm1_context.linear]
    gates += [block.norm.linear for block in net.single_transformer_blocks]
    for layer in gates:
        torch.nn.init.zeros_(layer.weight)
    return net


def pack(x):
    b, c, h, w = x.shape
    return x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, c * 4)


def main():
    args = parser(minutes=20, batch=32, rate=2e-3, warm_up=100, out=HERE).parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    net = make()
    average = copy.deepcopy(net)
    optimiser = torch.optim.AdamW(net.parameters(), lr=args.rate, weight_decay=0.0, betas=(0.9, 0.99), foreach=True)
    embeds, pooled = captions()
    half = SIDE // 2
    rows, cols = torch.meshgrid(torch.arange(half), torch.arange(half), indexing="ij")
    image_ids = torch.stack([torch.zeros(half * half), rows.flatten(), cols.flatten()], 1)
    with open(f"{args.out}/config.json", "w") as file:
        json.dump(dict({"_class_name": "FluxTransformer2DModel"}, **SHAPE, sample_size=SIDE, text_tokens=TOKENS,
                       betas="flow 1000", prediction="flow", data_range=[-1, 1]), file, indent=1)
        file.write("\n")

    def write(step):
        write_safetensors(f"{args.out}/model.safetensors", dict(average.state_dict()),
                          {"format": "pt", "steps": str(step), "data": "shapes"})

    start, step, running = time.time(), 0, None
    while True:
        elapsed = (time.time() - start) / 60
        done = max(step / args.steps if args.steps else 0, elapsed / args.minutes if args.minutes else 0)
        if done >= 1:
            break
        for group in optimiser.param_groups:
            group["lr"] = args.rate * min(1, (step + 1) / args.warm_up) * (0.485 * (1 + math.cos(math.pi * done)) + 0.03)
        labels = torch.randint(0, len(CLASSES), (args.batch,))
        clean = pack(render(labels, size=SIDE))
        labels = torch.where(torch.rand(args.batch) < 0.1, torch.full_like(labels, len(CLASSES)), labels)
        sigma = torch.randn(args.batch).sigmoid()
        noise = torch.randn_like(clean)
        level = sigma[:, None, None]
        predicted = net(hidden_states=(1 - level) * clean + level * noise, timestep=sigma, img_ids=image_ids,
                        encoder_hidden_states=embeds[labels], pooled_projections=pooled[labels],
                        txt_ids=torch.zeros(TOKENS, 3), return_dict=False)[0]
        loss = ((predicted - (noise - clean)) ** 2).mean()
        running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        step += 1
        decay = min(0.999, (1 + step) / (10 + step))
        with torch.no_grad():
            for target, source in zip(average.parameters(), net.parameters()):
                target.lerp_(source, 1 - decay)
        if step % 50 == 0:
            print(f"step {step}  {elapsed:.1f} min  loss {running:.4f}", flush=True)
        if step % 500 == 0:
            write(step)
    write(step)


if __name__ == "__main__":
    main()
