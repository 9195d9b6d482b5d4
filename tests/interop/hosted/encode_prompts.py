"""examples/encode_prompts.py on pipelines whose text encoders are small and random: its arrays are those of the pipelines'
own encode_prompt, and bad input is refused by a line that names it."""
import json
import os
import subprocess
import sys

import diffusers
import torch
import transformers
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

SCRATCH = sys.argv[1]
SCRIPT = os.path.join(os.path.dirname(__file__), "..", "..", "..", "examples", "encode_prompts.py")
WORDS = "a red circle on blue green square with of and An Oil painting".split()
PROMPTS = ["A red circle", "a green square on blue", "An Oil painting of a red circle and a green square with blue",
           "a", "red red red", "blue square", "a circle", "green", "of a blue circle and a red square on green"]
failures = 0


def holds(what, good):
    global failures
    if not good:
        failures += 1
        print("FAILED: %s" % what)


def tokenizer(length):
    vocabulary = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>"] + WORDS)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
                                                model_max_length=length)


def t5():
    torch.manual_seed(3)
    return transformers.T5EncoderModel(transformers.T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=32, num_layers=2,
                                                            num_heads=2)).eval()


def clip():
    torch.manual_seed(4)
    return transformers.CLIPTextModel(transformers.CLIPTextConfig(
        vocab_size=32, hidden_size=12, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=10, eos_token_id=1, pad_token_id=0, bos_token_id=2)).eval()


def save(name, index, **parts):
    folder = os.path.join(SCRATCH, name)
    os.makedirs(folder)
    with open(os.path.join(folder, "model_index.json"), "w") as file:
        json.dump({"_class_name": index}, file)
    for part, thing in parts.items():
        thing.save_pretrained(os.path.join(folder, part))
    return folder


def run(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True)


def same(what, got, want):
    want = want.float()
    holds("%s: %s against %s" % (what, tuple(got.shape), tuple(want.shape)), got.shape == want.shape)
    holds("%s: differs by %g" % (what, (got - want).abs().max()), bool((got - want).abs().max() <= 1e-5))


prompts = os.path.join(SCRATCH, "prompts.txt")
with open(prompts, "w") as file:
    file.write("\n\n".join(PROMPTS) + "\n")
out = os.path.join(SCRATCH, "inputs.safetensors")

for cls, length in ((diffusers.PixArtAlphaPipeline, 120), (diffusers.PixArtSigmaPipeline, 300)):
    folder = save(cls.__name__, cls.__name__, tokenizer=tokenizer(length), text_encoder=t5())
    done = run(folder, prompts, "-o", out, "--negative", "A blue square")
    holds("%s: %s" % (cls.__name__, done.stderr), done.returncode == 0)
    pipe = cls(tokenizer=tokenizer(length), text_encoder=t5(), vae=None, transformer=None, scheduler=None)
    with torch.no_grad():
        want = pipe.encode_prompt(PROMPTS, negative_prompt="A blue square", device="cpu", max_sequence_length=length)
    made = load_file(out)
    for name, values in zip(("prompt_embeds", "prompt_mask", "negative_prompt_embeds", "negative_prompt_mask"), want):
        same("%s %s" % (cls.__name__, name), made[name], values)

parts = dict(tokenizer=tokenizer(10), text_encoder=clip(), tokenizer_2=tokenizer(64), text_encoder_2=t5())
folder = save("flux", "FluxPipeline", **parts)
done = run(folder, prompts, "-o", out, "--max-length", "24", "--guidance", "3.5")
holds("FLUX: %s" % done.stderr, done.returncode == 0)
pipe = diffusers.FluxPipeline(vae=None, transformer=None, scheduler=None, **parts)
with torch.no_grad():
    embeds, pooled, _ = pipe.encode_prompt(PROMPTS, PROMPTS, device="cpu", max_sequence_length=24)
made = load_file(out)
same("FLUX prompt_embeds", made["prompt_embeds"], embeds)
same("FLUX pooled", made["pooled"], pooled)
same("FLUX guidance", made["guidance"], torch.full((len(PROMPTS),), 3.5))
holds("FLUX: no negatives unless asked for", "negative_pooled" not in made)

ousac = os.environ["OUSAC"]
shown = subprocess.run([ousac, "inspect", out], capture_output=True, text=True)
holds("ousac inspect reads it: %s" % shown.stderr, shown.returncode == 0 and "prompt_embeds" in shown.stdout)

os.remove(out)
empty = os.path.join(SCRATCH, "empty.txt")
open(empty, "w").close()
other = save("other", "StableDiffusionPipeline", tokenizer=tokenizer(10))
for what, text, arguments in (("no prompts", "no prompts", (folder, empty)), ("no file", "nowhere.txt", (folder, "nowhere.txt")),
                              ("no pipeline", "model_index.json", (SCRATCH, prompts)),
                              ("another pipeline", "StableDiffusionPipeline", (other, prompts)),
                              ("length", "--max-length 0", (folder, prompts, "--max-length", "0"))):
    done = run(*arguments, "-o", out)
    holds("%s is refused by one line: %s" % (what, done.stderr), done.returncode != 0 and text in done.stderr and
          done.stderr.count("\n") == 1 and not os.path.exists(out))
print("%d failures" % failures)
sys.exit(failures != 0)
