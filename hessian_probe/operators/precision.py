"""In what precision a loss computes, which may be less than that of its parameters."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from hessian_probe.arrays import Layout
from hessian_probe.programs.inspect import ProgramFacts

# Spacing of numbers near 1 in a reduced matrix product of single precision: TensorFloat-32 keeps 10 bits
# of mantissa (NVIDIA A100 Tensor Core GPU Architecture, 2020), bfloat16 7 (the TPU's default; JAX's
# documentation of `jax.lax.Precision`).  XLA's CPU products keep single precision whatever they are asked
# for: the same to the last bit with precision DEFAULT, "bfloat16" and BF16_BF16_F32 as with HIGHEST.
REDUCED = {"cpu": 0.0, "gpu": 2.0**-10, "cuda": 2.0**-10, "rocm": 2.0**-10}
LOWEST = 2.0**-7


def rounding_unit(layout: Layout, facts: ProgramFacts) -> float:
    """Relative spacing of the coarsest numbers that the loss computes with (the machine epsilon).

    Args:
        layout: layout of the parameters.
        facts: what the loss's program shows.

    Returns:
        Machine epsilon of the parameters' lowest precision, or of a lower one that they pass through.
    """
    eps = float(jnp.finfo(layout.dtype).eps)
    if facts.lowest_float is not None:
        eps = max(eps, float(jnp.finfo(facts.lowest_float).eps))
    if facts.reduced_matmul:
        eps = max(eps, REDUCED.get(jax.default_backend(), LOWEST))
    return eps
