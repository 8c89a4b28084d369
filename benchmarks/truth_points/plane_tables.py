"""The tabulated critical points of ``plane``'s functions, and all indices of Styblinski and Tang's."""

from __future__ import annotations

import csv
from importlib import resources

import numpy as np

from benchmarks.truth_points.plane import PLANE_FUNCTIONS, styblinski_tang
from hessian_probe.problems.known_point import KnownPoint


def closed_form_points(function: str | None = None) -> list[KnownPoint]:
    """Load the tabulated critical points of the functions of two variables.

    Args:
        function: A key of ``PLANE_FUNCTIONS``; None for all.

    Returns:
        Non-degenerate critical points, in the order of the table.

    Raises:
        ValueError: If no function has that name.
    """
    if function is not None and function not in PLANE_FUNCTIONS:
        names = ", ".join(PLANE_FUNCTIONS)
        raise ValueError(f"no plane function is called {function!r}; there are {names}")
    table = resources.files("benchmarks.truth_points").joinpath("data", "closed_form.csv")
    points: list[KnownPoint] = []
    count: dict[str, int] = {}
    for row in csv.DictReader(table.read_text(encoding="utf-8").splitlines()):
        name = row["function"]
        count[name] = count.get(name, 0) + 1
        if function is not None and name != function:
            continue
        points.append(
            KnownPoint(
                name=f"{name}_{count[name]}",
                kind="plane",
                loss=PLANE_FUNCTIONS[name],
                params=np.array([float(row["x"]), float(row["y"])]),
                label=row["label"],
                index=int(row["index"]),
                num_zero=0,
                eigenvalue_range=(float(row["lambda_min"]), float(row["lambda_max"])),
                why="no Hessian eigenvalue is zero; dense eigenvalues in closed_form.csv",
            )
        )
    return points


def styblinski_tang_points(n: int, *, indices: list[int] | None = None, seed: int = 0) -> list[KnownPoint]:
    """Build one critical point of the Styblinski–Tang function for each index asked for.

    Each coordinate sits at one of the three roots of 4z³ − 32z + 5; the curvature there is
    6z² − 16, negative at the middle root alone, so the index is the number of coordinates there.

    Args:
        n: Number of variables.
        indices: Indices wanted, each in 0 … n; None for all of them.
        seed: Draws which coordinates sit where.

    Returns:
        One point per index, in order.

    Raises:
        ValueError: If n is not positive or an index is outside 0 … n.
    """
    wanted = list(range(n + 1)) if indices is None else indices
    if n < 1 or any(not 0 <= k <= n for k in wanted):
        raise ValueError(f"expected n >= 1 and indices in 0 ... n, got n = {n}, indices {wanted}")
    roots = np.sort(np.roots([4.0, 0.0, -32.0, 5.0]).real)
    for _ in range(3):  # Newton, to the last bit: the roots are simple
        roots = roots - (4.0 * roots**3 - 32.0 * roots + 5.0) / (12.0 * roots**2 - 32.0)
    rng = np.random.default_rng([seed, n])
    points = []
    for k in wanted:
        which = np.concatenate([np.ones(k, int), rng.choice([0, 2], size=n - k)])
        params = roots[rng.permutation(which)]
        curvature = 6.0 * params**2 - 16.0
        points.append(
            KnownPoint(
                name=f"styblinski_tang_n{n}_index{k}",
                kind="styblinski_tang",
                loss=styblinski_tang,
                params=params,
                label="minimum" if k == 0 else "maximum" if k == n else "saddle",
                index=k,
                num_zero=0,
                eigenvalue_range=(float(curvature.min()), float(curvature.max())),
                why="separable: each coordinate is a root of 4z^3 - 32z + 5, curvature 6z^2 - 16",
            )
        )
    return points
