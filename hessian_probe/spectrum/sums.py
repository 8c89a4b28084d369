"""Sums of a spectrum from random products: trace and Frobenius norm, with standard errors.

Let ω have independent random signs.  ωᵀAω has mean tr A and variance 2(‖A‖_F² − Σ aᵢᵢ²) (Hutchinson),
and ‖Aω‖² has mean ‖A‖_F².

Where the spectrum decays, the images y_i = Aω_i of k vectors span most of it.  With P_i the projector onto
the images of all vectors but the i-th,

    X_i = tr P_i A P_i + ω_iᵀ(I − P_i) A (I − P_i)ω_i,     F_i = ‖A P_i‖_F² + ‖A (I − P_i)ω_i‖²

have the same means (XTrace), and every vector both spans and samples.  All are read from k by k matrices.
Hutch++, which splits the vectors into those that span and those that sample, has a larger error for the same
products, so it is not tried.

The samples X_i are not independent.  Where X_i = Σ_j h(ω_i, ω_j) with h of mean zero given either vector, any
two share one term, and their mean has twice the variance that independence would give it (SHARED_ERROR).

Source: M. F. Hutchinson, Commun. Stat. Simul. Comput. 18, 1989; E. N. Epperly, J. A. Tropp and R. J. Webber,
XTrace, SIAM J. Matrix Anal. Appl. 45, 2024, §2, arXiv:2301.07825.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import solve_triangular

from hessian_probe.arrays import (
    Basis,
    Float,
    Vector,
    coefficients,
    dot,
    flatten_rows,
    generator,
    norm,
    unflatten_rows,
)
from hessian_probe.operators import memory
from hessian_probe.operators.symmetric import SymmetricOperator, require_operator
from hessian_probe.operators.thresholds import DENSE_BLOCK
from hessian_probe.results import number
from hessian_probe.spectrum.lanczos import cleared, extend, resized, segment, zeros
from hessian_probe.spectrum.result import SpectralSum
from hessian_probe.spectrum.thresholds import (
    BUDGET,
    CHECKED_EVERY,
    DEPENDENT,
    PILOT,
    SHARED_ERROR,
)


def trace(
    op: SymmetricOperator,
    *,
    rtol: float = 1e-2,
    max_hvps: int | None = None,
    key: jax.Array | None = None,
    progress: Callable[[str], None] | None = None,
) -> SpectralSum:
    """Estimate the trace, the sum of all eigenvalues, with its standard error.

    The first 20 products show whether XTrace or Hutchinson's estimator has the smaller error for the
    products spent; that one goes on.  Where n products are no more than that needs, the trace is computed.

    Args:
        op: an operator of this package.
        rtol: it stops when the standard error is at most rtol times the larger of |trace| and ‖A‖_F.
        max_hvps: products allowed; None means 1000.
        key: random key of the vectors; None means `jax.random.key(0)`.
        progress: called with a line of text every few products.

    Returns:
        SpectralSum: value, standard_error (loss / params² for a Hessian), num_hvps, method, status.

    Raises:
        TypeError: `op` is no operator.
        ValueError: rtol is not positive; max_hvps is below 4 and below n.

    Cost:
        2(‖A‖_F / (rtol·tr A))² products where the spectrum is flat; about twice the number of eigenvalues
        that stand out where it decays, with three vectors of memory for two products.

    Source:
        E. N. Epperly, J. A. Tropp and R. J. Webber, SIAM J. Matrix Anal. Appl. 45, 2024, arXiv:2301.07825;
        M. F. Hutchinson, Commun. Stat. Simul. Comput. 18, 1989, doi:10.1080/03610918908812806.

    Examples:
        >>> import hessian_probe as hp
        >>> op = hp.hessian(lambda x: jnp.sum(x**3), jnp.array([1.0, 2.0]))
        >>> t = hp.trace(op)
        >>> t.value, t.num_hvps, t.method
        (18.0, 2, 'exact')
    """
    return _Sum(op, "trace", rtol, max_hvps, key, progress).run()


def frobenius_norm(
    op: SymmetricOperator,
    *,
    rtol: float = 1e-2,
    max_hvps: int | None = None,
    key: jax.Array | None = None,
    progress: Callable[[str], None] | None = None,
) -> SpectralSum:
    """Estimate the Frobenius norm, the root of the sum of all squared eigenvalues, with its standard error.

    Args:
        op: an operator of this package.
        rtol: it stops when the standard error is at most this share of the norm.
        max_hvps: products allowed; None means 1000.
        key: random key of the vectors; None means `jax.random.key(0)`.
        progress: called with a line of text every few products.

    Returns:
        SpectralSum: value, standard_error (loss / params² for a Hessian), num_hvps, method, status.

    Raises:
        TypeError: `op` is no operator.
        ValueError: rtol is not positive; max_hvps is below 4 and below n.

    Cost:
        As for `hp.trace`.

    Source:
        As for `hp.trace`; the projected samples are those of the module's docstring.

    Examples:
        >>> import hessian_probe as hp
        >>> hp.frobenius_norm(hp.hessian(lambda x: x[0] ** 2 * 1.5 + 2 * x[1] ** 2, jnp.ones(2))).value
        5.0
    """
    return _Sum(op, "frobenius_norm", rtol, max_hvps, key, progress).run()


def exact_diagonal(op: SymmetricOperator) -> Float[np.ndarray, " n"]:
    """Compute the diagonal by n products, float64."""
    found, n = np.zeros(op.size), op.size
    for start in range(0, n, DENSE_BLOCK):
        units = np.eye(min(DENSE_BLOCK, n - start), n, start)
        rows = flatten_rows(op.apply_rows(unflatten_rows(op.layout, units)))
        found[start : start + len(units)] = rows[np.arange(len(units)), start + np.arange(len(units))]
    return found


class _Sampled(NamedTuple):
    value: float
    error: float
    samples: int


class _Sum:
    """One estimate of a trace or a Frobenius norm; Q, R and the images of Q are those of the module."""

    def __init__(
        self, op: Any, kind: str, rtol: float, max_hvps: int | None, key: Any, progress: Any
    ) -> None:
        self.budget = checked_budget(op, rtol, max_hvps)
        self.op, self.kind, self.rtol, self.progress = op, kind, rtol, progress
        self.seed, self.before = seed_of(key), op.num_hvps
        self.quadratic: list[float] = []  # ωᵀAω
        self.squares: list[float] = []  # ‖Aω‖²
        empty = tuple(
            jnp.zeros((segment(PILOT), *shape), d) for shape, d in zip(*leaf_shapes(op), strict=True)
        )
        self.signs, self.basis, self.images = (jax.tree.map(jnp.copy, empty) for _ in range(3))
        self.rank_deficient = False
        # R, QᵀΩ, QᵀAQ and (AQ)ᵀAQ.
        self.r, self.w, self.h, self.g = (np.zeros((0, 0)) for _ in range(4))

    @property
    def spent(self) -> int:
        return self.op.num_hvps - self.before

    def run(self) -> SpectralSum:
        """Estimate until the asked accuracy, the budget or n products are reached."""
        status, method, evidence = "max_hvps", "hutchinson", ""
        try:
            if self.op.size <= min(self.budget, 2 * PILOT):
                return self._exact()
            for _ in range(min(PILOT, self.budget // 2)):
                self._add(spanning=True)
            method, evidence = self._chosen()
            cost, checked = (2 if method == "xtrace" else 1), 0.0
            while True:
                if len(self.quadratic) >= checked:
                    found = self._estimate(method)
                    goal = self.rtol * self._scale(found)
                    self._report(found)
                    if not math.isfinite(found.error):
                        status = "nonfinite"
                        break
                    if found.error <= goal:
                        status = "converged"
                        break
                    left = (found.error / goal) ** 2 * found.samples - found.samples if goal > 0 else math.inf
                    slow = method == "hutchinson" and left >= self.op.size
                    if slow and self.budget - self.spent >= self.op.size:
                        return self._exact()
                    checked = CHECKED_EVERY * len(self.quadratic)
                if self.spent + cost > self.budget or not self._room(method):
                    break
                self._add(spanning=method == "xtrace")
        except KeyboardInterrupt:
            status = "interrupted"
        found = self._estimate(method) if len(self.quadratic) > 1 else _Sampled(math.nan, math.inf, 1)
        return self._result(found, status, method, (evidence,) if evidence else ())

    def _exact(self) -> SpectralSum:
        """Compute the sum by n products."""
        if self.kind == "trace":
            value = float(np.sum(exact_diagonal(self.op)))
        else:
            value = float(np.linalg.norm(self.op.dense()))
        status = "converged" if math.isfinite(value) else "nonfinite"
        error = self.op.eps * math.sqrt(self.op.size) * abs(value)
        return self._result(_Sampled(value, error, self.op.size), status, "exact", ())

    def _room(self, method: str) -> bool:
        """Whether three more vectors fit into the memory that a basis may take."""
        fits = memory.vectors_that_fit(self.op.layout.vector_bytes)
        return method != "xtrace" or 3 * segment(len(self.quadratic) + 1) <= fits

    def _add(self, *, spanning: bool) -> None:
        """Multiply another random vector; a spanning one joins the basis, for one more product."""
        op, index = self.op, len(self.quadratic)
        signs = random_signs(op, self.seed, index)
        image = op.apply(signs)
        length = float(norm(image))
        if spanning:
            self._span(index, signs, image, length)
        self.quadratic.append(float(dot(signs, image)))
        self.squares.append(length**2)

    def _span(self, index: int, signs: Vector, image: Vector, length: float) -> None:
        op = self.op
        if index >= len(self.basis[0]):
            rows = segment(index + 1)
            self.signs, self.basis, self.images = (
                resized(b, rows) for b in (self.signs, self.basis, self.images)
            )
        at = np.int32(index)
        self.basis, newest, column, rest = extend(self.basis, image, zeros(image), at)
        self.r, self.w, self.h, self.g = (np.pad(m, (0, 1)) for m in (self.r, self.w, self.h, self.g))
        self.r[:index, index] = np.asarray(column, np.float64)[:index]
        self.signs = _written(self.signs, signs, at)
        if float(rest) <= DEPENDENT * op.eps * length:  # rounding: the images span no further direction
            self.basis, self.rank_deficient = cleared(self.basis, at), True
            self.w[:, index] = _host(coefficients(self.basis, signs), index + 1)
            return
        self.r[index, index] = float(rest)
        image = op.apply(newest)
        self.images = _written(self.images, image, at)
        self.w[index, :] = _host(coefficients(self.signs, newest), index + 1)
        self.w[:, index] = _host(coefficients(self.basis, signs), index + 1)
        self.h[index, :] = self.h[:, index] = _host(coefficients(self.basis, image), index + 1)
        self.g[index, :] = self.g[:, index] = _host(coefficients(self.images, image), index + 1)

    def _chosen(self) -> tuple[str, str]:
        """Return the estimator with the smaller error for the products spent, and what shows it."""
        spanning, sampling = self._estimate("xtrace"), self._estimate("hutchinson")
        at_equal_cost = sampling.error * math.sqrt(len(self.quadratic) / self.spent)
        method = "xtrace" if spanning.error <= at_equal_cost else "hutchinson"
        return method, (
            f"after {self.spent} products XTrace has a standard error of {number(spanning.error, 2)}, "
            f"Hutchinson's estimator at that cost {number(at_equal_cost, 2)}"
        )

    def _estimate(self, method: str) -> _Sampled:
        """Mean and standard error of the samples; of a norm by the derivative of the root."""
        samples = self._projected() if method == "xtrace" else np.array(self._plain())
        mean, count = float(np.mean(samples)), len(samples)
        error = float(np.std(samples, ddof=1)) / math.sqrt(count) if count > 1 else math.inf
        error *= SHARED_ERROR if method == "xtrace" else 1.0
        size = math.sqrt(float(np.mean(self.squares)))
        if self.kind == "trace":
            floor = self.op.eps * math.sqrt(self.op.size) * size
            return _Sampled(mean, max(error, floor), count)
        root = math.sqrt(max(mean, 0.0))
        return _Sampled(root, max(error / (2 * root) if root > 0 else error, self.op.eps * size), count)

    def _plain(self) -> list[float]:
        return self.quadratic if self.kind == "trace" else self.squares

    def _projected(self) -> np.ndarray:
        """The samples X_i, or F_i, shape (k,)."""
        r, w, h = self.r, self.w, self.h
        k = len(r)
        if not all(map(math.isfinite, self.squares)):
            return np.full(k, np.nan)
        # Column i is the direction of range(Q) that only the i-th image adds: none where others span it.
        alone = np.zeros((k, k))
        if not self.rank_deficient:
            alone = solve_triangular(r, np.eye(k), trans="T")
            alone /= np.linalg.norm(alone, axis=0)
        u = w - alone * np.sum(alone * w, axis=0)  # Qᵀ P_i ω_i
        whole, crossed = (h, r) if self.kind == "trace" else (self.g, h @ r)
        inside = np.trace(whole) - np.sum(alone * (whole @ alone), axis=0)
        outside = np.array(self._plain()) - 2 * np.sum(crossed * u, axis=0) + np.sum(u * (whole @ u), axis=0)
        return np.asarray(inside + outside)

    def _scale(self, found: _Sampled) -> float:
        """What the asked accuracy is relative to."""
        return max(abs(found.value), math.sqrt(float(np.mean(self.squares))))

    def _report(self, found: _Sampled) -> None:
        if self.progress is not None:
            name = self.kind.replace("_", " ")
            self.progress(f"{self.spent} products: {name} {found.value:+.4e} ± {found.error:.1e}")

    def _result(self, found: _Sampled, status: str, method: str, evidence: tuple[str, ...]) -> SpectralSum:
        return SpectralSum(
            kind=self.kind,
            value=found.value,
            standard_error=found.error,
            num_samples=found.samples,
            num_hvps=self.spent,
            status=status,
            method=method,
            size=self.op.size,
            evidence=evidence,
            variables=str(self.op.layout),
        )


def checked_budget(op: Any, rtol: float, max_hvps: int | None) -> int:
    """Refuse misuse; return the budget."""
    require_operator(op)
    if not rtol > 0:
        raise ValueError(f"rtol={rtol}; expected a positive number")
    if max_hvps is not None and max_hvps < min(4, op.size):
        raise ValueError(f"max_hvps={max_hvps}; expected at least {min(4, op.size)}: an error needs samples")
    op.require_checked()
    return BUDGET if max_hvps is None else max_hvps


def seed_of(key: Any) -> int:
    """Return the seed that the random signs of a key are drawn with."""
    return int(generator(key).integers(2**63))


def leaf_shapes(op: SymmetricOperator) -> tuple[Any, Any]:
    """Return shapes and dtypes of a vector's leaves."""
    return op.layout.shapes, op.layout.work_dtypes


def random_signs(op: SymmetricOperator, seed: int, index: int) -> Vector:
    """The random signs of one index: the same whenever they are asked for; zero along leaves not read."""
    rng = np.random.default_rng([seed, index])
    rows = zip(*leaf_shapes(op), op.active, strict=True)
    return tuple(jnp.asarray(rng.choice([-1.0, 1.0], s) if on else np.zeros(s), d) for s, d, on in rows)


def _host(found: Any, count: int) -> np.ndarray:
    return np.asarray(found, np.float64)[:count]


@jax.jit
def _written(basis: Basis, vector: Vector, index: Any) -> Basis:
    return tuple(b.at[index].set(v.astype(b.dtype)) for b, v in zip(basis, vector, strict=True))
