"""Regenerate the tables under ``benchmarks/data`` that truth points are read from.

    python -m benchmarks.make_problem_data closed_form
    python -m benchmarks.make_problem_data lennard_jones

``closed_form`` polishes the tabulated points of functions of two variables by Newton's method in
float64 and writes value, index and eigenvalues anew; after adding a row with a name and rough
coordinates, run it. ``lennard_jones`` searches for minima and transition states of clusters of 5,
6 and 7 atoms (about a minute).
"""

from __future__ import annotations

import csv
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.truth_points.plane import PLANE, lennard_jones
from benchmarks.truth_points.table import DATA


def closed_form() -> list[dict[str, Any]]:
    """Polish the table of functions of two variables."""
    rows = []
    for row in csv.DictReader((DATA / "closed_form.csv").read_text("utf-8").splitlines()):
        loss = PLANE[row["function"]]
        gradient, hessian = jax.jit(jax.grad(loss)), jax.jit(jax.hessian(loss))
        point = np.array([float(row["x"]), float(row["y"])])
        best, best_norm = point, np.inf
        for _ in range(8):
            point = np.where(np.abs(point) < 1e-12, 0.0, point)  # no table entry is this small
            g = np.asarray(gradient(jnp.asarray(point)))
            if np.linalg.norm(g) < best_norm:
                best, best_norm = point, float(np.linalg.norm(g))
            point = point - np.linalg.solve(np.asarray(hessian(jnp.asarray(point))), g)
        ends = np.linalg.eigvalsh(np.asarray(hessian(jnp.asarray(best))))
        index = int(np.sum(ends < 0.0))
        row |= {"x": repr(float(best[0])), "y": repr(float(best[1]))}
        row |= {"f": f"{float(loss(jnp.asarray(best))):.12g}"}
        row |= {"label": ("minimum", "saddle", "maximum")[index], "index": index}
        rows.append(row | {"lambda_min": f"{ends[0]:.10g}", "lambda_max": f"{ends[1]:.10g}"})
    return rows


def energy(flat: jax.Array) -> jax.Array:
    """Evaluate the Lennard-Jones energy of flattened positions."""
    return lennard_jones(flat.reshape(-1, 3))


def follow(flat: jax.Array, index: int, steps: int) -> jax.Array:
    """Walk uphill along the lowest ``index`` vibrations and downhill along all others.

    Each step is Newton's on |H| with rigid motions taken out, no longer than 0.1.
    """

    def step(_: int, x: jax.Array) -> jax.Array:
        g, h = jax.grad(energy)(x), jax.hessian(energy)(x)
        positions = x.reshape(-1, 3)
        moves = [jnp.broadcast_to(axis, positions.shape) for axis in jnp.eye(3)]
        moves += [jnp.cross(axis, positions - jnp.mean(positions, axis=0)) for axis in jnp.eye(3)]
        rigid = jnp.linalg.qr(jnp.stack([move.ravel() for move in moves], axis=1))[0]
        inside = jnp.eye(x.size) - rigid @ rigid.T
        # Rigid modes go to the upper end, where the gradient has no part in them.
        values, vectors = jnp.linalg.eigh(inside @ h @ inside + 1e5 * rigid @ rigid.T)
        uphill = jnp.where(jnp.arange(x.size) < index, -1.0, 1.0)
        move = -vectors @ (uphill * (vectors.T @ g) / jnp.maximum(jnp.abs(values), 1e-3))
        length = jnp.linalg.norm(move)
        return x + move * jnp.minimum(1.0, 0.1 / jnp.maximum(length, 1e-300))

    return jax.lax.fori_loop(0, steps, step, flat)


def search(starts: np.ndarray, index: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Find bound critical points of one index; keep one of each energy."""
    walk = jax.jit(jax.vmap(lambda x: follow(x, index, 150)))
    derivatives = jax.jit(jax.vmap(lambda x: (energy(x), jax.grad(energy)(x), jax.hessian(energy)(x))))
    ends = np.asarray(walk(jnp.asarray(starts)))
    found = {}
    for x, e, g, h in zip(ends, *map(np.asarray, derivatives(jnp.asarray(ends))), strict=True):
        if not np.isfinite(e) or np.linalg.norm(g) > 1e-11 * np.abs(h).max():
            continue
        values = np.linalg.eigvalsh(h)
        flat = np.abs(values) < 1e-9 * values[-1]
        positions = x.reshape(-1, 3)
        far = np.linalg.norm(positions[:, None] - positions[None], axis=-1).max() > 4.0
        if flat.sum() == 6 and np.sum(values[~flat] < 0.0) == index and not far:
            found.setdefault(f"{e:.6f}", (positions - positions.mean(0), values[~flat]))
    return found


def clusters() -> list[dict[str, Any]]:
    """Search for minima and transition states."""
    rows = []
    for atoms in (5, 6, 7):
        rng = np.random.default_rng([1924, atoms])
        minima = search(rng.uniform(-1.0, 1.0, (300, 3 * atoms)), 0)
        near = np.stack([positions.ravel() for positions, _ in minima.values()])
        starts = near[rng.integers(len(near), size=2400)]
        starts = starts + rng.uniform(0.2, 0.8, (2400, 1)) * rng.standard_normal(starts.shape)
        for index, kind, found in ((0, "minimum", minima), (1, "saddle", search(starts, 1))):
            print(atoms, kind, sorted(map(float, found)))
            for number, name in enumerate(sorted(found, key=float), 1):
                positions, values = found[name]
                row = {"point": f"lj{atoms}_{kind}_{number}", "index": index, "energy": name}
                row |= {"lambda_min": f"{min(values[0], 0.0):.8g}", "lambda_max": f"{values[-1]:.10g}"}
                rows += [row | dict(zip("xyz", map(repr, p.tolist()), strict=True)) for p in positions]
    return rows


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    table = {"closed_form": closed_form, "lennard_jones": clusters}[sys.argv[1]]()
    with (DATA / f"{sys.argv[1]}.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
