"""What stands for text: for each of the ten shapes a fixed caption of four random tokens and a pooled vector, and one for
no caption. A function of the seed alone.

    python3 prompts.py prompts.safetensors      writes the inputs file of ousac: 40 rows, four of each shape
"""
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[1:1] = [os.path.join(HERE, "../shapes-dit"), os.path.join(HERE, "../dit")]

import torch

from shapes import CLASSES

TOKENS, CHANNELS, POOLED = 4, 32, 32


def captions():
    """Rows of each shape, and the last one's of none: (11, TOKENS, CHANNELS), (11, POOLED)."""
    generator = torch.Generator().manual_seed(1)
    embeds = torch.randn(len(CLASSES) + 1, TOKENS, CHANNELS, generator=generator)
    pooled = torch.randn(len(CLASSES) + 1, POOLED, generator=generator)
    return embeds, pooled


if __name__ == "__main__":
    from training import write_safetensors

    embeds, pooled = captions()
    rows = torch.arange(40) % len(CLASSES)
    none = torch.full_like(rows, len(CLASSES))
    write_safetensors(sys.argv[1], {"prompt_embeds": embeds[rows], "pooled": pooled[rows],
                                    "negative_prompt_embeds": embeds[none], "negative_pooled": pooled[none]}, {})
