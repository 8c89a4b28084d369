"""Functions of two variables whose critical points are tabulated.

Every function takes one array of shape (2,), (x, y), and returns a scalar of its dtype. The table
is ``benchmarks/truth_points/data/closed_form.csv``: coordinates, value, label, index and extreme Hessian
eigenvalues, polished in float64. Which lists are complete is said at each function; a complete
list lets a search be checked for what it missed.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp


def himmelblau(point: jax.Array) -> jax.Array:
    """Evaluate (x² + y − 11)² + (x + y² − 7)².

    The 9 tabulated points are all of them (two conics' worth: Bézout's bound is attained).

    Args:
        point: (x, y), shape (2,).

    Returns:
        The value, a scalar.
    """
    x, y = point[0], point[1]
    return (x**2 + y - 11.0) ** 2 + (x + y**2 - 7.0) ** 2


def six_hump_camel(point: jax.Array) -> jax.Array:
    """Evaluate (4 − 2.1x² + x⁴/3)x² + xy + (−4 + 4y²)y².

    The 15 tabulated points (6 minima, 2 maxima, 7 saddles) are all of them.

    Args:
        point: (x, y), shape (2,).

    Returns:
        The value, a scalar.
    """
    x, y = point[0], point[1]
    return (4.0 - 2.1 * x**2 + x**4 / 3.0) * x**2 + x * y + (-4.0 + 4.0 * y**2) * y**2


# Amplitude, a, b, c, X, Y of the four Gaussians of Müller & Brown (1979), table I.
_MULLER_BROWN = (
    (-200.0, -1.0, 0.0, -10.0, 1.0, 0.0),
    (-100.0, -1.0, 0.0, -10.0, 0.0, 0.5),
    (-170.0, -6.5, 11.0, -6.5, -0.5, 1.5),
    (15.0, 0.7, 0.6, 0.7, -1.0, 1.0),
)


def muller_brown(point: jax.Array) -> jax.Array:
    """Evaluate the Müller–Brown surface, a sum of four Gaussians.

    The 5 tabulated points are all of them in [−3, 2] × [−2, 3].

    Args:
        point: (x, y), shape (2,).

    Returns:
        The value, a scalar.

    Source: Müller & Brown, "Location of saddle points and minimum energy paths by a constrained
        simplex optimization procedure" (Theor. Chim. Acta 53, 1979), doi:10.1007/BF00547608.
    """
    x, y = point[0], point[1]
    total = 0.0 * x
    for amplitude, a, b, c, x0, y0 in _MULLER_BROWN:
        dx, dy = x - x0, y - y0
        total = total + amplitude * jnp.exp(a * dx**2 + b * dx * dy + c * dy**2)
    return total


def branin(point: jax.Array) -> jax.Array:
    """Evaluate (y − bx² + cx − 6)² + 10(1 − t) cos x + 10; b = 5.1/4π², c = 5/π, t = 1/8π.

    All critical points are x = kπ, y = bx² − cx + 6: minima for odd k, saddles for even k; the
    table holds k = −1 … 3.

    Args:
        point: (x, y), shape (2,).

    Returns:
        The value, a scalar.
    """
    x, y = point[0], point[1]
    b, c, t = 5.1 / (4.0 * math.pi**2), 5.0 / math.pi, 1.0 / (8.0 * math.pi)
    return (y - b * x**2 + c * x - 6.0) ** 2 + 10.0 * (1.0 - t) * jnp.cos(x) + 10.0


def handkerchief(point: jax.Array) -> jax.Array:
    """Evaluate x³/3 + xy² + 2(x² − y²), whose 2 critical points are both tabulated.

    Args:
        point: (x, y), shape (2,).

    Returns:
        The value, a scalar.
    """
    x, y = point[0], point[1]
    return x**3 / 3.0 + x * y**2 + 2.0 * (x**2 - y**2)


def beale(point: jax.Array) -> jax.Array:
    """Evaluate (1.5 − x + xy)² + (2.25 − x + xy²)² + (2.625 − x + xy³)².

    Three points in [−4.5, 4.5]² are tabulated; the list is not known to be complete.

    Args:
        point: (x, y), shape (2,).

    Returns:
        The value, a scalar.
    """
    x, y = point[0], point[1]
    first, second, third = 1.5 - x + x * y, 2.25 - x + x * y**2, 2.625 - x + x * y**3
    return first**2 + second**2 + third**2


def two_minima_no_saddle(point: jax.Array) -> jax.Array:
    """Evaluate (x²y − x − 1)² + (x² − 1)²: two minima and no other critical point.

    Args:
        point: (x, y), shape (2,).

    Returns:
        The value, a scalar.
    """
    x, y = point[0], point[1]
    return (x**2 * y - x - 1.0) ** 2 + (x**2 - 1.0) ** 2


def only_critical_point_in_town(point: jax.Array) -> jax.Array:
    """Evaluate x²(1 + y)³ + y²: one critical point, a minimum, and no lower bound.

    Args:
        point: (x, y), shape (2,).

    Returns:
        The value, a scalar.
    """
    x, y = point[0], point[1]
    return x**2 * (1.0 + y) ** 3 + y**2


def only_critical_point_max(point: jax.Array) -> jax.Array:
    """Evaluate 3xeʸ − x³ − e³ʸ: one critical point, a maximum, and no upper bound.

    Args:
        point: (x, y), shape (2,).

    Returns:
        The value, a scalar.
    """
    x, y = point[0], point[1]
    return 3.0 * x * jnp.exp(y) - x**3 - jnp.exp(3.0 * y)


def aluffi_pentini(point: jax.Array) -> jax.Array:
    """Evaluate x⁴/4 − x²/2 + x/10 + y²/2, whose 3 critical points are all tabulated.

    Args:
        point: (x, y), shape (2,).

    Returns:
        The value, a scalar.
    """
    x, y = point[0], point[1]
    return x**4 / 4.0 - x**2 / 2.0 + x / 10.0 + y**2 / 2.0


def cbm(point: jax.Array) -> jax.Array:
    """Evaluate x⁴ + 4x²y² − 2x² + 2y², whose 3 critical points are all tabulated.

    Args:
        point: (x, y), shape (2,).

    Returns:
        The value, a scalar.
    """
    x, y = point[0], point[1]
    return x**4 + 4.0 * x**2 * y**2 - 2.0 * x**2 + 2.0 * y**2


def dixon_price(point: jax.Array) -> jax.Array:
    """Evaluate (x₁ − 1)² + Σᵢ i(2xᵢ² − xᵢ₋₁)², i = 2 … n.

    For n = 2 the 3 tabulated points are all of them. For n ≥ 3 the point (1/3, 0, …, 0) is a
    saddle whose Hessian has no negative eigenvalue: see ``degenerate_points``.

    Args:
        point: (x₁, …, xₙ), shape (n,).

    Returns:
        The value, a scalar.

    Source: Dixon & Price, "Truncated Newton method for sparse unconstrained optimization using
        automatic differentiation" (J. Optim. Theory Appl. 60, 1989).
    """
    total = (point[0] - 1.0) ** 2
    for i in range(1, point.shape[0]):
        total = total + (i + 1.0) * (2.0 * point[i] ** 2 - point[i - 1]) ** 2
    return total


def styblinski_tang(point: jax.Array) -> jax.Array:
    """Evaluate Σᵢ (xᵢ⁴ − 16xᵢ² + 5xᵢ)/2.

    Separable: 3ⁿ critical points, C(n, k)·2ⁿ⁻ᵏ of them of index k.

    Args:
        point: (x₁, …, xₙ), shape (n,).

    Returns:
        The value, a scalar.

    Source: Styblinski & Tang, "Experiments in nonconvex optimization: stochastic approximation
        with function smoothing and simulated annealing" (Neural Networks 3, 1990),
        doi:10.1016/0893-6080(90)90029-K.
    """
    return jnp.sum(point**4 - 16.0 * point**2 + 5.0 * point) / 2.0


PLANE_FUNCTIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "himmelblau": himmelblau,
    "six_hump_camel": six_hump_camel,
    "muller_brown": muller_brown,
    "branin": branin,
    "handkerchief": handkerchief,
    "beale": beale,
    "two_minima_no_saddle": two_minima_no_saddle,
    "only_critical_point_in_town": only_critical_point_in_town,
    "only_critical_point_max": only_critical_point_max,
    "aluffi_pentini": aluffi_pentini,
    "cbm": cbm,
    "dixon_price2": dixon_price,
    "styblinski_tang2": styblinski_tang,
}
"""The functions of the table by the name that the table gives them."""
