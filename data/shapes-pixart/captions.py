"""Captions of one to five words, what they look like, and their embeddings.

A caption is (size) (colour) SHAPE (place) (ground), of which only the shape must be there: "ring", "small red star
left", "blue heart dark". What it leaves out is random. The embedding of a word is a fixed vector of independent
normals; every caption ends with the vector of its end, and the empty caption, which stands for no caption, is that
vector alone. Rows behind it are zero, and masked.
"""
import math
import os
import sys

import torch

sys.path.insert(1, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../shapes-dit"))

from shapes import CLASSES as SHAPES, signed_distances

SIZES = ["", "small", "large"]
COLOURS = ["", "red", "yellow", "green", "blue", "purple"]
PLACES = ["", "left", "right", "top", "bottom"]
GROUNDS = ["", "dark", "bright"]
PARTS = [SIZES, COLOURS, SHAPES, PLACES, GROUNDS]
COUNT = math.prod(len(part) for part in PARTS)   # captions; number COUNT is the empty one
TOKENS, CHANNELS = 8, 64                         # of an embedding
HUES = [0.0, 0.15, 0.37, 0.62, 0.83]
WORDS = [word for part in PARTS for word in part if word] + ["end"]
VECTORS = torch.randn(len(WORDS), CHANNELS, generator=torch.Generator().manual_seed(1))


def choices(caption):
    """The index into each of PARTS of captions (B,) -> (B, 5)."""
    columns = []
    for part in reversed(PARTS):
        columns.append(caption % len(part))
        caption = caption // len(part)
    return torch.stack(columns[::-1], 1)


def text(caption):
    if caption == COUNT:
        return ""
    row = choices(torch.tensor([caption]))[0].tolist()
    return " ".join(part[i] for part, i in zip(PARTS, row) if part[i])


def number(words):
    """The caption of a text; the reverse of text()."""
    for caption in range(COUNT + 1):
        if text(caption) == words:
            return caption
    raise ValueError(f"no caption reads '{words}'")


def embed(words):
    """A text -> (TOKENS, CHANNELS) and a mask (TOKENS,)."""
    vectors, mask = torch.zeros(TOKENS, CHANNELS), torch.zeros(TOKENS)
    for i, word in enumerate(words.split() + ["end"]):
        vectors[i] = VECTORS[WORDS.index(word)]
        mask[i] = 1
    return vectors, mask


def render(caption, size=24):
    """Captions (B,) -> images (B, 3, size, size) in [-1, 1], drawn anew each time."""
    batch = caption.shape[0]
    scale_of, colour, shape, place, ground = choices(caption).unbind(1)

    def uniform(*rest):
        return torch.rand(batch, *rest)

    grid = (torch.arange(size) + 0.5) / size * 2 - 1
    gy, gx = torch.meshgrid(grid, grid, indexing="ij")
    gx, gy = gx[None], gy[None]
    cx, cy = (uniform() - 0.5) * 0.3, (uniform() - 0.5) * 0.3
    anywhere = place == 0
    cx = torch.where(anywhere, (uniform() - 0.5) * 0.7, cx + 0.38 * ((place == 2).float() - (place == 1).float()))
    cy = torch.where(anywhere, (uniform() - 0.5) * 0.7, cy + 0.38 * ((place == 4).float() - (place == 3).float()))
    low = torch.tensor([0.32, 0.3, 0.5])[scale_of]
    scale = (low + torch.tensor([0.28, 0.08, 0.1])[scale_of] * uniform())[:, None, None]
    turn = ((uniform() - 0.5) * 0.6)[:, None, None]
    px, py = gx - cx[:, None, None], gy - cy[:, None, None]
    x, z = (px * turn.cos() + py * turn.sin()) / scale, (py * turn.cos() - px * turn.sin()) / scale
    distance = signed_distances(x, z)[torch.arange(batch), shape]
    mask = torch.sigmoid(-distance * scale * size * 1.2)[:, None]

    named = torch.tensor(HUES)[(colour - 1).clamp(min=0)] + 0.05 * (uniform() - 0.5)
    hue = torch.where(colour == 0, uniform(), named)[:, None]
    wheel = torch.cat([0.5 + 0.5 * torch.cos(2 * math.pi * (hue + o)) for o in (0, 2 / 3, 1 / 3)], 1)
    paint = (0.25 + 0.75 * wheel)[:, :, None, None]
    grey = torch.tensor([0.1, 0.02, 0.75])[ground] + torch.tensor([0.75, 0.18, 0.2])[ground] * uniform()
    tint = (grey[:, None] + 0.1 * (uniform(3) - 0.5))[:, :, None, None]
    shade = (1 - 0.2 * (x + z).clamp(-1, 1))[:, None]
    return (mask * paint * shade + (1 - mask) * tint).clamp(0, 1) * 2 - 1
