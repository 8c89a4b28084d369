"""Where the Hessian alone does not give the label, critical points are no isolated ones, or sizes mislead.

"degenerate" is an honest answer where zeros are among the eigenvalues and the others are of one sign.  Where
critical points form a manifold of as many dimensions as there are zeros (Morse & Bott), the signs of the
others decide; elsewhere the form of lowest order on the flat space does.  Sources: Peano (in Genocchi,
"Calcolo differenziale", 1884); Powell (Comput. J. 5, 1962), doi:10.1093/comjnl/5.2.147.
"""

import functools
import math
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.truth_points.plane import dixon_price, of
from benchmarks.truth_points.table import changed, draws, extremum, of_data, table
from hessian_probe.problems import KnownPoint, deep_linear_point
from hessian_probe.problems.known_point import random_rotation

NEXT_TO_THIRD = float(np.nextafter(1.0 / 3.0, 1.0))
circle = of(lambda x, y: (x**2 + y**2 - 1.0) ** 2, 2)


# Powell's singular function.
powell = of(
    lambda a, b, c, d: (a + 10.0 * b) ** 2 + 5.0 * (c - d) ** 2 + (b - 2.0 * c) ** 4 + 10.0 * (a - d) ** 4, 4
)


def flat_exponential(p: jax.Array) -> jax.Array:
    """exp(−1/x²), 0 at 0: underflows to exactly 0 for |x| < 0.036 even in float64 (1/x² > 745)."""
    x = p[0]
    silent = jnp.abs(x) < 0.03  # changes no value; keeps 1/x² and its derivatives finite
    return jnp.where(silent, 0.0, jnp.exp(-1.0 / jnp.where(silent, 1.0, x) ** 2))


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
    ("powell", powell, (0, 0, 0, 0), "minimum", (0, 2, 2),
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


@functools.cache
def flat_form(order: int) -> Any:
    """Make ½ Σ λᵢ(vᵢ − bᵢ(aᵢ·u)²)² + φ(u), φ(u) = Σⱼ wⱼ(dⱼ·u)^order, (u, v) = Q(x − c).

    v → v − b(a·u)² is a diffeomorphism that fixes the origin, so that the label is that of ½ Σ λᵢvᵢ² + φ(u).
    With b ≠ 0 and an order above 4 the descents are curved: along straight lines it is a minimum.
    """

    @of_data
    def loss(params, rotation, center, curvature, bend, bend_rows, weights, rows):
        z = rotation @ (params - center)
        u, v = z[: rows.shape[1]], z[z.shape[0] - curvature.shape[0] :]
        v = v - bend * (bend_rows @ u) ** 2
        return 0.5 * jnp.sum(curvature * v**2) + jnp.sum(weights * (rows @ u) ** order)

    return loss


def random_form(order: int, kind: str, flat: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Draw w, d and a unit vector along which φ is at most −0.05 (zeros where φ is "positive")."""
    rows = np.r_[random_rotation(flat, rng), rng.standard_normal((2, flat))]
    weights = rng.uniform(0.5, 1.5, len(rows))
    if kind == "positive":  # even powers of forms that span the space: zero at u = 0 alone
        return weights, rows, np.zeros(flat)
    if order % 2:
        weights *= rng.choice([-1.0, 1.0], len(rows))
    else:
        weights[0] *= -20.0  # the first form alone is not small where the polynomial is negative
    trials = np.r_[rows[:1], rng.standard_normal((4000, flat))]
    trials /= np.linalg.norm(trials, axis=1, keepdims=True)
    values = (trials @ rows.T) ** order @ weights
    lowest = int(np.argmin(values))
    if not (values[lowest] < -0.05 and (flat == 1 or order % 2 == 0 or values.max() > 0.05)):
        return random_form(order, kind, flat, rng)
    return weights, rows, trials[lowest]


# Order, kind of form, signs of the quadratic directions, whether these are bent, and the copy.
FORMS = [
    (order, kind, signs, bent, copy)
    for order in (3, 4, 5, 6)
    for kind in (("both",) if order % 2 else ("both", "positive"))
    for signs in ("none", "positive", "negative", "mixed")
    for bent in ((False, True) if signs == "positive" else (False,))
    for copy in range(1 if signs == "mixed" else 2)
]


@table("flat", FORMS)
def forms(seed: int, order: int, kind: str, signs: str, bent: bool, copy: int) -> KnownPoint:
    """A form of order 3 to 6 on a flat space of 2 or 3 dimensions; ``descent`` where no bend hides it."""
    seed = 2 * seed + copy
    rng = draws(seed, order, len(kind), len(signs), bent)
    flat, n, rest = (3, 3, 1) if signs == "none" else (2, 6, 4)  # data of no length are refused
    curvature = rng.uniform(0.5, 2.0, rest)
    curvature *= {"none": 0.0, "negative": -1.0}.get(signs, 1.0)
    if signs == "mixed":
        curvature *= rng.permutation([1.0, 1.0, -1.0, -1.0])
    weights, rows, lower = random_form(order, kind, flat, rng)
    rotation, center = random_rotation(n, rng), rng.standard_normal(n) * rng.integers(0, 2)
    bend = rng.uniform(0.5, 1.5, rest) * float(bent)
    bend_rows = rng.standard_normal((rest, flat))
    rises = kind == "positive" and signs in ("none", "positive")
    falls = "curvature of both signs" if signs == "mixed" else "the higher-order form goes the other way"
    why = "positive curvature, and a positive definite form on the flat space" if rises else falls
    name = f"form{order}_{kind}_{signs}{'_bent' * bent}_seed{seed}"
    label, index = "minimum" if rises else "saddle", int(np.sum(curvature < 0))
    data = (rotation, center, curvature, bend, bend_rows, weights, rows)
    facts: dict[str, Any] = {"degenerate": signs != "mixed", "num_zero": flat, "why": why}
    if kind == "both" and not bent:
        facts["descent"] = rotation.T @ np.r_[lower, np.zeros(n - flat)]
    return KnownPoint(name, flat_form(order), center, label, index, data, **facts)


@of_data
def two_curves(params: jax.Array, rotation: Any, center: Any, slopes: Any, which: Any) -> jax.Array:
    """(y − ax^k)(y − bx^k) with (x, y) = Q(params − c); (1, 0) for k = 2 and (0, 1) for k = 3."""
    z = rotation @ (params - center)
    power = which[0] * z[0] ** 2 + which[1] * z[0] ** 3
    return (z[1] - slopes[0] * power) * (z[1] - slopes[1] * power)


@table("flat", 16)
def peano(seed: int, number: int) -> KnownPoint:
    """A saddle of order 2k; where ab > 0 a minimum along every straight line (Peano 1884)."""
    rng = draws(seed, number)
    k = 2 + number % 2
    first = rng.uniform(0.5, 1.5)
    second = first * (2.5, -1.0, 1.5)[number // 2 % 3]  # curves on the same side, on both sides, close
    center = np.zeros(2) if number < 8 else rng.standard_normal(2)
    data = (random_rotation(2, rng), center, np.array([first, second]), np.eye(2)[k - 2])
    why = f"negative between the curves y = {first:.2f}x^{k} and {second:.2f}x^{k}"
    facts = {"degenerate": True, "num_zero": 1, "why": why}
    return KnownPoint(f"peano_{number}", two_curves, center, "saddle", 0, data, **facts)


# s(‖x‖² − r²)²/4: the sphere ‖x‖ = r is critical with curvature 2sr² across it.
shell = of_data(lambda x, sign, radius: sign[0] * (jnp.sum(x**2) - radius[0] ** 2) ** 2 / 4.0)


@table("flat", product(range(3), (1, -1), (False, True)))
def shells(seed: int, number: int, sign: int, centre: bool) -> KnownPoint:
    """Valleys and ridges along circles and spheres in 2, 3 and 10 variables, and their centres."""
    rng, size = draws(seed, number, sign + 1, centre), (2, 3, 10)[number]
    radius = rng.uniform(0.5, 3.0)
    direction = rng.standard_normal(size)
    inward = -sign * radius**2
    name = f"shell_n{size}_{'valley' if sign > 0 else 'ridge'}{'_centre' * centre}"
    facts: dict[str, Any] = {"data": (np.array([float(sign)]), np.array([radius]))}
    facts["why"] = "the loss is s(‖x‖² − r²)²/4: zero on the sphere, of one sign elsewhere"
    if centre:
        facts |= {"index": size if sign > 0 else 0, "num_zero": 0, "eigenvalue_range": (inward, inward)}
        return KnownPoint(name, shell, np.zeros(size), extremum(-sign), **facts)
    facts |= {"index": 0 if sign > 0 else 1, "num_zero": size - 1, "degenerate": True, "isolated": False}
    return KnownPoint(name, shell, radius * direction / np.linalg.norm(direction), extremum(sign), **facts)


# ½‖UVᵀ − M‖², U of shape (m, k) and V of shape (n, k).
factorisation = of_data(lambda p, target: 0.5 * jnp.sum((p["U"] @ p["V"].T - target) ** 2))


@table("flat", 8)
def factorisations(seed: int, code: int) -> KnownPoint:
    """A 5 × 4 matrix of rank 3 in factors of width 3, at all eight sets of singular pairs.

    U = P_S√Σ_S R and V = Q_S√Σ_S R⁻ᵀ with the pairs in S fitted.  There is a negative eigenvalue for every
    pair left out that is paired with a free column; all of S is a global minimum, of dimension 9.
    """
    rng = draws(seed, 5, 4)
    left, right = random_rotation(5, rng)[:, :3], random_rotation(4, rng)[:, :3]
    values = np.array([3.0, 2.0, 1.0])
    mixes = [random_rotation(3, rng) @ np.diag(rng.uniform(0.7, 1.5, 3)) for _ in range(code + 1)]
    root = np.sqrt(values) * [bool(code >> i & 1) for i in range(3)]
    params = {"U": left * root @ mixes[-1], "V": right * root @ np.linalg.inv(mixes[-1]).T}
    facts: dict[str, Any] = {"label": "saddle", "why": "a singular pair is left out (Baldi & Hornik 1989)"}
    if code == 7:
        facts = {"label": "minimum", "index": 0, "degenerate": True, "num_zero": 9, "why": "zero loss"}
    target = left @ np.diag(values) @ right.T
    return KnownPoint(f"factorisation_{code}", factorisation, params, data=target, isolated=False, **facts)


# ½ Σ (tanh(Ax) − b)²: fewer equations than unknowns.
tanh_fit = of_data(lambda x, rows, target: 0.5 * jnp.sum((jnp.tanh(rows @ x) - target) ** 2))


@table("flat", 8)
def underdetermined(seed: int, number: int) -> KnownPoint:
    """Three and eight values fitted exactly with 6 and 20 unknowns."""
    rng, (m, n) = draws(seed, number, 77), ((3, 6), (8, 20))[number % 2]
    rows, params = rng.standard_normal((m, n)) / np.sqrt(n), rng.standard_normal(n)
    name, data = f"underdetermined_{m}_of_{n}_{number}", (rows, np.tanh(rows @ params))
    facts: dict[str, Any] = {"degenerate": True, "num_zero": n - m, "isolated": False}
    facts["why"] = "a sum of squares that is zero; J has rank m"
    return KnownPoint(name, tanh_fit, params, "minimum", 0, data, **facts)


@of_data
def power_sum(params: jax.Array, rotation: Any, center: Any, weights: Any) -> jax.Array:
    """Σ c₂z² + c₄z⁴ + c₆z⁶ at z = Q(x − centre), c of shape (n, 3)."""
    square = (rotation @ (params - center)) ** 2
    return jnp.sum(square * (weights[:, 0] + square * (weights[:, 1] + square * weights[:, 2])))


@table("flat", 24)
def power_sums(seed: int, number: int) -> KnownPoint:
    """A coordinate's lowest order with its sign decides how the function goes along it."""
    rng = draws(seed, number, 4)
    orders = rng.integers(0, 3, 4)
    orders[0] = 1 + number % 2  # one coordinate at least is flat
    common = (1.0, -1.0, 0.0)[number % 3]
    signs = np.full(4, common) if common else rng.choice([-1.0, 1.0], 4)
    weights = np.zeros((4, 3))
    weights[np.arange(4), orders] = signs * rng.uniform(0.5, 2.0, 4)
    center = rng.standard_normal(4) * rng.integers(0, 2)
    mixed = bool(np.any(signs > 0) and np.any(signs < 0))
    name, data = f"power_sum_{number}", (random_rotation(4, rng), center, weights)
    facts = {"label": "saddle" if mixed else extremum(signs[0]), "eigenvalue_range": None}
    facts["why"] = "separable: each coordinate's lowest even power has the sign " + str(signs.astype(int))
    return KnownPoint.from_curvature(name, power_sum, center, weights[:, 0], data, **facts)


# Fitted directions by widths.
NETWORKS: dict[tuple[int, ...], list[tuple[int, ...]]] = {
    (2, 2, 2, 2): [()],
    (4, 3, 3, 2): [(), (1,), (1, 2)],
    (2, 2, 2, 2, 2): [(), (1,), (1, 2)],
    (2, 2, 2, 2, 2, 2): [()],
    (6, 4, 3): [(1, 2, 3), (1, 3)],
}


@table("flat", [(copy, w, s) for copy in (1, 2) for w, subsets in NETWORKS.items() for s in subsets])
def networks(seed: int, copy: int, widths: tuple[int, ...], subset: tuple[int, ...]) -> KnownPoint:
    """Linear networks at all-zero weights and at other points that only higher order decides."""
    point = deep_linear_point(widths, subset, seed=10 * seed + copy)
    return changed(point, f"{point.name}_{copy}")
