#!/usr/bin/env python3
"""Prompts to an inputs file (docs/MODELS.md), by the text encoders in a folder of diffusers.

    encode_prompts.py FOLDER PROMPTS -o inputs.safetensors [--negative TEXT] [--max-length N] [--guidance W]

FOLDER is a pipeline of PixArt (tokenizer/, text_encoder/: T5) or of FLUX (tokenizer/, text_encoder/: CLIP; tokenizer_2/,
text_encoder_2/: T5), as diffusers saves it; only these parts of it are read. PROMPTS is a text file, a prompt a line,
empty lines skipped; row j of the inputs file is prompt j. What is written are the arrays that the pipelines' own
encode_prompt makes, in float32. Needs torch, transformers and safetensors.
"""
import argparse
import json
import os
import sys

BATCH = 8  # prompts encoded together


def fail(message):
    sys.exit("encode_prompts.py: %s" % message)


def read_prompts(path):
    try:
        with open(path, encoding="utf-8") as file:
            prompts = [line.strip() for line in file if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        fail("%s: %s" % (path, error))
    if not prompts:
        fail("%s: no prompts, expected one a line" % path)
    return prompts


def pipeline_of(folder):
    """The class that the folder's model_index.json names."""
    path = os.path.join(folder, "model_index.json")
    try:
        with open(path, encoding="utf-8") as file:
            name = json.load(file)["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        fail("%s: %s: expected a pipeline as diffusers saves it" % (path, error))
    return name


def load(folder, tokenizer, encoder, cls):
    import transformers

    for part in (tokenizer, encoder):
        if not os.path.isdir(os.path.join(folder, part)):
            fail("%s: no folder %s" % (folder, part))
    return (transformers.AutoTokenizer.from_pretrained(os.path.join(folder, tokenizer)),
            getattr(transformers, cls).from_pretrained(os.path.join(folder, encoder)).eval())


def encode(tokenizer, encoder, prompts, length, masked, pick):
    """What `pick` takes of the encoder's outputs, and the masks: (P, ...) float32 each."""
    import torch

    found, masks = [], []
    with torch.no_grad():
        for at in range(0, len(prompts), BATCH):
            tokens = tokenizer(prompts[at:at + BATCH], padding="max_length", max_length=length, truncation=True,
                               return_tensors="pt")
            options = {"attention_mask": tokens.attention_mask} if masked else {}
            found.append(pick(encoder(tokens.input_ids, **options)).float())
            masks.append(tokens.attention_mask.float())
    return torch.cat(found), torch.cat(masks)


def encode_pixart(options, prompts):
    """T5 under the mask; captions in lower case, as these pipelines read them."""
    sigma = "Sigma" in options.pipeline
    length = options.max_length or (300 if sigma else 120)
    tokenizer, encoder = load(options.folder, "tokenizer", "text_encoder", "T5EncoderModel")
    lower = [prompt.lower() for prompt in prompts]
    embeds, mask = encode(tokenizer, encoder, lower, length, True, lambda out: out[0])
    negative, negative_mask = encode(tokenizer, encoder, [options.negative.lower().strip()], length, True,
                                     lambda out: out[0])
    rows = len(prompts)
    return {"prompt_embeds": embeds, "prompt_mask": mask, "negative_prompt_embeds": negative.repeat(rows, 1, 1),
            "negative_prompt_mask": negative_mask.repeat(rows, 1)}


def encode_flux(options, prompts):
    """T5 over all of its length, without a mask, and CLIP's pooled vector."""
    import torch

    length = options.max_length or 512
    clip_tokenizer, clip = load(options.folder, "tokenizer", "text_encoder", "CLIPTextModel")
    tokenizer, encoder = load(options.folder, "tokenizer_2", "text_encoder_2", "T5EncoderModel")

    def both(texts):
        pooled, _ = encode(clip_tokenizer, clip, texts, clip_tokenizer.model_max_length, False,
                           lambda out: out.pooler_output)
        embeds, _ = encode(tokenizer, encoder, texts, length, False, lambda out: out[0])
        return embeds, pooled

    embeds, pooled = both(prompts)
    tensors = {"prompt_embeds": embeds, "pooled": pooled}
    if options.guidance is not None:
        tensors["guidance"] = torch.full((len(prompts),), options.guidance)
    if options.negative:
        negative, negative_pooled = both([options.negative])
        tensors["negative_prompt_embeds"] = negative.repeat(len(prompts), 1, 1)
        tensors["negative_pooled"] = negative_pooled.repeat(len(prompts), 1)
    return tensors


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", metavar="FOLDER")
    parser.add_argument("prompts", metavar="PROMPTS")
    parser.add_argument("-o", "--output", required=True)
    parser.add_argument("--negative", default="", metavar="TEXT", help="the unconditional branch's prompt (default: empty)")
    parser.add_argument("--max-length", type=int, metavar="N", help="tokens (default: the pipeline's)")
    parser.add_argument("--guidance", type=float, metavar="W", help="of FLUX.1-dev: the scale that the model is told")
    options = parser.parse_args()
    prompts = read_prompts(options.prompts)
    options.pipeline = pipeline_of(options.folder)
    if options.max_length is not None and options.max_length < 1:
        fail("--max-length %d: expected at least 1" % options.max_length)
    if options.pipeline.startswith("PixArt"):
        if options.guidance is not None:
            fail("--guidance: %s is told none" % options.pipeline)
        tensors = encode_pixart(options, prompts)
    elif options.pipeline.startswith("Flux"):
        tensors = encode_flux(options, prompts)
    else:
        fail("%s: a %s; expected a pipeline of PixArt or FLUX" % (options.folder, options.pipeline))

    from safetensors.torch import save_file

    part = options.output + ".part"
    try:
        save_file({name: values.contiguous() for name, values in tensors.items()}, part)
        os.replace(part, options.output)
    except OSError as error:
        fail("%s: %s" % (options.output, error))
    for name, values in tensors.items():
        print("%-24s %s" % (name, tuple(values.shape)))


if __name__ == "__main__":
    main()
