"""Matrix products and parameters in less than float32, inside the loss.

Every number in the data is representable in the narrow type, so that the exact function is known: the
truth is the inertia of AᵀWA, computed in float64.  Curvature below the narrow type's rounding of ‖H‖
cannot be told from zero by evaluating such a loss.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.problems.known_point import KnownPoint, label_from_signs, random_rotation

# ‖H‖-relative curvature counts as decidable from DECIDED·u upwards and as hidden up to HIDDEN·u, u the
# narrow type's epsilon; nothing is built in between.  A product of n = 16 rounded terms, twice, is off by
# up to about 2·√16·u‖H‖ = 8u‖H‖ (Higham 2002, section 3.1).
DECIDED, HIDDEN = 32.0, 0.5
SIZE = 16
NARROW = {"bfloat16": jnp.bfloat16, "float16": jnp.float16}


@functools.cache
def narrow_quadratic(narrow: str) -> Callable[[jax.Array, tuple[Any, Any, Any]], jax.Array]:
    """Make a loss ½ Σ wᵢ (Ax − b)ᵢ² whose product Ax is computed in a narrow type.

    Args:
        narrow: "bfloat16" or "float16".

    Returns:
        ``loss(params, (A, b, w))``; A of shape (m, n), b and w of shape (m,). Equal arguments give the
        same function object.

    Raises:
        ValueError: If the type is unknown.
    """
    if narrow not in NARROW:
        raise ValueError(f"expected {' or '.join(NARROW)}, got {narrow!r}")
    dtype = NARROW[narrow]

    def loss(params: jax.Array, data: tuple[Any, Any, Any]) -> jax.Array:
        rows, target, weights = data
        product = rows.astype(dtype) @ params.astype(dtype)
        apart = product.astype(weights.dtype) - target
        return (0.5 * jnp.sum(weights * apart**2)).astype(params.dtype)

    loss.__name__ = loss.__qualname__ = f"{narrow}_quadratic"
    return loss


def wide_quadratic(params: jax.Array, data: tuple[Any, Any, Any]) -> jax.Array:
    """Evaluate ½ Σ wᵢ (Ax − b)ᵢ² in float32, whatever narrow type the parameters have.

    Args:
        params: x, shape (n,), of any floating dtype.
        data: A of shape (m, n), b and w of shape (m,), float32.

    Returns:
        The value in float32, a scalar.
    """
    rows, target, weights = data
    apart = rows @ params.astype(rows.dtype) - target
    return 0.5 * jnp.sum(weights * apart**2)


def _narrowed(values: Any, narrow: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Round to the nearest numbers of a narrow type."""
    return np.asarray(values).astype(jnp.dtype(NARROW[narrow])).astype(np.float64)


def precision_points(*, seed: int = 0) -> list[KnownPoint]:
    """Build quadratics with products, or parameters, in bfloat16 and float16.

    Minima, saddles and maxima whose deciding curvature is between 32u and 1 of ‖H‖, and 0.01u of it,
    which the narrow product hides.

    Args:
        seed: Draws everything.

    Returns:
        The points; narrow parameters have ``fixed_dtype`` set.
    """
    points = []
    for narrow in NARROW:
        unit = float(jnp.finfo(NARROW[narrow]).eps)
        for number in range(9):
            label = ("minimum", "saddle", "maximum")[number % 3]
            rng = np.random.default_rng([seed, number, len(narrow)])
            hidden = number >= 6
            decisive = 0.02 * HIDDEN * unit if hidden else rng.uniform(DECIDED * unit, 1.0)
            curvature = rng.uniform(0.5, 1.0, SIZE)
            curvature[0], curvature[1] = decisive, 1.0
            curvature[0] *= -1.0 if label == "saddle" else 1.0
            curvature *= -1.0 if label == "maximum" else 1.0
            at_origin = number < 3
            points.append(_inside(narrow, curvature, at_origin, hidden, rng, f"{label}_{number}"))
            if not hidden:
                points.append(_params(narrow, curvature, rng, f"{label}_{number}"))
    return points


def _inside(
    narrow: str,
    curvature: np.ndarray[Any, np.dtype[np.float64]],
    at_origin: bool,
    hidden: bool,
    rng: np.random.Generator,
    name: str,
) -> KnownPoint:
    """Build a point of ``narrow_quadratic`` and take its truth from the rounded matrix."""
    n = curvature.size
    rows = _narrowed(random_rotation(n, rng), narrow)
    weights = curvature.astype(np.float32).astype(np.float64)
    center = np.zeros(n) if at_origin else _narrowed(rng.standard_normal(n), narrow)
    # The target is the rounded product, as the loss computes it up to the order of its sum.
    target = _narrowed(rows @ center, narrow)
    return KnownPoint(
        name=f"{narrow}_product_{name}",
        kind="precision",
        loss=narrow_quadratic(narrow),
        params=center,
        data=(rows, target, weights),
        decidable=not hidden,
        **_inertia(rows, weights),
    )


def _params(
    narrow: str, curvature: np.ndarray[Any, np.dtype[np.float64]], rng: np.random.Generator, name: str
) -> KnownPoint:
    """Build a point of ``wide_quadratic`` with narrow parameters at which Ax = b holds exactly."""
    n = curvature.size
    # A Hadamard matrix (Sylvester 1867) of columns with random signs: AᵀA = n, and with small integers
    # every product and sum is exact in float32.
    rows: np.ndarray[Any, np.dtype[Any]] = np.ones((1, 1))
    while len(rows) < n:
        rows = np.kron([[1.0, 1.0], [1.0, -1.0]], rows)
    rows = rng.permutation(rows) * rng.choice([-1.0, 1.0], n)
    center = rng.integers(-4, 5, n).astype(np.float64)
    return KnownPoint(
        name=f"{narrow}_params_{name}",
        kind="precision",
        loss=wide_quadratic,
        params=center.astype(jnp.dtype(NARROW[narrow])),
        data=tuple(part.astype(np.float32) for part in (rows, rows @ center, curvature)),
        fixed_dtype=True,
        **_inertia(rows, curvature.astype(np.float32).astype(np.float64)),
    )


def _inertia(
    rows: np.ndarray[Any, np.dtype[np.float64]], weights: np.ndarray[Any, np.dtype[np.float64]]
) -> dict[str, Any]:
    """Read the truth off AᵀWA: its inertia is that of W, A being invertible (Sylvester)."""
    values = np.linalg.eigvalsh(rows.T @ (weights[:, None] * rows))
    negative = int(np.sum(weights < 0))
    top = np.max(np.abs(values))
    label = label_from_signs(negative, 0, weights.size - negative)
    both = min(-values[0], values[-1]) if label == "saddle" else np.min(np.abs(values))
    return {
        "label": label,
        "index": negative,
        "num_zero": 0,
        "eigenvalue_range": (float(values[0]), float(values[-1])),
        "gap": float(both / top),
        "why": "the Hessian is A'WA with A invertible: its signs are those of W (Sylvester)",
    }
