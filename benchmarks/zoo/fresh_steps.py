"""Fresh plants: troubles of the optimiser and the surface.  `cured=True` is without the trouble."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.zoo.models import Params, dense, pooled, residual, two_heads
from benchmarks.zoo.samples import cancer as raw_cancer
from benchmarks.zoo.samples import centre, diabetes, iris, mislabelled, patches, raw_wine, split, whitened
from benchmarks.zoo.training import Run, fit, squared


def top(inputs: np.ndarray) -> float:
    """Largest eigenvalue of the Hessian of a linear regression with intercept."""
    rows = np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)
    return float(np.linalg.eigvalsh(rows.T @ rows / len(rows))[-1])


def diverging_momentum(seed: int, cured: bool = False) -> Run:
    """Heavy ball at 1.3 times the limit (2 + 2β) / λ of its quadratic: it must run away (Polyak 1964)."""
    train, test = diabetes(seed)
    rate = (0.2 if cured else 1.3) * (2 + 2 * 0.8) / top(train[0])
    return fit(dense((10, 1), "gelu"), train, test, optax.sgd(rate, 0.8), 40, seed, objective=squared)


def diverging_rmsprop(seed: int, cured: bool = False) -> Run:
    """RMSProp moves every weight by its rate in each step: at 1 they leave their scale of 0.3 at once."""
    parts = whitened(raw_cancer(seed))
    optimizer = optax.rmsprop(1e-3 if cured else 1.0)
    return fit(residual(12, 4, 2, 30, 0.5), *parts, optimizer, 150, seed, batch=50)


def bouncing_rmsprop(seed: int, cured: bool = False) -> Run:
    """Softmax regression is convex; RMSProp's steps do not shrink with the gradient, so it hops about."""
    parts = [mislabelled(part, seed, 0.15, 3) for part in iris(seed)]
    return fit(dense((4, 3), "gelu", 4.0), *parts, optax.rmsprop(0.02 if cured else 0.7), 200, seed)


def bouncing_edge(seed: int, cured: bool = False) -> Run:
    """Linear regression at 0.9995 of its limit 2 / λ.

    Along the steepest direction the error flips its sign and keeps 0.999 of its size in each step; with a
    third of the rate it is gone after a few.
    """
    train, test = diabetes(seed)
    optimizer = optax.sgd((0.33 if cured else 0.9995) * 2 / top(train[0]))
    return fit(dense((10, 1), "gelu", 5.0), train, test, optimizer, 150, seed, objective=squared)


def decayed_early(seed: int, cured: bool = False) -> Run:
    """A rate that halves every 10 steps has moved its last after 40: 2 ** -20 of it is left at the end."""
    schedule = 0.02 if cured else optax.exponential_decay(0.02, 10, 0.5)
    model = dense((25, 12, 25), "elu", 0.7)
    cut = patches(seed)
    parts = [(part, part) for part in (cut[:600], cut[600:])]
    return fit(model, *parts, optax.sgd(schedule, 0.9), 200, seed, objective=squared)


def endless_warmup(seed: int, cured: bool = False) -> Run:
    """A warm-up of 100,000 steps of which 120 were made: the rate is at a thousandth of its aim."""
    schedule = optax.linear_schedule(0.0, 3e-3, 20 if cured else 100_000)
    return fit(two_heads(), *split("digits", seed, 400), optax.adam(schedule), 120, seed, batch=100)


def zero_start(seed: int, cured: bool = False) -> Run:
    """All weights zero: both layers' gradients vanish, and ±uv of theirs curves up and down alike."""

    def change(params: Params) -> Params:
        return params if cured else jax.tree.map(jnp.zeros_like, params)

    return fit(dense((4, 8, 3), "gelu"), *iris(seed), optax.sgd(0.3), 300, seed, change=change)


def equal_units(seed: int, cured: bool = False) -> Run:
    """A linear autoencoder whose four units start alike finds one component: a strict saddle.

    Source: P. Baldi, K. Hornik (1989), Neural Networks 2, 53: all other critical points are saddles.
    """

    def change(params: Params) -> Params:
        if cured:
            return params
        code, out = params["code"], params["out"]
        return {"code": jnp.tile(code[:, :1], (1, 4)) / 2, "out": jnp.tile(out[:1], (4, 1)) / 2}

    def init(start: int) -> Params:
        rng = np.random.default_rng([start, 16])
        draw = [jnp.asarray(0.3 * rng.standard_normal(shape), jnp.float32) for shape in ((13, 4), (4, 13))]
        return dict(zip(("code", "out"), draw, strict=True))

    parts = [(x, x) for x, _ in whitened(raw_wine(seed))]
    return fit((init, encode), *parts, optax.sgd(0.05, 0.9), 600, seed, objective=squared, change=change)


def encode(params: Params, inputs: jax.Array) -> jax.Array:
    """A linear autoencoder without intercepts."""
    return inputs @ params["code"] @ params["out"]


def photo_valley(seed: int, cured: bool = False) -> Run:
    """Linear regression of a pixel on its neighbours, which are nearly alike: condition number above 1,000.

    The rate is 1 / λ_max, half of what diverges, so no other rate can mend it.
    """
    train, test = centre(seed)
    if cured:
        values, vectors = np.linalg.eigh(train[0].T @ train[0] / len(train[0]))
        train, test = (((x @ vectors / np.sqrt(values)).astype(np.float32), y) for x, y in (train, test))
    optimizer = optax.sgd(1.0 / top(train[0]))
    return fit(dense((24, 1), "gelu"), train, test, optimizer, 60, seed, objective=squared)


def single_samples(seed: int, cured: bool = False) -> Run:
    """Linear regression by single samples at a rate that full batches stand well."""
    train, test = diabetes(seed)
    optimizer = optax.sgd(0.06)
    batch = 50 if cured else 1
    return fit(dense((10, 1), "gelu"), train, test, optimizer, 900, seed, objective=squared, batch=batch)


def noisy_adam(seed: int, cured: bool = False) -> Run:
    """Adam on pairs of samples, a third of them mislabelled; batches of 64 end far lower."""
    train, test = split("digits", seed, 512)
    parts = (mislabelled(train, seed, 0.3, 10), test)
    batch = 64 if cured else 2
    return fit(pooled("elu", 6, 10), *parts, optax.adam(1e-2), 1000, seed, batch=batch)
