"""Regenerate the tables under ``hessian_probe/data`` that problems are loaded from.

    python benchmarks/make_problem_data.py closed_form

polishes the tabulated points of functions of two variables by Newton's method in float64 and
writes value, index and eigenvalues anew. Run it after adding a row: name and rough coordinates
are enough.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.problems import PLANE_FUNCTIONS

DATA = Path(__file__).parents[1] / "hessian_probe" / "data"
COLUMNS = ("function", "x", "y", "f", "label", "index", "lambda_min", "lambda_max")


def closed_form() -> None:
    """Polish the table of functions of two variables."""
    path = DATA / "closed_form.csv"
    rows = []
    for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines()):
        loss = PLANE_FUNCTIONS[row["function"]]
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
        rows.append(
            {
                "function": row["function"],
                "x": repr(float(best[0])),
                "y": repr(float(best[1])),
                "f": f"{float(loss(jnp.asarray(best))):.12g}",
                "label": ("minimum", "saddle", "maximum")[index],
                "index": index,
                "lambda_min": f"{ends[0]:.10g}",
                "lambda_max": f"{ends[1]:.10g}",
            }
        )
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    with jax.enable_x64(True):
        {"closed_form": closed_form}[sys.argv[1]]()
