"""Train the tiles DiT and write model.safetensors and config.json.

    python3 train.py --out .

The loop is that of ../dit/training.py; all choices are the defaults below. Every random number comes from --seed, and
the decay follows the steps, not the clock.
"""
import os
import sys

sys.path.insert(1, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../dit"))

from model import DiT, Mlp
from tiles import CLASSES, render
from training import parser, train


def make():
    return DiT(input_size=24, patch_size=4, in_channels=3, hidden_size=208, depth=6, num_heads=4,
               num_classes=len(CLASSES), learn_sigma=True)


if __name__ == "__main__":
    Mlp.approximate = "none"   # within 5e-4 of the tanh form, with which the model is run, and faster here
    args = parser(steps=5500, batch=32, threads=1,
                  out=os.path.dirname(os.path.abspath(__file__))).parse_args()
    train(make, render, CLASSES, "scaled_linear 1e-4 0.03 1000", "tiles", args)
