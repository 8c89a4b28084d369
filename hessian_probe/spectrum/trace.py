"""The trace of a symmetric map from random products, with its standard error.

Let Q be an orthonormal basis of the images of a few random vectors.  tr A = tr QᵀAQ + tr (I − QQᵀ)A(I − QQᵀ):
the first part is computed, the second, small where the spectrum decays, is sampled.  The sum is unbiased,
since the samples do not depend on Q.

Source: R. A. Meyer, C. Musco, C. Musco and D. P. Woodruff, Hutch++: optimal stochastic trace estimation,
2021, algorithm 1, arXiv:2010.09649.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from hessian_probe.arrays import Vector, add_scaled, coefficients, combine, dot, norm
from hessian_probe.operators.symmetric import SymmetricOperator
from hessian_probe.spectrum.lanczos import cleared, extend, zeros


class Trace(NamedTuple):
    """An estimate of a trace.

    Attributes:
        value: the estimate, unbiased.
        error: its standard error, from a third of the products as samples; at least the rounding error.
        num_hvps: products spent.
    """

    value: float
    error: float
    num_hvps: int


def trace(op: SymmetricOperator, probes: int, rng: np.random.Generator) -> Trace:
    """Estimate the trace; a third of the probes each go to finding a basis, within it, and outside it."""

    def signs() -> Vector:
        rows = zip(op.layout.shapes, op.layout.work_dtypes, op.active, strict=True)
        return tuple(jnp.asarray(rng.choice([-1.0, 1.0], s) if on else np.zeros(s), d) for s, d, on in rows)

    third = probes // 3
    basis = tuple(jnp.zeros((third, *v.shape), v.dtype) for v in signs())
    inside, products = 0.0, 2 * third
    for index in range(third):
        found = op.apply(signs())
        basis, newest, _, length = extend(basis, found, zeros(found), np.int32(index))
        if float(length) > np.sqrt(op.eps) * float(norm(found)):
            inside += float(dot(newest, op.apply(newest)))
            products += 1
        else:  # the remainder is rounding: the images span no further direction
            basis = cleared(basis, np.int32(index))
    samples = []
    for _ in range(third):
        outside = signs()
        outside = add_scaled(outside, -1.0, combine(basis, coefficients(basis, outside)))
        samples.append(float(dot(outside, op.apply(outside))))
    value, error = inside + float(np.mean(samples)), float(np.std(samples, ddof=1) / np.sqrt(third))
    return Trace(value, max(error, op.eps * abs(value)), products)
