"""Write inputs.safetensors: captions for ousac's --inputs, each once, and the empty one of the unconditional branch.

    python3 make_inputs.py --rows 512 --out .

The first rows are the captions below, the others drawn from --seed. In bfloat16, as the weights.
"""
import argparse
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[1:1] = [HERE, os.path.join(HERE, "../dit")]

import torch

from captions import COUNT, embed, number, text
from training import write_safetensors

FIRST = ["ring", "large red heart", "small blue star left dark", "yellow triangle", "green square right",
         "large purple disc dark", "bars", "small red cross top bright"]

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default=HERE)
    args = parser.parse_args()
    first = [number(words) for words in FIRST]
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(args.seed)).tolist()
    captions = (first + [caption for caption in order if caption not in first])[:args.rows]
    embeds, masks = (torch.stack(each) for each in zip(*(embed(text(caption)) for caption in captions)))
    none, one = embed("")
    write_safetensors(f"{args.out}/inputs.safetensors",
                      {"prompt_embeds": embeds, "prompt_mask": masks,
                       "negative_prompt_embeds": none.expand_as(embeds), "negative_prompt_mask": one.expand_as(masks)},
                      {"captions": "; ".join(text(caption) for caption in captions)})
