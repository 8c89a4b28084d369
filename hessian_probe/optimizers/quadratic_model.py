"""What steps of given rate and momentum do to a quadratic, as far as the gradient sees its spectrum.

In coordinates scaled by the optimiser's own steps the loss is g·d + d·Hd/2.  A Lanczos run that starts
from g gives nodes θ and weights γ² with which every polynomial in H between two g's of up to twice its
degree is exact (Gauss quadrature), so that the loss after few steps is known from few products.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hessian_probe.arrays import Vector, norm
from hessian_probe.operators.hessian import HessianOperator
from hessian_probe.spectrum.krylov import Krylov


class Seen(NamedTuple):
    """The spectrum as the gradient sees it.

    Attributes:
        nodes: curvatures θ, shape (k,).
        parts: the gradient's component at each, shape (k,).
    """

    nodes: np.ndarray
    parts: np.ndarray

    def change(self, memory: Memory, factor: float, steps: int) -> float:
        """Change of the quadratic after some steps from rest.

        Negative curvature is taken as none: there the quadratic has no floor, and the loss may have one.

        Args:
            memory: how a step depends on this and earlier gradients.
            factor: multiplies every step.
            steps: number of steps.

        Returns:
            Loss there − loss here, in units of the loss; infinite where it overflows.
        """
        nodes = np.maximum(self.nodes, 0.0)
        moved, late = np.zeros_like(nodes), np.zeros_like(nodes)
        with np.errstate(over="ignore", invalid="ignore"):
            for _ in range(steps):
                gradient = self.parts + nodes * moved
                moved = moved - factor * (memory.now * gradient + late)
                late = memory.ratio * late + memory.next * gradient
            value = float(np.sum(self.parts * moved + 0.5 * nodes * moved**2))
        return value if np.isfinite(value) else float("inf")


class Memory(NamedTuple):
    """A step is −(now·g₀ + next·Σ ratioᵏ⁻¹g₋ₖ)."""

    now: float
    next: float
    ratio: float


def heavy_ball(momentum: float) -> Memory:
    """Memory of steps v ← βv + g, x ← x − v."""
    return Memory(1.0, momentum, momentum)


def seen_by_gradient(op: HessianOperator, gradient: Vector, num_products: int) -> Seen:
    """Lanczos from the gradient.

    Args:
        op: the Hessian in scaled coordinates.
        gradient: the gradient in them.
        num_products: products at most.

    Returns:
        Nodes and parts; none where the gradient is zero.

    Cost:
        num_products products and vectors of memory, fewer where the Krylov space ends.

    Source:
        G. Golub and G. Meurant, Matrices, Moments and Quadrature, 2010, chapter 6.
    """
    size = float(norm(gradient))
    if not size > 0:
        return Seen(np.zeros(0), np.zeros(0))
    krylov = Krylov(op, gradient, np.random.default_rng(0), num_products)
    while not (krylov.full or krylov.invariant):
        krylov.step()
    ritz = krylov.ritz()
    return Seen(ritz.values, size * ritz.weights[0])
