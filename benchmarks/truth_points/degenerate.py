"""Critical points where second order is silent, and traps for tests of smallness.

Every function takes one array of shape (n,) and returns a scalar of its dtype.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.truth_points.plane import dixon_price
from hessian_probe.problems.known_point import KnownPoint

Function = Callable[[jax.Array], jax.Array]


def _quartic_bowl(p: jax.Array) -> jax.Array:
    return p[0] ** 4 + p[1] ** 4


def _quartic_saddle(p: jax.Array) -> jax.Array:
    return p[0] ** 4 - p[1] ** 4


def _valley_quartic_floor(p: jax.Array) -> jax.Array:
    return p[0] ** 2 + p[1] ** 4


def _valley_quartic_roof(p: jax.Array) -> jax.Array:
    return p[0] ** 2 - p[1] ** 4


def _valley_cubic_floor(p: jax.Array) -> jax.Array:
    return p[0] ** 2 + p[1] ** 3


def _ridge_quartic_rise(p: jax.Array) -> jax.Array:
    return -(p[0] ** 2) + p[1] ** 4


def _monkey_saddle(p: jax.Array) -> jax.Array:
    return p[0] ** 3 - 3.0 * p[0] * p[1] ** 2


def _crossed_valleys(p: jax.Array) -> jax.Array:
    return p[0] ** 2 * p[1] ** 2


def _peano(p: jax.Array) -> jax.Array:
    x, y = p[0], p[1]
    return (y - x**2) * (y - 2.0 * x**2)


def _circle(p: jax.Array) -> jax.Array:
    return (p[0] ** 2 + p[1] ** 2 - 1.0) ** 2


def _scalar_network_depth_3(p: jax.Array) -> jax.Array:
    return 0.5 * (p[0] * p[1] * p[2] - 1.0) ** 2


def _powell_singular(p: jax.Array) -> jax.Array:
    a, b, c, d = p[0], p[1], p[2], p[3]
    return (
        (a + 10.0 * b) ** 2
        + 5.0 * (c - d) ** 2
        + (b - 2.0 * c) ** 4
        + 10.0 * (a - d) ** 4
    )  # fmt: skip


def _flat_exponential(p: jax.Array) -> jax.Array:
    # exp(-1/x^2) underflows to exactly 0 for |x| < 0.036 even in float64 (1/x^2 > 745), so the
    # branch below changes no value; the inner `where` keeps 1/x^2 and its derivatives finite.
    x = p[0]
    silent = jnp.abs(x) < 0.03
    away = jnp.where(silent, 1.0, x)
    return jnp.where(silent, 0.0, jnp.exp(-1.0 / away**2))


def _point(
    name: str,
    loss: Function,
    params: list[float],
    label: str,
    signs: tuple[int, int, int],
    why: str,
    *,
    isolated: bool = True,
    kind: str = "degenerate",
    descent: list[float] | None = None,
    eigenvalue_range: tuple[float, float] | None = None,
    decidable: bool = True,
) -> KnownPoint:
    """Fill in a record from the counts (negative, zero, positive) of Hessian eigenvalues.

    Args:
        name: See ``KnownPoint``.
        loss: See ``KnownPoint``.
        params: Coordinates.
        label: See ``KnownPoint``.
        signs: Counts of negative, zero and positive eigenvalues.
        why: See ``KnownPoint``.
        isolated: See ``KnownPoint``.
        kind: See ``KnownPoint``.
        descent: See ``KnownPoint``.
        eigenvalue_range: See ``KnownPoint``.
        decidable: See ``KnownPoint``.

    Returns:
        The record.
    """
    negative, zero, positive = signs
    return KnownPoint(
        name=name,
        kind=kind,
        loss=loss,
        params=np.array(params),
        label=label,
        index=negative,
        degenerate=label != "not_critical" and zero > 0 and not (negative and positive),
        num_zero=zero,
        isolated=isolated,
        eigenvalue_range=eigenvalue_range,
        descent=None if descent is None else np.array(descent) / np.linalg.norm(descent),
        decidable=decidable,
        why=why,
    )


def degenerate_points() -> list[KnownPoint]:
    """Build critical points whose label the Hessian alone does not give.

    Returns:
        Points with proofs. ``"degenerate"`` is an honest answer for each with ``degenerate`` set;
        any other label than the recorded one is wrong. (The centre of the circle, a plain maximum,
        and a minimum of the same function are both in the list.)

    Source: Peano (in Genocchi, "Calcolo differenziale", 1884) for the function that has a minimum
        along every straight line and yet no minimum; Powell, "An iterative method for finding
        stationary values of a function of several variables" (Comput. J. 5, 1962),
        doi:10.1093/comjnl/5.2.147, for the singular function; Dixon & Price (1989) for theirs.
    """
    return [*_powers(), *_other_degenerate()]


def _powers() -> list[KnownPoint]:
    """Powers of two variables, at the origin."""
    o2 = [0.0, 0.0]
    return [
        _point("x4+y4", _quartic_bowl, o2, "minimum", (0, 2, 0), "positive off the origin"),
        _point(
            "x4-y4", _quartic_saddle, o2, "saddle", (0, 2, 0),
            "both signs on the axes", descent=[0.0, 1.0],
        ),
        _point(
            "x2+y4", _valley_quartic_floor, o2, "minimum", (0, 1, 1), "positive off the origin"
        ),
        _point(
            "x2-y4", _valley_quartic_roof, o2, "saddle", (0, 1, 1),
            "positive semi-definite Hessian, yet f(0, y) = -y^4", descent=[0.0, 1.0],
        ),
        _point(
            "x2+y3", _valley_cubic_floor, o2, "saddle", (0, 1, 1),
            "cubic in the null direction", descent=[0.0, -1.0],
        ),
        _point(
            "-x2+y4", _ridge_quartic_rise, o2, "saddle", (1, 1, 0),
            "falls along x by second order and rises along y by fourth", descent=[1.0, 0.0],
        ),
        _point(
            "monkey", _monkey_saddle, o2, "saddle", (0, 2, 0),
            "x^3 - 3xy^2 is odd along the x axis", descent=[-1.0, 0.0],
        ),
    ]  # fmt: skip


def _other_degenerate() -> list[KnownPoint]:
    """Valleys that bend, products, a function without a power series, and Powell's and Dixon's."""
    o2, third = [0.0, 0.0], 1.0 / 3.0
    return [
        _point(
            "x2y2", _crossed_valleys, o2, "minimum", (0, 2, 0),
            "nowhere negative; zero on both axes, which no finite order proves",
            isolated=False, decidable=False,
        ),
        _point(
            "peano", _peano, o2, "saddle", (0, 1, 1),
            "a minimum along every straight line, yet f(x, 1.5x^2) = -x^4/4 (Peano 1884)",
        ),
        _point(
            "circle", _circle, [1.0, 0.0], "minimum", (0, 1, 1),
            "zero on the whole unit circle and nowhere negative", isolated=False,
        ),
        _point(
            "circle_centre", _circle, o2, "maximum", (2, 0, 0),
            "both eigenvalues are -4", eigenvalue_range=(-4.0, -4.0),
        ),
        _point(
            "xyz", _scalar_network_depth_3, [0.0, 0.0, 0.0], "saddle", (0, 3, 0),
            "1/2 - xyz + ... falls along (t, t, t) and rises along (-t, t, t)",
            isolated=False, descent=[1.0, 1.0, 1.0],
        ),
        _point(
            "powell", _powell_singular, [0.0] * 4, "minimum", (0, 2, 2),
            "a sum of even powers that vanish together at the origin alone (Powell 1962)",
        ),
        _point(
            "exp(-1/x2)", _flat_exponential, [0.0], "minimum", (0, 1, 0),
            "positive off 0, though every derivative at 0 is zero: no finite order decides",
            decidable=False,
        ),
        _point(
            "dixon_price3", dixon_price, [third, 0.0, 0.0], "saddle", (0, 1, 2),
            "positive semi-definite Hessian, yet f(1/3, 2t^2, t) = 2/3 - 32t^4/3 + 128t^8",
        ),
        _point(
            "dixon_price6", dixon_price, [third, *[0.0] * 5], "saddle", (0, 1, 5),
            "as dixon_price3, with the last coordinate the flat one; along the curve that falls, by order 32",
            decidable=False,
        ),
    ]  # fmt: skip


def _no_critical_point_cubic(p: jax.Array) -> jax.Array:
    return p[0] ** 3 / 3.0 + p[0] + p[1] ** 2


def _nearly_flat_cubic(p: jax.Array) -> jax.Array:
    return p[0] ** 3 / 3.0 + 1e-6 * p[0]


def _decaying_exponential(p: jax.Array) -> jax.Array:
    return jnp.exp(-p[0]) + 0.5 * jnp.exp(-p[0]) * p[1] ** 2


def _tiny_saddle(p: jax.Array) -> jax.Array:
    return 1e-12 * (p[0] ** 2 - p[1] ** 2)


def _huge_bowl(p: jax.Array) -> jax.Array:
    return 1e12 * ((p[0] - 1.0 / 3.0) ** 2 + p[1] ** 2)


def _high_saddle(p: jax.Array) -> jax.Array:
    return p[0] ** 2 - p[1] ** 2 + 1e8


def trap_points() -> list[KnownPoint]:
    """Build points where the size of the gradient alone misleads.

    Returns:
        Points that any absolute tolerance gets wrong: critical ones with a large gradient or a
        tiny curvature, and slopes with a tiny gradient.
    """
    ulp = float(np.nextafter(1.0 / 3.0, 1.0))
    return [
        _point(
            "gradient_flat", _no_critical_point_cubic, [0.0, 0.0], "not_critical", (0, 1, 1),
            "H grad f = 0 at the origin, but df/dx = x^2 + 1 is nowhere zero", kind="trap",
        ),
        _point(
            "slope_1e-6", _nearly_flat_cubic, [0.0], "not_critical", (0, 1, 0),
            "the derivative x^2 + 1e-6 is nowhere zero, though it is 1e-6 here", kind="trap",
        ),
        _point(
            "far_out_exponential", _decaying_exponential, [30.0, 0.0], "not_critical", (0, 0, 2),
            "exp(-x)(1 + y^2/2) has no critical point, though its gradient is 1e-13 here",
            kind="trap", eigenvalue_range=(math.exp(-30.0), math.exp(-30.0)),
        ),
        _point(
            "tiny_saddle", _tiny_saddle, [0.0, 0.0], "saddle", (1, 0, 1),
            "a scaled x^2 - y^2", kind="trap", eigenvalue_range=(-2e-12, 2e-12),
        ),
        _point(
            "huge_bowl", _huge_bowl, [ulp, 0.0], "minimum", (0, 0, 2),
            "one float64 beside the minimum of a bowl so steep that the gradient is 1e-4",
            kind="trap", eigenvalue_range=(2e12, 2e12),
        ),
        _point(
            "high_saddle", _high_saddle, [0.0, 0.0], "saddle", (1, 0, 1),
            "x^2 - y^2 plus a constant that swallows differences of nearby values",
            kind="trap", eigenvalue_range=(-2.0, 2.0),
        ),
    ]  # fmt: skip
