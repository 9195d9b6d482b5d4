"""How a pipeline class calls its transformer: which branch a call is of, and what the pipeline makes of the two.

Every pipeline computes u + s (c - u) with the scale that it was called with. Batched ones call once a step with both
halves in a stated order; the others call twice, each under a cache context that has the branch's name.
"""
import inspect
import math

from .library import Error
from .schedule import Noise

SOLVERS = {"DDIMScheduler": "ddim", "DPMSolverMultistepScheduler": "dpmpp-2m", "FlowMatchEulerDiscreteScheduler": "flow-euler"}


class Rule:
    """`order`: of the halves of a batch, None where branches are called apart. `batched`: arguments of the transformer
    with a row a sample; nested dicts are cut too. `time`: what the argument `timestep` is to be multiplied with.
    `scale`: the pipeline's argument; `negative`: arguments of which one must be there for guidance. `absent`:
    arguments that must not be."""

    def __init__(self, order, batched, time=1.0, scale="guidance_scale", negative=(), absent=()):
        self.order, self.batched, self.time, self.scale = order, batched, time, scale
        self.negative, self.absent = negative, absent

    def guidance(self, pipe, args, kwargs):
        """The scale of a call of the pipeline, 1 where it does not guide."""
        signature = inspect.signature(type(pipe).__call__)
        bound = signature.bind(pipe, *args, **kwargs)
        bound.apply_defaults()
        values = bound.arguments
        for name in self.absent:
            if values.get(name) is not None:
                raise Error("%s: called with %s, which calls the transformer a third time a step; not supported"
                            % (type(pipe).__name__, name), "UNSUPPORTED")
        scale = values.get(self.scale)
        if scale is None or not scale > 1:
            return 1.0
        if self.negative and all(values.get(name) is None for name in self.negative):
            return 1.0
        return float(scale)


_TEXT = ("hidden_states", "timestep", "encoder_hidden_states", "encoder_attention_mask", "added_cond_kwargs", "attention_mask")
_APART = ("negative_prompt", "negative_prompt_embeds")
RULES = {
    "DiTPipeline": Rule(("cond", "uncond"), ("hidden_states", "timestep", "class_labels")),
    "PixArtAlphaPipeline": Rule(("uncond", "cond"), _TEXT),
    "PixArtSigmaPipeline": Rule(("uncond", "cond"), _TEXT),
    "StableDiffusion3Pipeline": Rule(("uncond", "cond"),
                                     ("hidden_states", "timestep", "encoder_hidden_states", "pooled_projections"),
                                     absent=("skip_guidance_layers",)),
    "FluxPipeline": Rule(None, (), 1000.0, "true_cfg_scale", _APART),
    "QwenImagePipeline": Rule(None, (), 1000.0, "true_cfg_scale", _APART),
    "WanPipeline": Rule(None, ()),
}


def rule_for(pipe):
    for cls in type(pipe).__mro__:
        if cls.__name__ in RULES:
            rule = RULES[cls.__name__]
            if getattr(pipe, "transformer_2", None) is not None:
                raise Error("%s: has a second transformer, transformer_2; give the transformer itself and run it in "
                            "applied.run()" % type(pipe).__name__, "UNSUPPORTED")
            return rule
    raise Error("%s: how it calls its transformer is not known; known: %s. Give the transformer itself, and run it in "
                "applied.run()" % (type(pipe).__name__, ", ".join(sorted(RULES))), "UNSUPPORTED")


def cut(value, rows):
    """The given rows of an argument: of tensors in it, or of all its values where it is a dict."""
    if isinstance(value, dict):
        return {key: cut(item, rows) for key, item in value.items()}
    return value[rows] if hasattr(value, "shape") and len(value.shape) else value


def check_scheduler(scheduler, schedule, levels, where):
    """That a pipeline's scheduler, its timesteps set, makes the steps of a schedule. `levels`: the bundle's word of the
    noise levels and its prediction, either None where not known."""
    name, config = type(scheduler).__name__, dict(scheduler.config)
    wanted = schedule.timesteps
    times = [float(t) for t in scheduler.timesteps]
    if len(times) != len(wanted):
        raise Error("%s: a schedule of %d steps, but the pipeline was called for %d" % (where, len(wanted), len(times)))
    for i, (mine, theirs) in enumerate(zip(times, wanted)):
        if abs(mine - theirs) > 1e-3 * max(1.0, theirs):
            raise Error("%s: step %d is at timestep %g, but at %g in the pipeline; ousac.Scheduler makes the schedule's steps"
                        % (where, i, theirs, mine))
    ours = getattr(scheduler, "ousac_schedule", None)
    if ours is not None:
        if ours.digest() != schedule.digest():
            raise Error("%s: the pipeline's ousac.Scheduler has another schedule" % where)
    elif schedule.fitted:
        raise Error("%s: its solver's coefficients are fitted; expected ousac.Scheduler in place of %s" % (where, name))
    elif name in SOLVERS:
        _check_solver(name, config, schedule, wanted, where)
    word, prediction = levels
    if word is not None and (ours is not None or name in SOLVERS):
        noise = Noise.of_scheduler(config)
        if noise.word() != word:
            raise Error("%s: noise levels %s, but the pipeline's are %s" % (where, word, noise.word()))
        if noise.prediction != prediction:
            raise Error("%s: the model predicts %s, but the pipeline takes it for %s" % (where, prediction, noise.prediction))


def _check_solver(name, config, schedule, wanted, where):
    if SOLVERS[name] != schedule.solver:
        raise Error("%s: solver %s, but the pipeline has %s" % (where, schedule.solver, name))
    if name == "DDIMScheduler":
        by = config["num_train_timesteps"] // len(wanted)
        ends = [t - by for t in wanted]
        if any(abs(a - b) > 1e-6 for a, b in zip(ends, wanted[1:])) or ends[-1] >= 0 or not config.get("set_alpha_to_one", True):
            raise Error("%s: DDIMScheduler steps from t to t - %d and ends at its alpha of -1 or 0, the schedule does not; "
                        "ousac.Scheduler makes its steps" % (where, by))
        if config.get("clip_sample", True) or config.get("thresholding", False):
            raise Error("%s: the pipeline's DDIMScheduler clips samples (clip_sample, thresholding); the schedule does not" % where)
    if name == "DPMSolverMultistepScheduler":
        expected = {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint", "thresholding": False,
                    "use_karras_sigmas": False, "use_flow_sigmas": False, "final_sigmas_type": "zero", "lower_order_final": True}
        for key, value in expected.items():
            if config.get(key, value) != value:
                raise Error("%s: the pipeline's scheduler has %s = %r; expected %r" % (where, key, config.get(key), value))


def plain_timestep(value, rule):
    """The number that an argument `timestep` holds, which is one for all rows."""
    if hasattr(value, "reshape"):
        flat = value.reshape(-1).double()
        first = float(flat[0])
        if flat.numel() > 1 and bool((flat != flat[0]).any()):
            raise Error("a call with rows at different timesteps", "UNSUPPORTED")
    else:
        first = float(value)
    if not math.isfinite(first):
        raise Error("timestep %r" % first, "NUMBER")
    return first * rule.time
