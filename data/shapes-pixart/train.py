"""Train the captioned shapes and write diffusion_pytorch_model.safetensors and config.json.

    python3 train.py --out .

Needs diffusers, whose PixArtTransformer2DModel is trained. The loop is that of ../dit/training.py; a label is a
caption's number. All choices are the defaults below; the shipped weights were made with --minutes 52.
"""
import json
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[1:1] = [HERE, os.path.join(HERE, "../dit")]

import torch
from diffusers import PixArtTransformer2DModel

from captions import CHANNELS, COUNT, TOKENS, embed, render, text
from training import parser, train


class Captioned(PixArtTransformer2DModel):
    """The model as the loop calls it: captions by their numbers, COUNT for none."""

    def table(self):
        rows = [embed(text(caption)) for caption in range(COUNT + 1)]
        self.embeds, self.masks = (torch.stack(each) for each in zip(*rows))
        return self

    def forward(self, x, t, caption):
        return super().forward(x, self.embeds[caption], t, encoder_attention_mask=self.masks[caption],
                               return_dict=False)[0]


def make():
    net = Captioned(num_attention_heads=4, attention_head_dim=32, in_channels=3, out_channels=6, num_layers=8,
                    cross_attention_dim=128, sample_size=24, patch_size=4, caption_channels=CHANNELS)
    for module in net.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.xavier_uniform_(module.weight)
            torch.nn.init.zeros_(module.bias)
    embedder = net.adaln_single.emb.timestep_embedder
    for layer in (embedder.linear_1, embedder.linear_2, net.adaln_single.linear):
        torch.nn.init.normal_(layer.weight, std=0.02)
    for layer in [net.proj_out] + [block.attn2.to_out[0] for block in net.transformer_blocks]:
        torch.nn.init.zeros_(layer.weight)
    return net.table()


def rename(out):
    """Files and config as diffusers has them."""
    os.replace(f"{out}/model.safetensors", f"{out}/diffusion_pytorch_model.safetensors")
    with open(f"{out}/config.json") as file:
        config = {key: value for key, value in json.load(file).items() if value is not None and key[0] != "_"}
    with open(f"{out}/config.json", "w") as file:
        json.dump(dict(_class_name="PixArtTransformer2DModel", **config, caption_tokens=TOKENS), file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    args = parser(steps=6000, batch=32, threads=1, warm_up=200, rate=1e-3, float32=True, out=HERE).parse_args()
    train(make, render, COUNT, "linear 1e-4 0.02 1000", "captioned shapes", args)
    rename(args.out)
