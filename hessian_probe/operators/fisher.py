"""The Fisher matrix of a model's own distribution, and the empirical one, from gradients of single samples.

With outputs z = f(x), Jacobian J and gₙ the gradient of sample n's loss with respect to its outputs, both
are (1/N) Σ Jₙᵀ E[gₙgₙᵀ] Jₙ: the Gauss–Newton matrix of Σ E(gₙ·δzₙ)² / 2N, where δz are moves of the outputs.
Only the labels that gₙ belongs to differ: drawn from the model, or those of the data.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.arrays import PyTree, Vector, generator, hashable
from hessian_probe.operators import derivatives
from hessian_probe.operators.gauss_newton import (
    FORWARD_MODE,
    LossOfOutputs,
    Model,
    OutputsObjective,
    require_functions,
)
from hessian_probe.operators.hessian import HessianOperator


def fisher(
    outputs: Callable[..., PyTree],
    loss_of_outputs: Callable[..., Any],
    params: PyTree,
    data: Any,
    *,
    draw: Callable[..., PyTree],
    num_draws: int = 1,
    sample_axes: int = 1,
    key: jax.Array | None = None,
    trainable: Any = None,
    max_residual_bytes: int | None = None,
    check: bool = True,
) -> FisherOperator:
    r"""Make the Fisher matrix of the model's own distribution a linear map, from labels drawn once.

    Where the loss of a sample is −log p(y | z), up to a constant,

    $$F = \frac1N \sum_n \mathbb{E}_{y \sim p(\cdot | z_n)}\, \nabla \log p(y | z_n)\,
    \nabla \log p(y | z_n)^\top ,$$

    with the gradient with respect to the parameters.  Its expectation is the Gauss–Newton matrix for softmax
    with cross-entropy and for squares (`hp.gauss_newton` gives it exactly); for other losses it is not.

    Args:
        outputs: `outputs(params, batch) -> z`, as for `hp.gauss_newton`; the arrays that are linearised run
            over the samples in their first `sample_axes` axes.
        loss_of_outputs: `loss_of_outputs(z, batch) -> scalar`, the plain mean of −log p over those samples.
        params: pytree; the leaves that are not varied are passed on as they are.
        data: one batch, or a list or other re-iterable of batches, as for `hp.hessian`.
        draw: `draw(key, z, batch) -> batch` with labels drawn from the model: for cross-entropy
            `lambda key, z, batch: {**batch, "y": jax.random.categorical(key, z)}`; for (z − y)² it adds
            normal noise of variance 1/2 to z, for (z − y)²/2 of variance 1.
        num_draws: labels drawn for each sample; the variance of F is in inverse proportion.
        sample_axes: leading axes of z that run over samples: 2 for the tokens of a batch of sequences.
        key: random key of the draws, which stay the same for all products; None means `jax.random.key(0)`.
        trainable: which leaves are varied, as for `hp.hessian`.
        max_residual_bytes: memory that the stored linearisation may take, as for `hp.hessian`.
        check: at the first product, check that products are repeatable, symmetric and linear.

    Returns:
        The operator, at `params`, in loss / params², positive semi-definite; its value and gradient are those
        of the loss.

    Raises:
        TypeError: a function is not callable, outputs hold no floating-point array, the loss is no real
            scalar; a leaf is complex, or asked for and not floating-point; data is None, or can be read once.
        ValueError: num_draws or sample_axes is below 1; outputs do not share their first axes; else as
            `hp.gauss_newton`.

    Cost:
        As for `hp.gauss_newton`, and `num_draws` gradients with respect to z, of which one each is stored.

    Source:
        J. Martens, New insights and perspectives on the natural gradient method, JMLR 21, 2020, §§5, 9, 11,
        arXiv:1412.1193.

    Examples:
        >>> x, y = jnp.array([[1.0, 2.0], [0.0, 1.0]]), jnp.array([1.0, 0.0])
        >>> op = fisher(
        ...     lambda w, batch: batch[0] @ w,
        ...     lambda z, batch: jnp.mean((z - batch[1]) ** 2),
        ...     jnp.zeros(2),
        ...     (x, y),
        ...     draw=lambda key, z, batch: (batch[0], z + jax.random.normal(key, z.shape) / 2**0.5),
        ...     num_draws=1000,
        ... )
        >>> op.dense().round().tolist()  # the Gauss–Newton matrix is [[1, 2], [2, 5]]
        [[1.0, 2.0], [2.0, 5.0]]
    """
    require_functions(outputs=outputs, loss_of_outputs=loss_of_outputs, draw=draw)
    if data is None:
        raise TypeError("data is None; expected batches, whose labels `draw` replaces")
    if num_draws < 1:
        raise ValueError(f"num_draws={num_draws}; expected at least 1")
    seed = int(generator(key).integers(2**31))
    drawn = (hashable(draw), num_draws, seed)
    loss = FisherLoss(hashable(outputs), hashable(loss_of_outputs), sample_axes, *drawn)
    return _operator(loss, params, data, trainable, max_residual_bytes, check)


def empirical_fisher(
    outputs: Callable[..., PyTree],
    loss_of_outputs: Callable[..., Any],
    params: PyTree,
    data: Any = None,
    *,
    sample_axes: int = 1,
    trainable: Any = None,
    max_residual_bytes: int | None = None,
    check: bool = True,
) -> FisherOperator:
    """Make the empirical Fisher matrix, the second moment of the samples' gradients, a linear map.

    It is (1/N) Σ ∇ℓₙ∇ℓₙᵀ, with the labels of the data.  It is no estimate of the Fisher matrix, and need not
    resemble the Hessian (Kunstner et al. 2019): `hp.fisher` draws the labels from the model.

    Args:
        outputs: as for `hp.fisher`; without data `outputs(params) -> z`.
        loss_of_outputs: as for `hp.fisher`; without data `loss_of_outputs(z) -> scalar`.
        params: pytree; the leaves that are not varied are passed on as they are.
        data: None, one batch, or a list or other re-iterable of batches, as for `hp.hessian`.
        sample_axes: leading axes of z that run over samples: 2 for the tokens of a batch of sequences.
        trainable: which leaves are varied, as for `hp.hessian`.
        max_residual_bytes: memory that the stored linearisation may take, as for `hp.hessian`.
        check: at the first product, check that products are repeatable, symmetric and linear.

    Returns:
        The operator, at `params`, in (loss / params)², positive semi-definite.

    Raises:
        TypeError: as `hp.gauss_newton`.
        ValueError: sample_axes is below 1; outputs do not share their first axes; else as `hp.gauss_newton`.

    Cost:
        As for `hp.gauss_newton`.

    Source:
        F. Kunstner, L. Balles and P. Hennig, Limitations of the empirical Fisher approximation, 2019,
        arXiv:1905.12558.

    Examples:
        >>> x, y = jnp.array([[1.0, 2.0], [0.0, 1.0]]), jnp.array([1.0, 2.0])
        >>> op = empirical_fisher(
        ...     lambda w, batch: batch[0] @ w,
        ...     lambda z, batch: jnp.mean((z - batch[1]) ** 2),
        ...     jnp.zeros(2),
        ...     (x, y),
        ... )
        >>> op.dense().tolist()  # the gradients are (−2, −4) and (0, −4)
        [[2.0, 4.0], [4.0, 16.0]]
    """
    require_functions(outputs=outputs, loss_of_outputs=loss_of_outputs)
    loss = FisherLoss(hashable(outputs), hashable(loss_of_outputs), sample_axes)
    return _operator(loss, params, data, trainable, max_residual_bytes, check)


def _operator(
    loss: FisherLoss, params: PyTree, data: Any, trainable: Any, max_residual_bytes: int | None, check: bool
) -> FisherOperator:
    if loss.sample_axes < 1:
        raise ValueError(f"sample_axes={loss.sample_axes}; expected at least 1")
    objective = OutputsObjective(loss, params, data, trainable=trainable)
    op = FisherOperator(objective, max_residual_bytes=max_residual_bytes)
    op.unchecked = check
    return op


class FisherOperator(HessianOperator):
    """A Fisher matrix at fixed parameters, as `fisher` and `empirical_fisher` return it."""


@dataclasses.dataclass(frozen=True)
class FisherLoss(LossOfOutputs):
    """A loss in two parts, of which the second moment of the samples' gradients is asked for.

    Attributes:
        sample_axes: leading axes of the outputs that run over samples.
        draw: function of a key, outputs and a batch that returns a batch with other labels; None keeps them.
        num_draws: labels drawn for each sample.
        seed: seed of the draws.
    """

    sample_axes: int = 1
    draw: Hashable = None
    num_draws: int = 1
    seed: int = 0

    def model(
        self, together: Callable[..., PyTree], values: list[Any], others: list[Any], *batch: Any
    ) -> Model:
        """Return L + ∇L·δz + Σ(gₙ·δzₙ)² / 2N, a function of moves δz of the outputs."""
        axes = self.sample_axes
        shapes = {leaf.shape[:axes] for leaf in values}
        if len(shapes) > 1 or any(leaf.ndim < axes for leaf in values):
            raise ValueError(
                f"outputs have shapes {[leaf.shape for leaf in values]}; expected the samples along "
                f"the first {axes} of the axes, the same in all (sample_axes={axes})"
            )
        count = int(np.prod(shapes.pop()))

        def loss(outputs: list[Any], *labels: Any) -> jax.Array:
            return self.loss_at(together(outputs, others), *labels)

        value, slope = jax.value_and_grad(loss)(values, *batch)
        draw = derivatives.unwrapped(self.draw)

        def score(key: jax.Array) -> list[Any]:
            return jax.grad(loss)(values, draw(key, together(values, others), *batch))

        if draw is None:
            scores = [leaf[None] for leaf in slope]
        else:
            key = jax.random.fold_in(jax.random.key(self.seed), _digest(batch))
            scores = jax.lax.map(score, jax.random.split(key, self.num_draws))

        def quadratic(moves: list[Any]) -> jax.Array:
            total = value
            along = jnp.zeros((), value.dtype)  # of each draw and sample: its slope, by N, along the move
            for gradient, drawn, move in zip(slope, scores, moves, strict=True):
                total = total + jnp.sum(gradient * move).astype(value.dtype)
                inner = (drawn * move[None]).reshape(self.num_draws, count, -1)
                along = along + jnp.sum(inner, axis=-1).astype(value.dtype)
            return total + (0.5 * count / self.num_draws) * jnp.sum(along**2)

        return quadratic

    def kind(self, arguments: derivatives.Arguments, x: Vector) -> str:
        """What tells a matrix at x from others of the same loss: its program, and the seed."""
        try:
            program = str(jax.make_jaxpr(self.linearised(FORWARD_MODE, arguments))(x))
        except (TypeError, NotImplementedError):  # outputs without forward mode
            program = ""
        digest = hashlib.blake2b(re.sub(r"0x[0-9a-f]+", "", program).encode()).hexdigest()
        return f"Fisher {self.seed} {digest}"


def _digest(batch: Any) -> jax.Array:
    """A number that differs from batch to batch, so that their draws do."""
    total = jnp.zeros((), jnp.uint32)
    for leaf in jax.tree.leaves(batch):
        if not hasattr(leaf, "dtype"):  # text, functions
            continue
        if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            leaf = jax.random.key_data(leaf)
        bits = jax.lax.bitcast_convert_type(jnp.real(leaf).astype(jnp.float32), jnp.uint32).ravel()
        weights = 2 * jnp.arange(bits.size, dtype=jnp.uint32) + 1
        total = 31 * total + jnp.sum(bits * weights, dtype=jnp.uint32)
    return total
