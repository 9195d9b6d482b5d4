"""ousac.Scheduler: a schedule's own steps in a pipeline of diffusers, fitted coefficients included."""
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin, SchedulerOutput

from .bundle import Bundle
from .library import Error
from .schedule import Noise, Schedule, solver_steps


class Scheduler(SchedulerMixin, ConfigMixin):
    """Made by from_schedule, or from_pretrained of what save_pretrained wrote.

    Takes the place of the pipeline's scheduler: pipe.scheduler = ousac.Scheduler.from_schedule(FILE, pipe.scheduler).
    `schedule` is a schedule file's object; the noise levels are those of the scheduler that it replaces. What a step
    does is formats/SCHEDULE.md's x' = a (1 + k) x + b (1 + m) e + g D + c (...) + d (...), in double precision where
    the device has it. `hold` and per-step scales act on the model's outputs: ousac.apply does them."""

    order = 1
    init_noise_sigma = 1.0

    @register_to_config
    def __init__(self, schedule, beta_schedule="linear", beta_start=1e-4, beta_end=0.02, num_train_timesteps=1000,
                 prediction_type="epsilon", base_image_seq_len=256, max_image_seq_len=4096, base_shift=0.5, max_shift=1.15):
        self.ousac_schedule = Schedule(schedule)
        noise = Noise.of_scheduler(self._levels())
        self._steps = solver_steps(self.ousac_schedule, noise)
        times = self.ousac_schedule.timesteps
        self.timesteps = torch.tensor(times, dtype=torch.int64 if all(t == int(t) for t in times) else torch.float32)
        self.sigmas = torch.tensor([noise.level(t)[1] ** 0.5 for t in times] + [0.0])
        self.num_inference_steps = len(times)
        self._reset()

    def _levels(self):
        return {"num_train_timesteps": self.config.num_train_timesteps} if self.config.beta_schedule == "flow" else {
            key: self.config[key] for key in ("beta_schedule", "beta_start", "beta_end", "num_train_timesteps", "prediction_type")}

    @classmethod
    def from_schedule(cls, source, like=None):
        """`source`: a bundle, a schedule file, ousac.Bundle or ousac.Schedule. `like`: a scheduler of diffusers or its
        config, whose noise levels these are; None: linear betas from 1e-4 to 0.02 over 1000 steps, epsilon."""
        if isinstance(source, (Bundle, Schedule)):
            found = source
        else:
            found = Schedule.load(source) if str(source).endswith(".json") else Bundle(source)
        schedule = found.schedule if isinstance(found, Bundle) else found
        config = {} if like is None else dict(getattr(like, "config", like))
        kept = {}
        if config:
            noise = Noise.of_scheduler(config)
            kept = {key: config[key] for key in ("beta_schedule", "beta_start", "beta_end", "num_train_timesteps",
                                                 "prediction_type", "base_image_seq_len", "max_image_seq_len",
                                                 "base_shift", "max_shift") if config.get(key) is not None}
            if noise.kind == "flow":
                kept.update(beta_schedule="flow", prediction_type="flow_prediction")
        made = cls(schedule.data, **kept)
        if isinstance(found, Bundle) and found.levels()[0] is not None:
            noise = Noise.of_scheduler(made._levels())
            if (noise.word(), noise.prediction) != found.levels():
                raise Error("%s: noise levels %s of a model that predicts %s, but the scheduler has %s and %s"
                            % ((found.path,) + found.levels() + (noise.word(), noise.prediction)))
        return made

    def _reset(self):
        self._index, self._data, self._before, self._earlier, self._taken = 0, None, None, None, 0

    def set_timesteps(self, num_inference_steps=None, device=None, timesteps=None, sigmas=None, mu=None, **unused):
        """The schedule's; a pipeline that asks for another number of them is told so. `timesteps`, `sigmas` and `mu`
        are the pipeline's own idea of them and give way."""
        for what, given in (("num_inference_steps", num_inference_steps),
                            ("sigmas", None if sigmas is None else len(sigmas)), ("timesteps", None if timesteps is None else len(timesteps))):
            if given is not None and given != self.num_inference_steps:
                raise Error("the schedule has %d steps, but %s says %d; call the pipeline with num_inference_steps=%d"
                            % (self.num_inference_steps, what, given, self.num_inference_steps))
        if device is not None:
            self.timesteps = self.timesteps.to(device)
        self._reset()

    def set_begin_index(self, begin_index=0):
        if begin_index:
            raise Error("a run that begins at step %d; the schedule has to be run whole" % begin_index, "UNSUPPORTED")

    def scale_model_input(self, sample, timestep=None):
        return sample

    def step(self, model_output, timestep, sample, return_dict=True, **unused):
        i = self.ousac_schedule.nearest(float(timestep))
        if i != self._index:
            raise Error("a step at timestep %g, which is step %d of the schedule; expected step %d" % (float(timestep), i, self._index))
        self._index = i + 1
        a, b, g, data_x, data_p = self._steps[i]
        s = self.ousac_schedule.steps[i]
        wide = torch.float32 if sample.device.type in ("mps", "xpu") else torch.float64
        x, e = sample.to(wide), model_output.to(wide)
        out = a * (1 + s.k) * x + b * (1 + s.m) * e
        if g != 0:
            out = out + g * self._data
        if s.c != 0 and self._taken > 0:
            out = out + s.c * (e - self._before)
        if s.d != 0 and self._taken > 1:
            out = out + s.d * (self._before - self._earlier)
        if self.ousac_schedule.solver == "dpmpp-2m":
            self._data = data_x * x + data_p * e
        if self.ousac_schedule.fitted:
            self._earlier, self._before = self._before, e
        self._taken += 1
        out = out.to(sample.dtype)
        return SchedulerOutput(prev_sample=out) if return_dict else (out,)

    def __len__(self):
        return self.config.num_train_timesteps
