"""Points where the Hessian alone does not give the label, and points where the gradient's size misleads.

"degenerate" is an honest answer where zeros are among the eigenvalues and the others are of one sign.
Peano (in Genocchi, "Calcolo differenziale", 1884) has the function that is a minimum along every straight
line and yet no minimum; Powell (Comput. J. 5, 1962), doi:10.1093/comjnl/5.2.147, the singular one.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.truth_points.plane import dixon_price, of
from benchmarks.truth_points.table import table
from hessian_probe.problems import KnownPoint

NEXT_TO_THIRD = float(np.nextafter(1.0 / 3.0, 1.0))
circle = of(lambda x, y: (x**2 + y**2 - 1.0) ** 2, 2)


def flat_exponential(p: jax.Array) -> jax.Array:
    """exp(−1/x²), 0 at 0: underflows to exactly 0 for |x| < 0.036 even in float64 (1/x² > 745).

    So the outer branch changes no value; the inner one keeps 1/x² and its derivatives finite.
    """
    x = p[0]
    silent = jnp.abs(x) < 0.03
    away = jnp.where(silent, 1.0, x)
    return jnp.where(silent, 0.0, jnp.exp(-1.0 / away**2))


def powell(a: jax.Array, b: jax.Array, c: jax.Array, d: jax.Array) -> jax.Array:
    """Powell's singular function."""
    return (a + 10.0 * b) ** 2 + 5.0 * (c - d) ** 2 + (b - 2.0 * c) ** 4 + 10.0 * (a - d) ** 4


# Name, loss, point, label, counts of negative, zero and positive eigenvalues, why, and further facts.
# fmt: off
DEGENERATE = (
    ("x4+y4", of(lambda x, y: x**4 + y**4, 2), (0, 0), "minimum", (0, 2, 0), "positive off the origin", {}),
    ("x4-y4", of(lambda x, y: x**4 - y**4, 2), (0, 0), "saddle", (0, 2, 0), "both signs on the axes",
     {"descent": (0, 1)}),
    ("x2+y4", of(lambda x, y: x**2 + y**4, 2), (0, 0), "minimum", (0, 1, 1), "positive off the origin", {}),
    ("x2-y4", of(lambda x, y: x**2 - y**4, 2), (0, 0), "saddle", (0, 1, 1),
     "positive semi-definite Hessian, yet f(0, y) = -y^4", {"descent": (0, 1)}),
    ("x2+y3", of(lambda x, y: x**2 + y**3, 2), (0, 0), "saddle", (0, 1, 1),
     "cubic in the null direction", {"descent": (0, -1)}),
    ("-x2+y4", of(lambda x, y: -(x**2) + y**4, 2), (0, 0), "saddle", (1, 1, 0),
     "falls along x by second order and rises along y by fourth", {"descent": (1, 0)}),
    ("monkey", of(lambda x, y: x**3 - 3.0 * x * y**2, 2), (0, 0), "saddle", (0, 2, 0),
     "x^3 - 3xy^2 is odd along the x axis", {"descent": (-1, 0)}),
    ("x2y2", of(lambda x, y: x**2 * y**2, 2), (0, 0), "minimum", (0, 2, 0),
     "nowhere negative; zero on both axes, which no finite order proves",
     {"isolated": False, "decidable": False}),
    ("peano", of(lambda x, y: (y - x**2) * (y - 2.0 * x**2), 2), (0, 0), "saddle", (0, 1, 1),
     "a minimum along every straight line, yet f(x, 1.5x^2) = -x^4/4 (Peano 1884)", {}),
    ("circle", circle, (1, 0), "minimum", (0, 1, 1),
     "zero on the whole unit circle and nowhere negative", {"isolated": False}),
    ("circle_centre", circle, (0, 0), "maximum", (2, 0, 0), "both eigenvalues are -4",
     {"eigenvalue_range": (-4.0, -4.0)}),
    ("xyz", of(lambda x, y, z: 0.5 * (x * y * z - 1.0) ** 2, 3), (0, 0, 0), "saddle", (0, 3, 0),
     "1/2 - xyz + ... falls along (t, t, t) and rises along (-t, t, t)",
     {"isolated": False, "descent": (1, 1, 1)}),
    ("powell", of(powell, 4), (0, 0, 0, 0), "minimum", (0, 2, 2),
     "a sum of even powers that vanish together at the origin alone (Powell 1962)", {}),
    ("exp(-1/x2)", flat_exponential, (0,), "minimum", (0, 1, 0),
     "positive off 0, though every derivative at 0 is zero: no finite order decides", {"decidable": False}),
    ("dixon_price3", dixon_price, (1 / 3, 0, 0), "saddle", (0, 1, 2),
     "positive semi-definite Hessian, yet f(1/3, 2t^2, t) = 2/3 - 32t^4/3 + 128t^8", {}),
    ("dixon_price6", dixon_price, (1 / 3, 0, 0, 0, 0, 0), "saddle", (0, 1, 5),
     "as dixon_price3, with the last coordinate the flat one; along the curve that falls, by order 32",
     {"decidable": False}),
)
TRAPS = (
    ("gradient_flat", of(lambda x, y: x**3 / 3.0 + x + y**2, 2), (0, 0), "not_critical", (0, 1, 1),
     "H grad f = 0 at the origin, but df/dx = x^2 + 1 is nowhere zero", {}),
    ("slope_1e-6", of(lambda x: x**3 / 3.0 + 1e-6 * x, 1), (0,), "not_critical", (0, 1, 0),
     "the derivative x^2 + 1e-6 is nowhere zero, though it is 1e-6 here", {}),
    ("far_out_exponential", of(lambda x, y: jnp.exp(-x) + 0.5 * jnp.exp(-x) * y**2, 2), (30, 0),
     "not_critical", (0, 0, 2), "exp(-x)(1 + y^2/2) has no critical point, though its gradient is 1e-13 here",
     {"eigenvalue_range": (math.exp(-30.0), math.exp(-30.0))}),
    ("tiny_saddle", of(lambda x, y: 1e-12 * (x**2 - y**2), 2), (0, 0), "saddle", (1, 0, 1),
     "a scaled x^2 - y^2", {"eigenvalue_range": (-2e-12, 2e-12)}),
    ("huge_bowl", of(lambda x, y: 1e12 * ((x - 1.0 / 3.0) ** 2 + y**2), 2), (NEXT_TO_THIRD, 0),
     "minimum", (0, 0, 2), "one float64 beside the minimum of a bowl so steep that the gradient is 1e-4",
     {"eigenvalue_range": (2e12, 2e12)}),
    ("high_saddle", of(lambda x, y: x**2 - y**2 + 1e8, 2), (0, 0), "saddle", (1, 0, 1),
     "x^2 - y^2 plus a constant that swallows differences of nearby values",
     {"eigenvalue_range": (-2.0, 2.0)}),
)
# fmt: on


def listed(_: int, name: str, loss: Any, at: Any, label: str, signs: Any, why: str, facts: Any) -> KnownPoint:
    """Fill in a record from its line."""
    negative, zero, positive = signs
    silent = label != "not_critical" and zero > 0 and not (negative and positive)
    if "descent" in facts:
        down = np.array(facts["descent"], np.float64)
        facts = facts | {"descent": down / np.linalg.norm(down)}
    params = np.array(at, np.float64)
    return KnownPoint(name, loss, params, label, negative, degenerate=silent, num_zero=zero, why=why, **facts)


table("degenerate", DEGENERATE)(listed)
table("trap", TRAPS)(listed)
