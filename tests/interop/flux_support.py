"""Small FLUX checkpoints from diffusers' own class, under diffusers' names and under those of the authors' code."""
import os
import re

from torch_support import randomise, write_json

SIZES = dict(patch_size=1, in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16,
             num_attention_heads=3, joint_attention_dim=24, pooled_projection_dim=20, axes_dims_rope=(4, 6, 6))
HEIGHT, WIDTH, TEXT = 8, 12, 7  # of the latent; tokens of the text

OUTER = {"x_embedder": "img_in", "context_embedder": "txt_in", "norm_out.linear": "final_layer.adaLN_modulation.1",
         "proj_out": "final_layer.linear",
         **{f"time_text_embed.{ours}.linear_{i}": f"{theirs}.{layer}"
            for ours, theirs in (("timestep_embedder", "time_in"), ("text_embedder", "vector_in"),
                                 ("guidance_embedder", "guidance_in"))
            for i, layer in ((1, "in_layer"), (2, "out_layer"))}}
DOUBLE = {"norm1.linear": "img_mod.lin", "norm1_context.linear": "txt_mod.lin", "attn.to_out.0": "img_attn.proj",
          "attn.to_add_out": "txt_attn.proj", "ff.net.0.proj": "img_mlp.0", "ff.net.2": "img_mlp.2",
          "ff_context.net.0.proj": "txt_mlp.0", "ff_context.net.2": "txt_mlp.2",
          "attn.norm_q": "img_attn.norm.query_norm", "attn.norm_k": "img_attn.norm.key_norm",
          "attn.norm_added_q": "txt_attn.norm.query_norm", "attn.norm_added_k": "txt_attn.norm.key_norm"}
SINGLE = {"norm.linear": "modulation.lin", "proj_out": "linear2", "attn.norm_q": "norm.query_norm",
          "attn.norm_k": "norm.key_norm"}
FUSED = {"double": {"img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
                    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")},
         "single": {"linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")}}


def small_flux(torch, diffusers, guided, seed=1, scale=1):
    net = randomise(diffusers.FluxTransformer2DModel(guidance_embeds=guided, **SIZES), torch, seed)
    with torch.no_grad():
        net.proj_out.weight *= scale
    return net


def authors_names(torch, tensors):
    out, rest = {}, dict(tensors)
    for name in list(rest):
        stem, _, kind = name.rpartition(".")
        block = re.fullmatch(r"(single_)?transformer_blocks\.(\d+)\.(.+)", stem)
        if not block:
            value = rest.pop(name)
            if stem == "norm_out.linear":  # scale, shift -> shift, scale
                value = torch.cat(value.chunk(2)[::-1])
            out[f"{OUTER[stem]}.{kind}"] = value
            continue
        which = "single" if block[1] else "double"
        names = SINGLE if block[1] else DOUBLE
        if block[3] in names:
            target = names[block[3]]
            out[f"{which}_blocks.{block[2]}.{target}.{'scale' if 'norm.' in target else kind}"] = rest.pop(name)
            continue
        for target, parts in FUSED[which].items():
            if block[3] == parts[0]:
                prefix = f"{block[1] or ''}transformer_blocks.{block[2]}."
                out[f"{which}_blocks.{block[2]}.{target}.{kind}"] = torch.cat(
                    [rest.pop(f"{prefix}{part}.{kind}") for part in parts])
    assert not rest, sorted(rest)
    return out


def write_model(torch, net, directory, authors=False, dtype=None):
    from safetensors.torch import save_file

    os.makedirs(directory, exist_ok=True)
    tensors = {name: value.detach().clone().to(dtype or value.dtype) for name, value in net.state_dict().items()}
    tensors = authors_names(torch, tensors) if authors else tensors
    save_file({name: value.contiguous() for name, value in tensors.items()}, f"{directory}/model.safetensors")
    write_json(f"{directory}/config.json", {
        "_class_name": "FluxTransformer2DModel", **SIZES, "guidance_embeds": net.config.guidance_embeds,
        "sample_height": HEIGHT, "sample_width": WIDTH, "text_tokens": TEXT})


def draw_inputs(torch, path, guided, negative=False, samples=2, seed=2):
    """An inputs file with the noise in it; its tensors."""
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)
    tensors = {"noise": torch.randn(samples, SIZES["in_channels"] // 4, HEIGHT, WIDTH, generator=generator)}
    for prefix in ("", "negative_")[:1 + negative]:
        tensors[prefix + "prompt_embeds"] = torch.randn(samples, TEXT, SIZES["joint_attention_dim"], generator=generator)
        tensors[prefix + "pooled"] = torch.randn(samples, SIZES["pooled_projection_dim"], generator=generator)
    if guided:
        tensors["guidance"] = torch.tensor([1.5, 3.5, 2.0, 0.5][:samples])
    save_file(tensors, path)
    return tensors


def pack(x):
    b, c, h, w = x.shape
    return x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, c * 4)


def unpack(x, h, w):
    b, _, n = x.shape
    return x.view(b, h // 2, w // 2, n // 4, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(b, n // 4, h, w)


def velocity(torch, net, inputs, x, timestep, negative=False, told=None):
    """diffusers' own forward at a timestep from 0 to 1000, on the latent (B, C, H, W). `told`: the guidance of all samples, in
    place of the inputs'."""
    prefix = "negative_" if negative else ""
    rows, cols = torch.meshgrid(torch.arange(HEIGHT // 2), torch.arange(WIDTH // 2), indexing="ij")
    image_ids = torch.stack([torch.zeros(rows.numel()), rows.flatten(), cols.flatten()], 1)
    guidance = inputs.get("guidance") if net.config.guidance_embeds else None
    if told is not None:
        guidance = torch.full((len(x),), told)
    with torch.no_grad():
        out = net(hidden_states=pack(x), encoder_hidden_states=inputs[prefix + "prompt_embeds"],
                  pooled_projections=inputs[prefix + "pooled"],
                  timestep=torch.full((len(x),), float(timestep)) / 1000, img_ids=image_ids,
                  txt_ids=torch.zeros(TEXT, 3), guidance=guidance, return_dict=False)[0]
    return unpack(out, HEIGHT, WIDTH)
