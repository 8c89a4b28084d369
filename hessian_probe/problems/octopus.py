"""A function on which gradient descent passes one saddle after another, ever more slowly."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp


def octopus(
    x: jax.Array, *, smoothness: float = math.e, curvature: float = 1.0, width: float = math.e
) -> jax.Array:
    """Evaluate the octopus function: d saddles in a row, then a minimum in every orthant.

    Let i be the first coordinate with |xᵢ| < 2τ. Then f(x) = Σ_{j<i} L(|xⱼ| − 4τ)² + g₁(|xᵢ|) +
    g₂(|xᵢ|)·xᵢ₊₁² + Σ_{j>i+1} L xⱼ² − (i − 1)ν: a saddle at |xⱼ| = 4τ (j < i), 0 elsewhere, with the one
    negative eigenvalue −2γ along xᵢ. Gradient descent reaches the next saddle with xᵢ₊₁ smaller by a
    constant factor to the power of the steps that it took at this one, so it needs a number of steps that
    is exponential in d. Minima at |x| = 4τ, of value −dν, ν = 4Lτ² − g₁(2τ). The paper defines f where all
    coordinates behind the i-th are at most τ in magnitude; elsewhere the same formulas are used.

    Args:
        x: Shape (d,).
        smoothness: L, half of the positive eigenvalues at the saddles.
        curvature: γ, half of the magnitude of the negative ones.
        width: τ; saddles are 4τ apart.

    Returns:
        Scalar.

    Source: S. S. Du et al., Gradient descent can take exponential time to escape saddle points, 2017,
    section 4 and appendix B, arXiv:1705.10412.

    Example:
        >>> float(octopus(jnp.zeros(3)))  # the first of three saddles
        0.0
    """
    big, gamma, tau = smoothness, curvature, width
    a = jnp.abs(x)
    beyond = jnp.maximum(a - tau, 0.0)
    ramp = (
        -gamma * x**2
        + (10 * gamma - 14 * big) / (3 * tau) * beyond**3
        + (5 * big - 3 * gamma) / (2 * tau**2) * beyond**4
    )
    s = (jnp.clip(a, tau, 2 * tau) - 2 * tau) / tau
    coupling = -gamma - (big + gamma) * (10 * s**3 + 15 * s**4 + 6 * s**5)
    done = jnp.cumprod(jnp.where(a >= 2 * tau, 1, 0)).astype(bool)
    shifted = jnp.concatenate([jnp.ones((1,), bool), done[:-1]])
    current = shifted & ~done
    following = jnp.concatenate([jnp.zeros((1,), bool), current[:-1]])
    weights = jnp.where(following, jnp.concatenate([coupling[:1], coupling[:-1]]), jnp.full_like(a, big))
    level = 4 * big * tau**2 + 4 * gamma * tau**2 - (10 * gamma - 14 * big) * tau**2 / 3
    level = level - (5 * big - 3 * gamma) * tau**2 / 2
    here = jnp.where(done, big * (a - 4 * tau) ** 2 - level, jnp.where(current, ramp, weights * x**2))
    return jnp.sum(here)
