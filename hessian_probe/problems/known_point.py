"""`KnownPoint`: a loss, a point, and the proven truth about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class KnownPoint:
    """A loss, a point of its domain, and the truth about that point.

    The same ``loss`` object serves every point of one family, so code that caches compiled
    functions by their identity compiles once per family and shape.

    Attributes:
        name: Unique among the points of one kind.
        loss: ``loss(params)`` or, when ``data`` is not None, ``loss(params, data)``; traceable by
            JAX, returns a scalar, and mixes only Python scalars with its arguments, so that it
            works in the dtype of ``params``.
        params: Pytree of float64 numpy arrays.
        label: ``"minimum"``, ``"maximum"``, ``"saddle"``, ``"degenerate"`` or
            ``"not_critical"``. A minimum need not be isolated.
        index: Number of negative eigenvalues of the Hessian; None where it was not derived.
        data: One batch for ``loss``, samples along the leading axes; a list of batches drawn from
            a population; or None.
        kind: The table it belongs to, e.g. ``"plane"``.
        degenerate: True where the signs of the Hessian's eigenvalues alone do not settle the label
            (some are zero, and the others are not of both signs). ``"degenerate"`` is then an
            honest answer, too.
        num_zero: Number of zero eigenvalues of the Hessian; None where it was not derived.
        isolated: False where other critical points lie arbitrarily near.
        eigenvalue_range: Smallest and largest eigenvalue of the Hessian, in loss / params², or
            None.
        descent: Pytree like ``params``: a straight direction along which the loss falls although
            second order does not show it; None where there is none or none is needed.
        decidable: False where finitely many evaluations in any precision, or the data given, do not
            hold the answer; ``why`` says what is missing. The criterion is each family's own and
            never asks what a classifier answers.
        gap: The smallest eigenvalue that the label rests on, in magnitude and as a share of ‖H‖; or
            the share of another quantity that has to be told from zero.
        fixed_dtype: Whether the precision of ``params`` is part of the problem; ``astype`` then
            leaves them alone.
        why: One sentence of proof, or the source.
    """

    name: str
    loss: Callable[..., jax.Array]
    params: Any
    label: str
    index: int | None = None
    data: Any = None
    _: dataclasses.KW_ONLY
    kind: str = "problem"
    degenerate: bool = False
    num_zero: int | None = None
    isolated: bool = True
    eigenvalue_range: tuple[float, float] | None = None
    descent: Any = None
    decidable: bool = True
    gap: float = 1.0
    fixed_dtype: bool = False
    why: str = ""

    @classmethod
    def from_curvature(
        cls,
        name: str,
        loss: Callable[..., jax.Array],
        params: Any,
        curvature: Any,
        data: Any = None,
        **facts: Any,
    ) -> KnownPoint:
        """Return a critical point, labelled as a quadratic function with the same eigenvalues.

        ``curvature`` holds all of them, in any order, in loss / params².  ``facts`` are further attributes,
        which replace what follows from the eigenvalues.
        """
        values = np.asarray(curvature, np.float64)
        negative, positive = int(np.sum(values < 0.0)), int(np.sum(values > 0.0))
        zero = values.size - negative - positive
        derived: dict[str, Any] = {
            "label": label_from_signs(negative, positive),
            "index": negative,
            "num_zero": zero,
            "degenerate": zero > 0 and not (negative and positive),
            "eigenvalue_range": (float(values.min()), float(values.max())),
        }
        return cls(name, loss, params, data=data, **derived | facts)

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(int(np.size(leaf)) for leaf in jax.tree.leaves(self.params))

    @property
    def strict(self) -> bool:
        """Whether second order alone decides the label."""
        return not self.degenerate

    @property
    def accepted(self) -> frozenset[str]:
        """Labels that are right; "undetermined" is never wrong and is not listed."""
        return frozenset({self.label, "degenerate"} if self.degenerate else {self.label})

    @property
    def batches(self) -> list[Any]:
        """The batches that ``data`` consists of, each a tuple to be given to ``loss`` after ``params``."""
        if self.data is None:
            return [()]
        return [(batch,) for batch in self.data] if isinstance(self.data, list) else [(self.data,)]

    @property
    def args(self) -> tuple[Any, ...]:
        """What ``classify`` takes after ``loss``: ``(params,)`` or ``(params, data)``."""
        return (self.params,) if self.data is None else (self.params, self.data)

    def astype(self, dtype: Any) -> KnownPoint:
        """Cast parameters, data and descent direction.

        Args:
            dtype: A floating dtype; integer leaves stay as they are.

        Returns:
            The same point in another precision. The truth was derived in float64: a point rounded
            to float32 is critical to float32's rounding only.
        """
        if self.fixed_dtype:
            return self

        def cast(leaf: Any) -> Any:
            array = np.asarray(leaf)
            return array.astype(dtype) if np.issubdtype(array.dtype, np.floating) else leaf

        params, data, descent = jax.tree.map(cast, (self.params, self.data, self.descent))
        return dataclasses.replace(self, params=params, data=data, descent=descent)

    def __repr__(self) -> str:
        """Return one line without any array."""
        index = "" if self.index is None else f", index {self.index}"
        second_order = ", second order cannot decide" if self.degenerate else ""
        return (
            f"KnownPoint({self.kind}/{self.name}: {self.label}{index}{second_order}, {self.size} parameters)"
        )


def label_from_signs(num_negative: int, num_positive: int) -> str:
    """Label a quadratic function's critical point by the numbers of its eigenvalues of each sign."""
    if num_negative and num_positive:
        return "saddle"
    if num_positive:
        return "minimum"
    return "maximum" if num_negative else "degenerate"


def random_rotation(size: int, rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return an orthogonal matrix, float64, drawn from the uniform (Haar) distribution.

    Source: Stewart, "The efficient generation of random orthogonal matrices with an application
        to condition estimators" (SIAM J. Numer. Anal. 17, 1980), doi:10.1137/0717034: QR of a
        Gaussian matrix, with the signs of R's diagonal moved into Q.
    """
    q, r = np.linalg.qr(rng.standard_normal((size, size)))
    rotation: np.ndarray[Any, np.dtype[np.float64]] = q * np.sign(np.diag(r))
    return rotation
