"""What pipelines of diffusers need to be hosted: how prompts become an inputs file, and how the transformer is called.

An adapter knows one class of pipelines (and its subclasses). It takes prompts or what they were encoded to, under the
names of an inputs file (docs/MODELS.md, "Inputs from a file"), states the reference's timesteps as the pipeline sets
them, and calls the transformer as the pipeline does, one branch at a time.
"""
import copy
import inspect

import numpy
import torch

from . import safetensors
from .host import Host
from .library import Error
from .rules import SOLVERS, rule_for
from .schedule import Noise

CHUNK = 8  # prompts encoded together
TEXT = ("prompt_embeds", "prompt_mask", "pooled", "negative_prompt_embeds", "negative_prompt_mask", "negative_pooled")


def levels_of(scheduler):
    config = dict(scheduler.config)
    noise = Noise.of_scheduler(config)
    if noise.kind == "flow":
        return "flow %d" % noise.steps, "flow"
    return "%s %r %r %d" % (noise.kind, float(config["beta_start"]), float(config["beta_end"]), noise.steps), noise.prediction


def _eps(value):
    return "%.9g" % float(numpy.float32(value))


def _joined(parts):
    """Rows of all, those of fewer tokens padded by zeros."""
    longest = max(part.shape[1] for part in parts)
    padded = [part.new_zeros((len(part), longest) + part.shape[2:]) for part in parts]
    for target, part in zip(padded, parts):
        target[:, :part.shape[1]] = part
    return torch.cat(padded)


def _default(pipe, name):
    """Of an argument of the pipeline's call."""
    return inspect.signature(type(pipe).__call__).parameters[name].default


class Adapter:
    """What all have. `tensors`: of the inputs file; `shape`: of one sample."""

    takes = ()  # names that a dict of inputs may have, beside `noise`
    rescaled = False  # whether guidance keeps the length of the conditional prediction
    scale = "guidance_scale"  # the reference's key that guides

    def __init__(self, pipe, inputs, reference=None):
        self.pipe, self.reference, self.tensors = pipe, dict(reference or {}), {}
        self.name = type(pipe).__name__
        self.given = self._named(inputs)
        for key in self.given:
            if key not in self.takes + ("noise",):
                raise Error("%s: inputs have %r; expected %s" % (self.name, key, ", ".join(self.takes + ("noise",))), "USAGE")
        for key in self.reference:
            if key not in ("steps", "guidance_scale", self.scale):
                raise Error("%s: reference has %r; expected steps, guidance_scale%s" % (
                    self.name, key, "" if self.scale == "guidance_scale" else ", " + self.scale), "USAGE")
        self.shape = self._shape()
        self._take()
        if "noise" in self.given:
            self.tensors["noise"] = numpy.asarray(self.given["noise"], numpy.float32)
        rows = {name: len(value) for name, value in self.tensors.items()}
        if len(set(rows.values())) > 1:
            raise Error("%s: inputs of different numbers of rows: %s" % (
                self.name, ", ".join("%s %d" % item for item in sorted(rows.items()))), "USAGE")
        if self.guidance() > 1 and not self.has_uncond():
            raise Error("%s: the reference is guided (%s %g), but inputs have no negative_prompt_embeds" % (
                self.name, self.scale, self.guidance()), "USAGE")

    def _shape(self):
        config = self.pipe.transformer.config
        return config.in_channels, config.sample_size, config.sample_size

    def guidance(self):
        """The reference's scale, 1 without guidance."""
        return float(self.reference.get(self.scale, 1.0))

    def timesteps(self, steps):
        """As the pipeline sets them."""
        scheduler = copy.deepcopy(self.pipe.scheduler)
        self.set_timesteps(scheduler, steps)
        return [float(t) for t in scheduler.timesteps]

    def set_timesteps(self, scheduler, steps):
        scheduler.set_timesteps(steps)

    def schedule(self, steps):
        """What the pipeline does today in so many steps, as a schedule file's object."""
        kind = type(self.pipe.scheduler).__name__
        solver = SOLVERS.get(kind)
        if solver is None:
            raise Error("%s: which solver that is is not known; known: %s. Give a schedule file as reference" % (
                kind, ", ".join(sorted(SOLVERS))), "UNSUPPORTED")
        if solver != "flow-euler" and self.pipe.scheduler.config.get("use_flow_sigmas"):
            raise Error("%s: with use_flow_sigmas its timesteps are rounded, and are not its noise levels; expected "
                        "FlowMatchEulerDiscreteScheduler" % kind, "UNSUPPORTED")
        scale = self.guidance()
        gate = {"mode": "cfg", "scale": scale, "gate": "full"} if scale > 1 else {"mode": "cond", "gate": "full"}
        times = self.timesteps(steps)
        return {"format": "ousac-schedule", "version": 1, "name": "reference", "solver": solver, "step_count": len(times),
                "steps": [{"timestep": t, **gate} for t in times]}

    def host(self, sites=None):
        levels, prediction = levels_of(self.pipe.scheduler)
        return Host(self.pipe.transformer, self.call, self.shape, levels, prediction, sites, has_uncond=self.has_uncond(),
                    constants=self.constants(), name=self.name, rescaled=self.rescaled and self.has_uncond())

    def save(self, path):
        safetensors.save(path, self.tensors)

    # what the transformer is handed

    def _to(self, value):
        """To where the transformer computes; whole numbers and masks keep their type."""
        parameter = next(self.pipe.transformer.parameters())
        return value.to(parameter.device, parameter.dtype if value.is_floating_point() else None)

    def _rows(self, name, samples):
        values = torch.as_tensor(self.tensors[name])
        return self._to(values[[j % len(values) for j in samples]])

    def _time(self, timestep, count):
        whole = timestep == int(timestep)
        parameter = next(self.pipe.transformer.parameters())
        return torch.full((count,), timestep, dtype=torch.int64 if whole else torch.float32, device=parameter.device)


class DiTAdapter(Adapter):
    """`inputs`: class labels; or a dict of "label"."""

    takes = ("label",)
    null = 1000  # the pipeline's, whatever the number of classes

    def _named(self, inputs):
        return inputs if isinstance(inputs, dict) else {"label": inputs}

    def _take(self):
        labels = self.tensors["label"] = numpy.asarray(self.given["label"], numpy.int64)
        classes = self.pipe.transformer.config.num_embeds_ada_norm
        if labels.min() < 0 or labels.max() >= min(self.null, classes):
            raise Error("labels from %d to %d; the model has %d" % (labels.min(), labels.max(), classes), "USAGE")

    def has_uncond(self):
        return True

    def call(self, x, timestep, guidance, branch, samples):
        label = self._rows("label", samples) if branch == "cond" else torch.full((len(samples),), self.null)
        out = self.pipe.transformer(self._to(x), timestep=self._time(timestep, len(samples)), class_labels=self._to(label)).sample
        return out[:, :self.shape[0]].float().cpu()

    def constants(self):
        transformer, config = self.pipe.transformer, self.pipe.transformer.config
        frequencies = transformer.transformer_blocks[0].norm1.emb.timestep_embedder.linear_1.in_features
        return "dit heads=%d denominator=%.17g eps=%s,%s,%s classes=%d" % (
            config.num_attention_heads, frequencies // 2 - 1, _eps(1e-6), _eps(config.norm_eps), _eps(1e-6), config.num_embeds_ada_norm)


class TextAdapter(Adapter):
    """`inputs`: prompts, which the pipeline encodes; or a dict of "prompt", "negative_prompt" and "max_sequence_length", which
    is the pipeline's own by default; or of what they were encoded to."""

    needs = ("prompt_embeds",)
    takes = ("prompt", "negative_prompt", "max_sequence_length") + TEXT

    def _named(self, inputs):
        if isinstance(inputs, str):
            return {"prompt": [inputs]}
        return inputs if isinstance(inputs, dict) else {"prompt": list(inputs)}

    def _take(self):
        prompts = self.given.get("prompt")
        if prompts is not None:
            prompts = [prompts] if isinstance(prompts, str) else list(prompts)
            negative = self.given.get("negative_prompt")
            parts = []
            for i in range(0, len(prompts), CHUNK):
                some = prompts[i:i + CHUNK]
                without = negative if negative is None or isinstance(negative, str) else list(negative)[i:i + CHUNK]
                with torch.no_grad():
                    parts.append(self.encode(some, [without] * len(some) if isinstance(without, str) else without))
            made = {name: _joined([part[name] for part in parts]) for name in parts[0]}
        else:
            made = {name: torch.as_tensor(self.given[name]) for name in TEXT if self.given.get(name) is not None}
        for name in self.needs:
            for wanted in (name, "negative_" + name):
                if wanted not in made and (wanted == name or any(other.startswith("negative") for other in made)):
                    raise Error("%s: inputs lack %s; expected prompts, or %s" % (self.name, wanted, ", ".join(self.needs)), "USAGE")
        for name, value in made.items():
            self.tensors[name] = value.detach().to("cpu", torch.float32).contiguous()

    def has_uncond(self):
        return "negative_prompt_embeds" in self.tensors

    def _length(self):
        return int(self.given.get("max_sequence_length", _default(self.pipe, "max_sequence_length")))

    def _text(self, name, branch, samples):
        return self._rows(name if branch == "cond" else "negative_" + name, samples)


class PixArtAdapter(TextAdapter):
    """Captions with their masks; the size that the model is told is that of a square picture."""

    needs = ("prompt_embeds", "prompt_mask")

    def encode(self, prompts, negative):
        found = self.pipe.encode_prompt(prompts, True, negative_prompt=negative or "", clean_caption=_default(self.pipe, "clean_caption"),
                                        max_sequence_length=self._length())
        return dict(zip(("prompt_embeds", "prompt_mask", "negative_prompt_embeds", "negative_prompt_mask"), found))

    def call(self, x, timestep, guidance, branch, samples):
        told = {"resolution": None, "aspect_ratio": None}
        if self.pipe.transformer.config.sample_size == 128:  # as the pipeline decides
            edge = torch.full((len(samples), 1), 128.0 * self.pipe.vae_scale_factor)
            told = {"resolution": self._to(edge.repeat(1, 2)), "aspect_ratio": self._to(torch.ones_like(edge))}
        out = self.pipe.transformer(self._to(x), encoder_hidden_states=self._text("prompt_embeds", branch, samples),
                                    encoder_attention_mask=self._text("prompt_mask", branch, samples),
                                    timestep=self._time(timestep, len(samples)), added_cond_kwargs=told).sample
        return out[:, :self.shape[0]].float().cpu()

    def constants(self):
        transformer, config = self.pipe.transformer, self.pipe.transformer.config
        drawn = config.interpolation_scale if config.interpolation_scale is not None else max(config.sample_size // 64, 1)
        return "pixart heads=%d eps=%s,%s side=%d interpolation=%.17g caption=%d micro=%d" % (
            config.num_attention_heads, _eps(config.norm_eps), _eps(1e-6), config.sample_size // config.patch_size, drawn,
            self.tensors["prompt_embeds"].shape[1], transformer.use_additional_conditions)


class SD3Adapter(TextAdapter):
    needs = ("prompt_embeds", "pooled")

    def encode(self, prompts, negative):
        found = self.pipe.encode_prompt(prompts, None, None, negative_prompt=negative or [""] * len(prompts),
                                        max_sequence_length=self._length())
        return dict(zip(("prompt_embeds", "negative_prompt_embeds", "pooled", "negative_pooled"), found))

    def set_timesteps(self, scheduler, steps):
        patch, (_, height, width) = self.pipe.transformer.config.patch_size, self.shape
        if scheduler.config.get("use_dynamic_shifting"):
            scheduler.set_timesteps(steps, mu=_shift(scheduler.config, (height // patch) * (width // patch), 1.16))
        else:
            scheduler.set_timesteps(steps)

    def call(self, x, timestep, guidance, branch, samples):
        t = torch.full((len(samples),), timestep, device=next(self.pipe.transformer.parameters()).device)
        return self.pipe.transformer(self._to(x), encoder_hidden_states=self._text("prompt_embeds", branch, samples),
                                     pooled_projections=self._text("pooled", branch, samples), timestep=t).sample.float().cpu()

    def constants(self):
        config = self.pipe.transformer.config
        return "sd3 heads=%d side=%d qk=%s dual=%s" % (config.num_attention_heads, config.sample_size, config.get("qk_norm"),
                                                      ",".join(map(str, config.get("dual_attention_layers") or ())))


class FluxAdapter(TextAdapter):
    """One branch, which is told `guidance_scale`; two where inputs have negative prompts and the reference a
    `true_cfg_scale`. Samples are latents before packing."""

    needs = ("prompt_embeds", "pooled")
    takes = TextAdapter.takes + ("guidance",)
    scale = "true_cfg_scale"

    def _shape(self):
        edge = 2 * (self.pipe.default_sample_size // 2)
        return self.pipe.transformer.config.in_channels // 4, edge, edge

    def _take(self):
        super()._take()
        if not self.pipe.transformer.config.guidance_embeds:
            return
        told = self.given.get("guidance", self.reference.get("guidance_scale"))
        if told is None:
            raise Error("%s: is told a guidance; expected guidance_scale in the reference, or guidance in inputs" % self.name, "USAGE")
        rows = len(self.tensors["prompt_embeds"])
        self.tensors["guidance"] = torch.as_tensor(told, dtype=torch.float32).reshape(-1).expand(rows).contiguous()

    def encode(self, prompts, negative):
        length = self._length()
        made = dict(zip(("prompt_embeds", "pooled"), self.pipe.encode_prompt(prompts, max_sequence_length=length)))
        if negative is not None:
            found = self.pipe.encode_prompt(negative, max_sequence_length=length)
            made.update(zip(("negative_prompt_embeds", "negative_pooled"), found))
        return made

    def set_timesteps(self, scheduler, steps):
        _, height, width = self.shape
        sigmas = None if scheduler.config.get("use_flow_sigmas") else numpy.linspace(1.0, 1 / steps, steps)
        mu = _shift(scheduler.config, (height // 2) * (width // 2), 1.15)
        if sigmas is None:
            scheduler.set_timesteps(steps, mu=mu)
        else:
            scheduler.set_timesteps(sigmas=sigmas, mu=mu)

    def call(self, x, timestep, guidance, branch, samples):
        pipe, (channels, height, width), count = self.pipe, self.shape, len(samples)
        x = self._to(x)
        text = self._text("prompt_embeds", branch, samples)
        t = torch.full((count,), timestep, dtype=x.dtype, device=x.device)
        told = None
        if "guidance" in self.tensors:  # which pipelines keep in float32
            told = torch.as_tensor(self.tensors["guidance"])[[j % len(self.tensors["guidance"]) for j in samples]].to(x.device)
        out = pipe.transformer(
            hidden_states=pipe._pack_latents(x, count, channels, height, width), encoder_hidden_states=text,
            pooled_projections=self._text("pooled", branch, samples), timestep=t / 1000, guidance=told,
            txt_ids=torch.zeros(text.shape[1], 3, device=x.device, dtype=x.dtype),
            img_ids=pipe._prepare_latent_image_ids(count, height // 2, width // 2, x.device, x.dtype)).sample
        factor = pipe.vae_scale_factor
        return pipe._unpack_latents(out, height * factor, width * factor, factor).float().cpu()

    def constants(self):
        config = self.pipe.transformer.config
        return "flux heads=%d axes=%s theta=10000 eps=1e-6" % (config.num_attention_heads, ",".join(map(str, config.axes_dims_rope)))


class QwenImageAdapter(FluxAdapter):
    """Samples are packed latents, (1, tokens, channels of a token): where the pipeline guides, it gives every token the length
    of the conditional prediction. Captions are padded to the longest one, and masked."""

    needs = ("prompt_embeds",)
    takes = ("prompt", "negative_prompt", "max_sequence_length", "prompt_embeds", "prompt_mask", "negative_prompt_embeds",
             "negative_prompt_mask")
    rescaled = True

    def _shape(self):
        self.edge = self.pipe.default_sample_size // 2  # in tokens
        return 1, self.edge * self.edge, self.pipe.transformer.config.in_channels

    def _take(self):
        TextAdapter._take(self)
        parts = [name for name in ("", "negative_") if name + "prompt_embeds" in self.tensors]
        longest = max(self.tensors[name + "prompt_embeds"].shape[1] for name in parts)
        for name in parts:
            embeds = self.tensors[name + "prompt_embeds"]
            mask = self.tensors.get(name + "prompt_mask", torch.ones(embeds.shape[:2]))
            for what, value in (("prompt_embeds", embeds), ("prompt_mask", mask)):
                self.tensors[name + what] = _joined([value, value.new_zeros((0, longest) + value.shape[2:])])

    def encode(self, prompts, negative):
        made = {}
        for name, texts in (("", prompts), ("negative_", negative)):
            if texts is not None:
                embeds, mask = self.pipe.encode_prompt(texts, max_sequence_length=self._length())
                made[name + "prompt_embeds"] = embeds
                made[name + "prompt_mask"] = torch.ones(embeds.shape[:2]) if mask is None else mask
        return made

    def set_timesteps(self, scheduler, steps):
        scheduler.set_timesteps(sigmas=numpy.linspace(1.0, 1 / steps, steps), mu=_shift(scheduler.config, self.shape[1], 1.15))

    def call(self, x, timestep, guidance, branch, samples):
        x = self._to(x)
        t = torch.full((len(samples),), timestep, dtype=x.dtype, device=x.device)
        mask = self._text("prompt_mask", branch, samples).bool()
        out = self.pipe.transformer(
            hidden_states=x[:, 0], timestep=t / 1000, encoder_hidden_states=self._text("prompt_embeds", branch, samples),
            encoder_hidden_states_mask=None if mask.all() else mask, img_shapes=[[(1, self.edge, self.edge)]] * len(samples)).sample
        return out[:, None].float().cpu()

    def constants(self):
        config = self.pipe.transformer.config
        return "qwenimage heads=%d axes=%s theta=10000 eps=1e-6 caption=%d" % (
            config.num_attention_heads, ",".join(map(str, config.axes_dims_rope)), self.tensors["prompt_embeds"].shape[1])


class WanAdapter(TextAdapter):
    """Samples (channels, frames x height, width) of latents; the pipeline's are (channels, frames, height, width). Their size
    is that of the pipeline's call, by default or by inputs' "height", "width" and "num_frames"."""

    takes = TextAdapter.takes + ("height", "width", "num_frames")

    def __init__(self, pipe, inputs, reference=None):
        rule_for(pipe)  # one transformer
        if SOLVERS.get(type(pipe.scheduler).__name__) != "flow-euler":
            raise Error("%s: %s is no solver of a schedule; expected FlowMatchEulerDiscreteScheduler in its place" % (
                type(pipe).__name__, type(pipe.scheduler).__name__), "UNSUPPORTED")
        if pipe.config.get("expand_timesteps"):
            raise Error("%s: with expand_timesteps every token has a timestep of its own; not supported" % type(pipe).__name__,
                        "UNSUPPORTED")
        super().__init__(pipe, inputs, reference)

    def _shape(self):
        height, width, frames = (int(self.given.get(name) or _default(self.pipe, name)) for name in ("height", "width", "num_frames"))
        patch = self.pipe.transformer.config.patch_size
        factor = self.pipe.vae_scale_factor_spatial
        self.frames = (frames - 1) // self.pipe.vae_scale_factor_temporal + 1
        height, width = (edge // (factor * by) * by for edge, by in zip((height, width), patch[1:]))
        return self.pipe.transformer.config.in_channels, self.frames * height, width

    def encode(self, prompts, negative):
        found = self.pipe.encode_prompt(prompts, negative or "", max_sequence_length=self._length())
        return dict(zip(("prompt_embeds", "negative_prompt_embeds"), found))

    def call(self, x, timestep, guidance, branch, samples):
        x = self._to(x)
        t = torch.full((len(samples),), timestep, device=x.device)
        out = self.pipe.transformer(x.unflatten(2, (self.frames, -1)), timestep=t,
                                    encoder_hidden_states=self._text("prompt_embeds", branch, samples)).sample
        return out.flatten(2, 3).float().cpu()

    def constants(self):
        config = self.pipe.transformer.config
        return "wan heads=%d patch=%s frames=%d eps=%s qk=%s cross=%d theta=10000" % (
            config.num_attention_heads, ",".join(map(str, config.patch_size)), self.frames, _eps(config.eps), config.qk_norm,
            config.cross_attn_norm)


def _shift(config, tokens, most):
    """mu of dynamic shifting: linear in the number of tokens. `most`: the pipeline's own where the config has none."""
    first, last = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", most)
    slope = (high - low) / (last - first)
    return tokens * slope + (low - slope * first)


ADAPTERS = {"DiTPipeline": DiTAdapter, "PixArtAlphaPipeline": PixArtAdapter, "PixArtSigmaPipeline": PixArtAdapter,
            "StableDiffusion3Pipeline": SD3Adapter, "FluxPipeline": FluxAdapter, "QwenImagePipeline": QwenImageAdapter,
            "WanPipeline": WanAdapter}


def adapter_for(pipe, inputs, reference=None):
    """`reference`: a dict of steps and scales, or None."""
    if inputs is None:
        raise Error("%s: expected `inputs`: what samples are conditioned on" % type(pipe).__name__, "USAGE")
    for cls in type(pipe).__mro__:
        if cls.__name__ in ADAPTERS:
            return ADAPTERS[cls.__name__](pipe, inputs, reference)
    raise Error("%s: calibrated by hand so far: give ousac.Host(pipe.transformer, call, ...) in place of the pipeline; known: %s"
                % (type(pipe).__name__, ", ".join(sorted(ADAPTERS))), "UNSUPPORTED")
