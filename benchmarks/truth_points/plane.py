"""Functions of one to six variables whose critical points are known in closed form or tabulated.

``data/closed_form.csv`` holds points of ``PLANE``: coordinates, value, label, index and extreme Hessian
eigenvalues, polished in float64.  A complete list lets a search be checked for what it missed.
"""

import csv
import math
from collections import Counter
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.truth_points.table import DATA, draws, table
from hessian_probe.problems import KnownPoint


def of(function: Callable[..., jax.Array], size: int) -> Callable[[jax.Array], jax.Array]:
    """Make a function of coordinates a function of one array."""
    return lambda p: function(*(p[i] for i in range(size)))


# Amplitude, a, b, c, X, Y of the four Gaussians of Müller & Brown (1979), table I.
GAUSSIANS = (
    (-200.0, -1.0, 0.0, -10.0, 1.0, 0.0),
    (-100.0, -1.0, 0.0, -10.0, 0.0, 0.5),
    (-170.0, -6.5, 11.0, -6.5, -0.5, 1.5),
    (15.0, 0.7, 0.6, 0.7, -1.0, 1.0),
)


def muller_brown(x: jax.Array, y: jax.Array) -> jax.Array:
    """Σ A exp(a dx² + b dx dy + c dy²); Müller & Brown (1979), doi:10.1007/BF00547608."""
    total = 0.0 * x
    for amplitude, a, b, c, x0, y0 in GAUSSIANS:
        dx, dy = x - x0, y - y0
        total = total + amplitude * jnp.exp(a * dx**2 + b * dx * dy + c * dy**2)
    return total


def branin(x: jax.Array, y: jax.Array) -> jax.Array:
    """All critical points are x = kπ, y = bx² − cx + 6: minima for odd k, saddles for even k."""
    b, c, t = 5.1 / (4.0 * math.pi**2), 5.0 / math.pi, 1.0 / (8.0 * math.pi)
    return (y - b * x**2 + c * x - 6.0) ** 2 + 10.0 * (1.0 - t) * jnp.cos(x) + 10.0


def dixon_price(p: jax.Array) -> jax.Array:
    """(x₁ − 1)² + Σᵢ i(2xᵢ² − xᵢ₋₁)², i = 2 … n; Dixon & Price (J. Optim. Theory Appl. 60, 1989)."""
    total = (p[0] - 1.0) ** 2
    for i in range(1, p.shape[0]):
        total = total + (i + 1.0) * (2.0 * p[i] ** 2 - p[i - 1]) ** 2
    return total


def styblinski_tang(p: jax.Array) -> jax.Array:
    """Σᵢ (xᵢ⁴ − 16xᵢ² + 5xᵢ)/2; Styblinski & Tang (1990), doi:10.1016/0893-6080(90)90029-K."""
    return jnp.sum(p**4 - 16.0 * p**2 + 5.0 * p) / 2.0


# Lists of points are complete, but for branin (k = −1 … 3), muller_brown (in [−3, 2] × [−2, 3]) and beale
# (in [−4.5, 4.5]², not known to be complete).
PLANE: dict[str, Callable[[jax.Array], jax.Array]] = {
    "himmelblau": of(lambda x, y: (x**2 + y - 11.0) ** 2 + (x + y**2 - 7.0) ** 2, 2),
    "six_hump_camel": of(
        lambda x, y: (4.0 - 2.1 * x**2 + x**4 / 3.0) * x**2 + x * y + (-4.0 + 4.0 * y**2) * y**2, 2
    ),
    "muller_brown": of(muller_brown, 2),
    "branin": of(branin, 2),
    "handkerchief": of(lambda x, y: x**3 / 3.0 + x * y**2 + 2.0 * (x**2 - y**2), 2),
    "beale": of(
        lambda x, y: (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2, 2
    ),
    "two_minima_no_saddle": of(lambda x, y: (x**2 * y - x - 1.0) ** 2 + (x**2 - 1.0) ** 2, 2),
    "only_critical_point_in_town": of(lambda x, y: x**2 * (1.0 + y) ** 3 + y**2, 2),
    "only_critical_point_max": of(lambda x, y: 3.0 * x * jnp.exp(y) - x**3 - jnp.exp(3.0 * y), 2),
    "aluffi_pentini": of(lambda x, y: x**4 / 4.0 - x**2 / 2.0 + x / 10.0 + y**2 / 2.0, 2),
    "cbm": of(lambda x, y: x**4 + 4.0 * x**2 * y**2 - 2.0 * x**2 + 2.0 * y**2, 2),
    "dixon_price2": dixon_price,
    "styblinski_tang2": styblinski_tang,
}


@table("plane", [()])
def plane(_: int) -> list[KnownPoint]:
    """The table of functions of two variables."""
    points, count = [], Counter[str]()
    for row in csv.DictReader((DATA / "closed_form.csv").read_text("utf-8").splitlines()):
        count[row["function"]] += 1
        name, loss = f"{row['function']}_{count[row['function']]}", PLANE[row["function"]]
        at, ends = ([float(row[key]) for key in keys] for keys in (("x", "y"), ("lambda_min", "lambda_max")))
        why = "no Hessian eigenvalue is zero; dense eigenvalues in closed_form.csv"
        points.append(KnownPoint.from_curvature(name, loss, np.array(at), tuple(ends), why=why))
    return points


def lennard_jones(positions: jax.Array) -> jax.Array:
    """4 Σ (r⁻¹² − r⁻⁶) over all pairs of atoms, at (atoms, 3); Jones (1924), doi:10.1098/rspa.1924.0082."""
    first, second = np.triu_indices(positions.shape[0], k=1)
    squared = jnp.sum((positions[first] - positions[second]) ** 2, axis=-1)
    attraction = squared**-3
    return 4.0 * jnp.sum(attraction**2 - attraction)


@table("cluster", [()])
def clusters(_: int) -> list[KnownPoint]:
    """Minima and transition states of 5, 6 and 7 atoms; rigid motions are six zero modes.

    Found by a search and polished (``make_problem_data lennard_jones``, commit 861beb0).  Doye & Wales (J.
    Chem. Phys. 116, 2002), doi:10.1063/1.1436470, count stationary points of every index.
    """
    atoms: dict[str, list[dict[str, str]]] = {}
    for row in csv.DictReader((DATA / "lennard_jones.csv").read_text("utf-8").splitlines()):
        atoms.setdefault(row["point"], []).append(row)
    points = []
    for name, found in atoms.items():
        index, energy, low, high = (
            float(found[0][k]) for k in ("index", "energy", "lambda_min", "lambda_max")
        )
        at = np.array([[float(atom[axis]) for axis in "xyz"] for atom in found])
        facts = {"degenerate": index == 0, "num_zero": 6, "isolated": False, "eigenvalue_range": (low, high)}
        facts["why"] = f"energy {energy:.6f}; dense eigenvalues, six of them zero"
        label = "saddle" if index else "minimum"
        points.append(KnownPoint(name, lennard_jones, at, label, int(index), **facts))
    return points


@table("styblinski_tang", [(2, range(3)), (10, range(11)), (30, (0, 1, 2, 15, 29, 30))])
def styblinski_tang_points(seed: int, n: int, indices: Iterable[int]) -> list[KnownPoint]:
    """One point of each index: as many coordinates sit at the middle root, where curvature is negative."""
    rng, points, roots = draws(seed, n), [], np.sort(np.roots([4.0, 0.0, -32.0, 5.0]).real)
    for _ in range(3):  # by Newton to the last bit: the roots of 4z³ − 32z + 5 are simple
        roots = roots - (4.0 * roots**3 - 32.0 * roots + 5.0) / (12.0 * roots**2 - 32.0)
    for k in indices:
        which = np.concatenate([np.ones(k, int), rng.choice([0, 2], size=n - k)])
        at = roots[rng.permutation(which)]
        name, curvature = f"styblinski_tang_n{n}_index{k}", 6.0 * at**2 - 16.0
        why = "separable: each coordinate is a root of 4z^3 - 32z + 5, curvature 6z^2 - 16"
        points.append(KnownPoint.from_curvature(name, styblinski_tang, at, curvature, why=why))
    return points
