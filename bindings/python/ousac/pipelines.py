"""What pipelines of diffusers need to be hosted: how prompts become an inputs file, and how the transformer is called."""
import numpy
import torch

from . import safetensors
from .host import Host
from .library import Error
from .schedule import Noise


def _levels(scheduler):
    config = dict(scheduler.config)
    noise = Noise.of_scheduler(config)
    if noise.kind == "flow":
        return "flow %d" % noise.steps, "flow"
    return "%s %r %r %d" % (noise.kind, float(config["beta_start"]), float(config["beta_end"]), noise.steps), noise.prediction


def _eps(value):
    return "%.9g" % float(numpy.float32(value))


class DiTAdapter:
    """`inputs`: class labels; or a dict of "label", and "noise" where it is not to be drawn."""

    def __init__(self, pipe, inputs):
        given = inputs if isinstance(inputs, dict) else {"label": inputs}
        self.tensors = {"label": numpy.asarray(given["label"], numpy.int64)}
        if "noise" in given:
            self.tensors["noise"] = numpy.asarray(given["noise"], numpy.float32)
        self.pipe, self.labels = pipe, torch.from_numpy(self.tensors["label"])
        config = pipe.transformer.config
        self.null = 1000
        if self.labels.min() < 0 or self.labels.max() >= min(self.null, config.num_embeds_ada_norm):
            raise Error("labels from %d to %d; the model has %d" % (self.labels.min(), self.labels.max(), config.num_embeds_ada_norm), "USAGE")

    def host(self, sites=None):
        transformer, config = self.pipe.transformer, self.pipe.transformer.config
        channels = config.in_channels
        parameter = next(transformer.parameters())

        def call(x, timestep, guidance, branch, samples):
            rows = torch.tensor([j % len(self.labels) for j in samples])
            label = self.labels[rows] if branch == "cond" else torch.full((len(samples),), self.null)
            whole = timestep == int(timestep)
            t = torch.full((len(samples),), timestep, dtype=torch.int64 if whole else torch.float32)
            out = transformer(x.to(parameter.device, parameter.dtype), timestep=t.to(parameter.device),
                              class_labels=label.to(parameter.device)).sample
            return out[:, :channels].float().cpu()

        levels, prediction = _levels(self.pipe.scheduler)
        frequencies = transformer.transformer_blocks[0].norm1.emb.timestep_embedder.linear_1.in_features
        constants = "dit heads=%d denominator=%.17g eps=%s,%s,%s classes=%d" % (
            config.num_attention_heads, frequencies // 2 - 1, _eps(1e-6), _eps(config.norm_eps), _eps(1e-6), config.num_embeds_ada_norm)
        return Host(transformer, call, (channels, config.sample_size, config.sample_size), levels, prediction, sites,
                    constants=constants, name=type(self.pipe).__name__)

    def save(self, path):
        safetensors.save(path, self.tensors)


ADAPTERS = {"DiTPipeline": DiTAdapter}


def adapter_for(pipe, inputs):
    for cls in type(pipe).__mro__:
        if cls.__name__ in ADAPTERS:
            return ADAPTERS[cls.__name__](pipe, inputs)
    raise Error("%s: calibrated by hand so far: give ousac.Host(pipe.transformer, call, ...) in place of the pipeline; known: %s"
                % (type(pipe).__name__, ", ".join(sorted(ADAPTERS))), "UNSUPPORTED")
