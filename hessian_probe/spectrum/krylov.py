"""The host driver of the Lanczos step: a Krylov basis that grows by products with a symmetric map.

Each step multiplies the newest basis vector, orthogonalises the product against the basis (`lanczos.extend`)
and stores the components removed as a column of the projected matrix, in float64 on the host.  The projected
matrix is stored whole, so thick restarts and fresh vectors after a breakdown need no formulas of their own:
they only change which vectors the basis contains.

Source: "twice is enough": W. Kahan in B. N. Parlett, The Symmetric Eigenvalue Problem, 1980, §6.9; thick
restart: K. Wu and H. Simon, SIAM J. Matrix Anal. Appl. 22, 2000, doi:10.1137/S0895479898334605.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import eigh_tridiagonal

from hessian_probe.arrays import Basis, Vector, accumulator, combine, host_norm, norm, random_normal, scale
from hessian_probe.jobs.interrupt import uninterrupted
from hessian_probe.jobs.state import State
from hessian_probe.operators.symmetric import SymmetricOperator
from hessian_probe.spectrum.certificate import Certificate, KrylovRun
from hessian_probe.spectrum.lanczos import breakdown_length, cleared, empty, extend, resized, segment, zeros
from hessian_probe.spectrum.thresholds import (
    FRESH_DRAWS,
    FRESH_LENGTH,
    LOOKED_AT_EACH,
    LOOKED_AT_EVERY,
    LOOKED_AT_GROWTH,
)

# Not part of a saved state: the caller gives them again when the run is continued.
GIVEN = ("operator", "_rng", "_active")


def _root_sum_of_squares(errors: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Combine errors with the weights of each column; scaled first, so that no square underflows."""
    top = float(np.max(errors, initial=0.0))
    return top * np.sqrt(np.square(errors / top) @ np.square(weights)) if top > 0 else errors @ weights


class Ritz(NamedTuple):
    """Ritz pairs of a basis.

    Attributes:
        values: ascending, shape (m,).
        weights: by column, shape (m, m).
        residuals: estimates from above: what a remainder that was dropped left is never taken off.
        recent: the same without dropped remainders.
    """

    values: np.ndarray
    weights: np.ndarray
    residuals: np.ndarray
    recent: np.ndarray


class Krylov:
    """A growing Krylov basis of a symmetric operator.

    Args:
        operator: the map.
        start: first direction, any length; None draws a Gaussian one.
        rng: source of the start and of fresh vectors after a breakdown.
        max_basis: largest number of basis vectors.
        active: leaves to search in; None means all.

    Attributes:
        size: multiplied basis vectors, the columns of the projected matrix.
        steps: products made.
        ended_runs: certificate of each run from a random vector, at the breakdown or fresh vector that ended
            it.
        invariant: a breakdown has shown that the space is invariant.
        exhausted: the basis spans the whole (active) space.
        nonfinite: a product contained a NaN or an infinity; the basis before it is intact.
        first: the start vector and its product, once there is one.
        largest: largest ‖Hv‖ over the basis vectors, a lower estimate of ‖H‖.
        asymmetry: largest deviation of ⟨u, Hv⟩ from ⟨Hu, v⟩ seen between basis vectors.
    """

    def __init__(
        self,
        operator: SymmetricOperator,
        start: Vector | None,
        rng: np.random.Generator,
        max_basis: int,
        active: tuple[bool, ...] | None = None,
    ) -> None:
        self.operator = operator
        self._rng = rng
        self._active = active or (True,) * len(operator.layout.shapes)
        self.dimension = operator.search_dimension(self._active)
        self.max_basis = max(1, min(max_basis, self.dimension))
        self.eps = float(jnp.finfo(operator.dtype).eps)
        self.size = self.steps = 0
        self.invariant = self.exhausted = self.nonfinite = self.restarted = False
        self.asymmetry = self.largest = 0.0
        self.first: tuple[Vector, Vector] | None = None
        self._matrix = np.zeros((0, 0))
        self._tail = np.zeros(0)  # coupling of every basis vector to the next one
        self._kept = np.zeros(0)  # residual of every basis vector outside the basis and the next one
        self.ended_runs: tuple[Certificate, ...] = ()
        self._run = KrylovRun(0)
        if start is None or not 0 < float(norm(start)) < np.inf:
            start = self._draw()
        self.basis = empty(start, rows=segment(2))
        self._continue_from(start)

    def _draw(self) -> Vector:
        """Draw a random vector of the searched space."""
        return self.operator.project(random_normal(self._rng, self.operator.layout, self._active))

    def _continue_from(self, vector: Vector) -> float:
        """Make a vector orthogonal to the basis and its next one; return the length that was left."""
        self.basis, self._next, _, length = extend(self.basis, vector, zeros(vector), np.int32(self.size))
        return float(length)

    @property
    def settled(self) -> np.ndarray:
        """Ritz values, ascending, of the columns older than the last random vector."""
        return np.linalg.eigvalsh(self._matrix[: self._run.first, : self._run.first])

    @property
    def coupling(self) -> float:
        """Frobenius norm of the map's coupling of those columns to everything outside them."""
        return host_norm(self._kept[: self._run.first])

    @property
    def followed(self) -> bool:
        """Whether `certificate` proves anything: not after a restart during a run that is not the first."""
        return self._run.followed

    @property
    def full(self) -> bool:
        """Whether no vector can be added without a restart."""
        return self.exhausted or self.nonfinite or self.size >= self.max_basis

    @property
    def due(self) -> bool:
        """Whether to compute the Ritz values now: after every product at first, later after every third."""
        return self.full or self.size <= LOOKED_AT_EACH or self.size % LOOKED_AT_EVERY == 0

    @property
    def grown(self) -> bool:
        """Whether the basis grew by an eighth since this was true, and so what it shows may have changed."""
        return self.full or self.size % max(self.size // LOOKED_AT_GROWTH, 1) == 0

    def step(self) -> bool:
        """Multiply the newest vector; False if nothing could be added: full, exhausted or not finite."""
        if self.full:
            return False
        w = self.operator.apply(self._next)
        with uninterrupted():
            return self._add(w)

    def _add(self, w: Vector) -> bool:
        """Add the newest vector's product to the basis."""
        self.steps += 1
        if self.first is None:
            self.first = (self._next, w)
        index = self.size + 1
        if index >= self.basis[0].shape[0]:
            self.basis = resized(self.basis, segment(index + 1))
        self.basis, self._next, column, length = extend(self.basis, w, self._next, np.int32(index))
        coefficient, beta = np.asarray(column, np.float64)[:index], float(length)
        if not (np.all(np.isfinite(coefficient)) and np.isfinite(beta)):
            self.nonfinite = True
            self.basis = cleared(self.basis, np.int32(index))
            return False
        self._grow(coefficient)
        projected = self.operator.project(self._next)
        if projected is not self._next:  # rounding leaks into an excluded null space
            self.basis = cleared(self.basis, np.int32(index))
            beta *= self._continue_from(projected)
        self._settle(beta)
        return True

    def _grow(self, column: np.ndarray) -> None:
        size = len(column)
        matrix = np.pad(self._matrix, (0, 1))
        matrix[:, -1] = matrix[-1, :] = column
        if size > 1:
            self.asymmetry = max(self.asymmetry, float(np.max(np.abs(column[:-1] - self._tail))))
        self._matrix, self.size = matrix, size
        self._kept = np.append(self._kept, 0.0)
        self._tail = np.zeros(size)

    def _settle(self, beta: float) -> None:
        """Record the remainder; where it is rounding, continue from a fresh orthogonal vector."""
        self.largest = max(self.largest, host_norm(np.append(self._matrix[-1], beta)))
        self._tail[-1] = beta
        rounding = breakdown_length(self.eps, self.largest)
        self._run.add(beta + rounding)
        if self.size >= self.dimension:
            self.exhausted, self._tail[-1] = True, 0.0
        elif beta <= rounding:
            self.invariant = True
            self._refresh()

    def certificate(self) -> Certificate:
        """Bounds on eigenvalues outside the older vectors, from the run since the last random vector."""
        return self._run.certificate(self._matrix, self._tail)

    def _refresh(self) -> None:
        """Continue from a fresh random vector, orthogonal to the basis; the remainder is dropped."""
        self.ended_runs = (*self.ended_runs, self.certificate())
        self._run = KrylovRun(self.size)
        self._kept = np.hypot(self._kept, np.abs(self._tail))
        self._tail = np.zeros(self.size)
        for _ in range(FRESH_DRAWS):  # one is enough unless the remaining space is tiny
            draw = self._draw()
            self.basis = cleared(self.basis, np.int32(self.size))
            length = self._continue_from(scale(1 / norm(draw), draw))
            if length > FRESH_LENGTH * self.eps * np.sqrt(self.dimension):
                return
        self.exhausted = True

    def ritz(self) -> Ritz:
        """Ritz values with estimates of their residuals ‖Hy − θy‖."""
        if self.restarted or self.size < 3:
            values, weights = np.linalg.eigh(self._matrix)
        else:  # tridiagonal to rounding; by QR, since the vectors of faster drivers are less orthogonal
            diagonals = np.diag(self._matrix), np.diag(self._matrix, 1)
            values, weights = eigh_tridiagonal(*diagonals, lapack_driver="stev")
        kept = _root_sum_of_squares(self._kept, weights)
        recent = np.abs(self._tail @ weights)
        return Ritz(values, weights, np.hypot(recent, kept), recent)

    def extended(self) -> np.ndarray:
        """The projected matrix with its last row: H·V = [V, next]·extended, shape (size + 1, size)."""
        return np.vstack([self._matrix, self._tail[None, :]])

    def vectors(self, weights: np.ndarray) -> Basis:
        """Combinations of the basis vectors: `weights` of shape (size, k) gives a basis of k rows."""
        padded = np.pad(weights, [(0, self.basis[0].shape[0] - self.size), (0, 0)])
        return combine(self.basis, padded.astype(accumulator(self.basis)))

    @uninterrupted()
    def restart(self, chosen: np.ndarray, *, fresh: bool = False) -> None:
        """Thick restart: keep the Ritz pairs of these indices, ascending, and continue from the remainder.

        A `fresh` one continues from a random vector, to find copies of repeated eigenvalues, which one Krylov
        space cannot show.
        """
        ritz = self.ritz()
        weights = ritz.weights[:, chosen]
        vectors, remainder = self.vectors(weights), self._next
        self._run.restart(np.delete(ritz.values, chosen))
        self._matrix = np.diag(ritz.values[chosen])
        self._kept = _root_sum_of_squares(self._kept, weights)
        self._tail = self._tail @ weights
        self.size, self.restarted, self.exhausted = len(chosen), True, False
        self.basis = resized(vectors, segment(self.size + 1))
        if fresh or not np.any(self._tail):
            self._refresh()
        else:
            self._continue_from(remainder)

    def state(self) -> State:
        """Return everything from which the run can be continued to the same answer, bit for bit."""
        values = {name: value for name, value in vars(self).items() if name not in GIVEN}
        used = tuple(b[: self.size + 1] for b in self.basis)
        return {**values, "_run": vars(self._run), "basis": used, "rows": len(self.basis[0])}

    def restore(self, state: State) -> None:
        """Continue from what `state` returned, of a run with the same operator."""
        on_device = {name: jax.tree.map(jnp.asarray, state[name]) for name in ("basis", "_next", "first")}
        values = {name: value for name, value in state.items() if name not in ("rows", "_run")}
        vars(self).update(values | on_device)
        vars(self._run).update(state["_run"])
        self.ended_runs = tuple(Certificate(*run) for run in state["ended_runs"])
        # The same storage as before: another size would sum in another order.
        self.basis = resized(self.basis, state["rows"])
