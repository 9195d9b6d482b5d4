"""Small pipelines of diffusers, made by its own constructors: every parameter random, text encoders and tokenizers too."""
import diffusers
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, PreTrainedTokenizerFast,
                          Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, T5Config, T5EncoderModel, UMT5Config, UMT5EncoderModel)

WORDS = "a red green blue round square large small dog cat tree house on under beside".split()
PROMPTS = ["a red round dog", "a small cat under a tree", "blue house", "a large green square on a house", "red cat beside a dog",
           "tree", "small round red house", "a dog on a blue square"]
TEXT = 8  # tokens


def randomised(module, seed, by=0.25):
    """Weights of norms about 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            about = 1.0 if "norm" in name and name.endswith("weight") and parameter.dim() == 1 else 0.0
            parameter.copy_(about + by * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def tokenizer():
    words = ["<pad>", "<s>", "</s>", "<unk>"] + WORDS
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=TEXT)


def t5(seed, width=12):
    return randomised(T5EncoderModel(T5Config(vocab_size=24, d_model=width, d_kv=4, d_ff=16, num_layers=1, num_heads=2)), seed)


def clip(seed, width, projected=None):
    config = CLIPTextConfig(vocab_size=24, hidden_size=width, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
                            max_position_embeddings=TEXT, projection_dim=projected or width, eos_token_id=2)
    return randomised((CLIPTextModelWithProjection if projected else CLIPTextModel)(config), seed)


def vae():
    return AutoencoderKL(block_out_channels=(32,))


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def pixart(kind=diffusers.PixArtAlphaPipeline):
    transformer = diffusers.PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, cross_attention_dim=16,
        caption_channels=12, sample_size=8, patch_size=2)
    return quiet(kind(tokenizer(), t5(1), vae(), randomised(transformer, 2), diffusers.DPMSolverMultistepScheduler()))


def sd3():
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_layers=3, attention_head_dim=8, num_attention_heads=2, joint_attention_dim=12,
        caption_projection_dim=16, pooled_projection_dim=10, out_channels=4, pos_embed_max_size=8, dual_attention_layers=(0,),
        qk_norm="rms_norm")
    return quiet(diffusers.StableDiffusion3Pipeline(
        randomised(transformer, 3), diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), vae(), clip(4, 4, 4), tokenizer(),
        clip(5, 6, 6), tokenizer(), t5(6), tokenizer()))


def flux(guided=True):
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=12, pooled_projection_dim=10, guidance_embeds=guided, axes_dims_rope=(2, 2, 4))
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0, base_shift=0.5, max_shift=1.15,
                                                          base_image_seq_len=16, max_image_seq_len=64)
    pipe = diffusers.FluxPipeline(scheduler, vae(), clip(7, 10), tokenizer(), t5(8), tokenizer(), randomised(transformer, 9))
    pipe.default_sample_size = 8
    return quiet(pipe)


def qwenimage():
    """Prompts without the template, since the words are other ones; of different lengths, which are masked."""
    transformer = diffusers.QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2, joint_attention_dim=16,
        axes_dims_rope=(2, 2, 4))
    text = {"vocab_size": 24, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "num_key_value_heads": 2, "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}, "rope_theta": 10000.0}
    seen = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    encoder = randomised(Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=seen)), 10)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, base_image_seq_len=16, max_image_seq_len=64, shift_terminal=0.02,
        time_shift_type="exponential")
    pipe = diffusers.QwenImagePipeline(
        scheduler, diffusers.AutoencoderKLQwenImage(base_dim=8, z_dim=4, latents_mean=[0.0] * 4, latents_std=[1.0] * 4), encoder,
        tokenizer(), randomised(transformer, 11))
    pipe.prompt_template_encode, pipe.prompt_template_encode_start_idx, pipe.default_sample_size = "{}", 0, 8
    return quiet(pipe)


def wan(scheduler=None):
    transformer = diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=12, freq_dim=16,
        ffn_dim=48, num_layers=2, cross_attn_norm=True, rope_max_seq_len=32)
    encoder = randomised(UMT5EncoderModel(UMT5Config(vocab_size=24, d_model=12, d_kv=4, d_ff=16, num_layers=1, num_heads=2)), 12)
    vae = diffusers.AutoencoderKLWan(base_dim=4, z_dim=4, latents_mean=[0.0] * 4, latents_std=[1.0] * 4)
    scheduler = scheduler or diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    return quiet(diffusers.WanPipeline(tokenizer(), encoder, vae, scheduler, randomised(transformer, 13)))
