"""Polish ``data/closed_form.csv``: ``python -m benchmarks.make_problem_data``.

After adding a row with a function's name and rough coordinates, run it: Newton's method in float64 finds the
point, and value, label, index and eigenvalues are written anew.
"""

from __future__ import annotations

import csv
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.truth_points.plane import PLANE
from benchmarks.truth_points.table import DATA


def polished() -> list[dict[str, Any]]:
    """Rows of the table, each at its critical point."""
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


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    table = polished()
    with (DATA / "closed_form.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
