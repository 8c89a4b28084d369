"""An operator in the coordinates of an optimiser, read off its state."""

from __future__ import annotations

from typing import Any

from hessian_probe.arrays import scale
from hessian_probe.operators.hessian import HessianOperator
from hessian_probe.operators.preconditioned import PreconditionedOperator
from hessian_probe.optimizers.optax_state import UnreadableError
from hessian_probe.optimizers.stability import probed
from hessian_probe.optimizers.stability_limit import recognise
from hessian_probe.points.preconditions import nonfinite


def precondition(op: HessianOperator, *, optimizer: Any, opt_state: Any) -> PreconditionedOperator:
    """Scale a Hessian by an optimiser's preconditioner: P^-½ H P^-½.

    The optimiser steps along P⁻¹∇f; P⁻¹H has the same eigenvalues, and is not symmetric.  P is measured on a
    copy of the state, as `hp.stability` does, with the corrections of the next step: for Adam √ν̂ + ε, for
    gradient descent 1.

    Args:
        op: of `hp.hessian`, `hp.gauss_newton`, `hp.fisher` or `hp.empirical_fisher`.  Of a sum or a block,
            precondition the terms: `hp.restrict(hp.precondition(op, …), where=…)`.
        optimizer: an optax transformation.
        opt_state: its state in training; a fresh state has no preconditioner yet.

    Returns:
        The operator, in loss / params² times the units of P⁻¹.  `formula` says what P is; where it has no
        known form, P⁻¹ is the measured step itself.  An ε far below √ν counts as zero: for Adam's 1e-8 P has
        a relative error of that size.

    Raises:
        TypeError: `op` is no operator of a loss.
        ValueError: loss or gradient is not finite; the optimiser cannot be read (no linear response with one
            momentum: sign-based and normalised steps, Lion, Adafactor; it moves some leaves up the gradient;
            no step has been taken with this state).

    Cost:
        About fifty updates of the optimiser and one gradient; a product is one of the whole.

    Source:
        J. Cohen et al., Adaptive gradient methods at the edge of stability, 2022, arXiv:2207.14484.

    Examples:
        >>> import hessian_probe as hp, jax.numpy as jnp, optax
        >>> op = hp.hessian(lambda x: 5.0 * x[0] ** 2 + x[1] ** 2, jnp.ones(2))
        >>> optimizer = optax.rmsprop(0.1, decay=0.75, eps=0.0)
        >>> _, state = optimizer.update(jnp.array([4.0, 1.0]), optimizer.init(jnp.ones(2)))  # P = (2, 0.5)
        >>> precondition(op, optimizer=optimizer, opt_state=state).dense().round(2).tolist()
        [[5.0, 0.0], [0.0, 4.0]]
    """
    if not isinstance(op, HessianOperator):
        raise TypeError(
            f"op is a {type(op).__name__}; expected what hp.hessian, hp.gauss_newton or hp.fisher returned: "
            "precondition the terms of a sum one by one"
        )
    bad = nonfinite(op)
    if bad is not None:
        raise ValueError(str(bad))
    try:
        _, response = probed(op, optimizer, opt_state)
    except UnreadableError as error:
        raise ValueError(f"the optimiser's preconditioner is not known: {error}") from error
    method = recognise(response)
    return PreconditionedOperator(op, scale(method.scale, response.gain), formula=method.preconditioner)
