"""Procedural class-conditional textures and glyphs: nine classes, random period, phase, turn and colours.

render(labels) -> float tensor (B, 3, size, size) in [-1, 1]. Unlimited, so a model cannot memorise it.
"""
import math

import torch

CLASSES = ["stripes", "plaid", "checks", "gradient", "dots", "rings", "rays", "blobs", "digits"]

EDGE = 2.5   # an edge is the logistic function of this much times the distance in pixels

# Ends (x, y) of the seven segments of a digit in a box of half height 1 and half width 0.55, y downward.
SEGMENTS = [((-0.55, -1), (0.55, -1)), ((0.55, -1), (0.55, 0)), ((0.55, 0), (0.55, 1)), ((-0.55, 1), (0.55, 1)),
            ((-0.55, 0), (-0.55, 1)), ((-0.55, -1), (-0.55, 0)), ((-0.55, 0), (0.55, 0))]
LIT = ["1111110", "0110000", "1101101", "1111001", "0110011", "1011011", "1011111", "1110000", "1111111", "1111011"]


class Draw:
    """Random numbers, one row per image of the batch, shaped (B, 1, 1) unless told otherwise."""

    def __init__(self, batch, generator):
        self.batch, self.generator = batch, generator

    def uniform(self, low, high, *shape):
        return low + (high - low) * torch.rand(self.batch, *(shape or (1, 1)), generator=self.generator)

    def integer(self, low, high):
        return torch.randint(low, high + 1, (self.batch, 1, 1), generator=self.generator)


def edge(distance):
    return torch.sigmoid(EDGE * distance)


def square_wave(x, period, phase):
    """Bands of equal width, 0 or 1, with soft edges; x in pixels, phase in periods."""
    return edge(torch.sin(2 * math.pi * (x / period + phase)) * period / (2 * math.pi))


def digits(x, y, height, draw):
    """Distance to the lit segments of a random digit of half height `height` pixels, centred at 0."""
    lit = torch.tensor([[c == "1" for c in row] for row in LIT])[draw.integer(0, 9).flatten()]
    nearest = torch.full_like(x, 1e3)
    for i, (first, last) in enumerate(SEGMENTS):
        ax, ay, bx, by = first[0] * height, first[1] * height, last[0] * height, last[1] * height
        along = (((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / ((bx - ax) ** 2 + (by - ay) ** 2)).clamp(0, 1)
        distance = ((x - ax - along * (bx - ax)) ** 2 + (y - ay - along * (by - ay)) ** 2).sqrt()
        nearest = torch.where(lit[:, i][:, None, None], torch.minimum(nearest, distance), nearest)
    return nearest


def masks(size, draw):
    """The share of the first colour in every pixel, of every class -> (B, 9, size, size) in [0, 1]."""
    grid = torch.arange(size) + 0.5 - size / 2
    py, px = torch.meshgrid(grid, grid, indexing="ij")
    px, py = px[None].expand(draw.batch, -1, -1), py[None].expand(draw.batch, -1, -1)
    turn = draw.uniform(0, math.pi)
    x, y = px * turn.cos() + py * turn.sin(), -px * turn.sin() + py * turn.cos()
    period, phase, phase_y = draw.uniform(6, 12), draw.uniform(0, 1), draw.uniform(0, 1)
    cx, cy = px - draw.uniform(-0.25, 0.25) * size, py - draw.uniform(-0.25, 0.25) * size
    radius, angle = (cx ** 2 + cy ** 2).sqrt(), torch.atan2(cy, cx)
    stripes = square_wave(x, period, phase)
    across = square_wave(y, period * draw.uniform(0.8, 1.25), phase_y)
    chequer = (torch.sin(2 * math.pi * (x / period + phase)) * torch.sin(2 * math.pi * (y / period + phase_y)))
    dot = [((v / period + p).remainder(1.0) - 0.5) * period for v, p in ((x, phase), (y, phase_y))]
    spokes = draw.integer(3, 6)
    field = sum(torch.exp(-((px - draw.uniform(-0.45, 0.45) * size) ** 2 + (py - draw.uniform(-0.45, 0.45) * size) ** 2)
                          / (2 * draw.uniform(2, 4.5) ** 2)) for _ in range(5))
    lean, height = draw.uniform(-0.25, 0.25), draw.uniform(0.24, 0.36) * size
    dx, dy = px - draw.uniform(-0.14, 0.14) * size, py - draw.uniform(-0.1, 0.1) * size
    return torch.stack([
        stripes,
        0.5 * (stripes + across),
        edge(chequer * period / (2 * math.pi)),
        ((x / size + draw.uniform(-0.2, 0.2)) * draw.uniform(0.8, 1.4) + 0.5).clamp(0, 1),
        edge(0.31 * period - (dot[0] ** 2 + dot[1] ** 2).sqrt()),
        square_wave(radius, period, phase),
        edge(torch.sin(spokes * angle + 2 * math.pi * phase) * radius / spokes),
        edge((field - 0.6) * 4),
        edge(draw.uniform(0.05, 0.07) * size - digits(dx + lean * dy, dy, height, draw)),
    ], 1)


def colour(draw, low, high, saturation):
    """(B, 3) on the hue circle, its brightness between low and high."""
    wheel = 0.5 + 0.5 * torch.cos(2 * math.pi * (draw.uniform(0, 1, 1) + torch.tensor([[0, 1 / 3, 2 / 3]])))
    return draw.uniform(low, high, 1) * (1 - saturation + saturation * wheel)


def render(labels, size=24, generator=None):
    draw = Draw(labels.shape[0], generator)
    share = masks(size, draw)[torch.arange(draw.batch), labels][:, None]
    bright, dark = colour(draw, 0.8, 1, 0.6)[:, :, None, None], colour(draw, 0.1, 0.4, 0.8)[:, :, None, None]
    swap = draw.uniform(0, 1, 1, 1, 1) < 0.5
    first, second = torch.where(swap, dark, bright), torch.where(swap, bright, dark)
    return (share * first + (1 - share) * second).clamp(0, 1) * 2 - 1
