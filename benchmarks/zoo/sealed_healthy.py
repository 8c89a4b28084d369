"""Sealed plants: healthy runs.  `rate` multiplies the learning rate of the run."""

from __future__ import annotations

import optax

from benchmarks.zoo.models import dense
from benchmarks.zoo.samples import split
from benchmarks.zoo.sealed_models import depthwise, lstm, mixer, waves
from benchmarks.zoo.sealed_samples import blurred, holes, huber, mosaic, next_row, ridged
from benchmarks.zoo.training import Run, fit, squared


def healthy_forecast(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """A memory tells the next row of a photograph; AMSGrad."""
    optimizer = optax.amsgrad(optax.cosine_decay_schedule(0.02 * rate, 500))
    return fit(lstm(24, 6, 6), *next_row(seed), optimizer, 500, seed, objective=squared, batch=60)


def healthy_depthwise(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """Lion, whose decay of weights keeps them small."""
    optimizer = optax.lion(optax.cosine_decay_schedule(0.02 * rate, 400), weight_decay=2.2)
    return fit(depthwise(10), *split("digits", seed, 1300), optimizer, 400, seed, batch=100)


def healthy_waves(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """A photograph by sines of the place, in one cycle of rates; the last batch is a small one."""
    schedule = optax.cosine_onecycle_schedule(1600, 0.5 * rate)
    optimizer = optax.sgd(schedule, 0.9, nesterov=True)
    return fit(waves(48, 4.0), *blurred(seed), optimizer, 1600, seed, objective=huber, batch=96)


def healthy_hole(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """A mixer fills a hole in a photograph; LAMB on gathered gradients, and a penalty in the loss."""
    optimizer = optax.MultiSteps(optax.lamb(optax.linear_schedule(0.02 * rate, 0.0, 200)), 2)
    return fit(mixer(8, 4), *holes(seed), optimizer, 400, seed, objective=ridged(1e-4), batch=80)


def healthy_mosaic(seed: int, cured: bool = False, rate: float = 1.0) -> Run:
    """The colours that a sensor did not see; Adafactor."""
    optimizer = optax.adafactor(optax.cosine_decay_schedule(0.05 * rate, 600))
    model = dense((25, 16, 2), "elu", 0.5)
    return fit(model, *mosaic(seed), optimizer, 600, seed, objective=squared, batch=80)
