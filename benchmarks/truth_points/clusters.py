"""Lennard-Jones clusters: minima and transition states with six zero modes from rigid motion."""

from __future__ import annotations

import csv
from importlib import resources

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.problems.known_point import KnownPoint


def lennard_jones(positions: jax.Array) -> jax.Array:
    """Evaluate 4 Σ (r⁻¹² − r⁻⁶) over all pairs of atoms.

    Args:
        positions: Shape (atoms, 3), in units of the pair potential's σ.

    Returns:
        Energy in units of the pair potential's depth, a scalar; infinite where atoms coincide.

    Source: Jones, "On the determination of molecular fields II" (Proc. R. Soc. A 106, 1924),
        doi:10.1098/rspa.1924.0082.
    """
    first, second = np.triu_indices(positions.shape[0], k=1)
    squared = jnp.sum((positions[first] - positions[second]) ** 2, axis=-1)
    attraction = squared**-3
    return 4.0 * jnp.sum(attraction**2 - attraction)


def cluster_points(num_atoms: int | None = None) -> list[KnownPoint]:
    """Load the minima and transition states of small Lennard-Jones clusters.

    ``benchmarks/make_problem_data.py lennard_jones`` found and polished them: with 5 atoms 1
    minimum and 2 transition states, with 6 atoms 2 and 3, with 7 atoms 4 and 12, permutations and
    mirror images not counted.

    Args:
        num_atoms: 5, 6 or 7; None for all.

    Returns:
        Points with ``params`` of shape (atoms, 3), lowest energy first. Translations and rotations
        are six zero modes, so the minima are not isolated and second order alone does not prove
        them.

    Source: Doye & Wales, "Saddle points and dynamics of Lennard-Jones clusters, solids, and
        supercooled liquids" (J. Chem. Phys. 116, 2002), doi:10.1063/1.1436470, count the
        stationary points of small clusters of every index.
    """
    table = resources.files("benchmarks.truth_points").joinpath("data", "lennard_jones.csv")
    clusters: dict[str, list[dict[str, str]]] = {}
    for row in csv.DictReader(table.read_text(encoding="utf-8").splitlines()):
        clusters.setdefault(row["point"], []).append(row)
    points = []
    for name, atoms in clusters.items():
        if num_atoms not in (None, len(atoms)):
            continue
        index = int(atoms[0]["index"])
        points.append(
            KnownPoint(
                name=name,
                kind="cluster",
                loss=lennard_jones,
                params=np.array([[float(atom[axis]) for axis in "xyz"] for atom in atoms]),
                label="saddle" if index else "minimum",
                index=index,
                degenerate=index == 0,
                num_zero=6,
                isolated=False,
                eigenvalue_range=(float(atoms[0]["lambda_min"]), float(atoms[0]["lambda_max"])),
                why=f"energy {float(atoms[0]['energy']):.6f}; dense eigenvalues, six of them zero",
            )
        )
    return points
