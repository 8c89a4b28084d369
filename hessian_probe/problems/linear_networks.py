"""Deep linear networks: critical points of every index, built rather than searched for.

L(W₁ … W_H) = ½‖W_H⋯W₁X − Y‖²_F. With s₁ > s₂ > … the singular values of YXᵀ(XXᵀ)^(-1/2), a
critical point fits any subset S of the singular directions, and S and the way in which the other
hidden coordinates are switched off decide what kind of point it is.

Source: Baldi & Hornik, "Neural networks and principal component analysis: learning from examples
without local minima" (Neural Networks 2, 1989), doi:10.1016/0893-6080(89)90014-2; Kawaguchi, "Deep
learning without poor local minima" (2016), arXiv:1605.07110; Achour, Malgouyres & Gerchinovitz,
"The loss landscape of deep linear neural networks: a second-order analysis" (2024),
arXiv:2107.13289.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from itertools import combinations
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.problems.known_point import KnownPoint, random_rotation

Matrix = np.ndarray[Any, np.dtype[np.float64]]
Carried = Mapping[int, frozenset[int]]


def deep_linear_loss(weights: Sequence[jax.Array], batch: tuple[Any, Any]) -> jax.Array:
    """Evaluate half the squared error of a linear network, as a mean over samples.

    Args:
        weights: W₁ … W_H, shapes (dᵢ, dᵢ₋₁).
        batch: Inputs, shape (m, d₀), and targets, shape (m, d_H).

    Returns:
        Σ ½‖W_H⋯W₁x − y‖²/m, a scalar.

    Example:
        >>> weights = [jnp.full((1, 1), 2.0), jnp.full((1, 1), 3.0)]
        >>> float(deep_linear_loss(weights, (jnp.ones((4, 1)), jnp.ones((4, 1)))))
        12.5
    """
    inputs, targets = batch
    num_samples: int = inputs.shape[0]
    outputs: jax.Array = inputs
    for weight in weights:
        outputs = outputs @ weight.T
    return jnp.sum((outputs - targets) ** 2) / (2.0 * num_samples)


@dataclasses.dataclass(frozen=True)
class _Directions:
    """Data with prescribed singular structure: L = ½‖W − U s Vᵀ(XXᵀ)^(-1/2)‖² in X's metric."""

    inputs: Matrix
    targets: Matrix
    left: Matrix  # U, columns are output directions
    right: Matrix  # Vᵀ(XXᵀ)^(-1/2), rows are whitened input directions


def _directions(widths: Sequence[int], s: Matrix, seed: int) -> _Directions:
    d0, d_out = widths[0], widths[-1]
    num_samples = 2 * d0 + 3
    rng = np.random.default_rng([seed, *widths])
    x = rng.standard_normal((d0, num_samples))
    gram_values, gram_vectors = np.linalg.eigh(x @ x.T)
    whitener = gram_vectors @ np.diag(gram_values**-0.5) @ gram_vectors.T
    left, right = random_rotation(d_out, rng), random_rotation(d0, rng).T @ whitener
    k = s.size
    fitted = left[:, :k] @ (s[:, None] * (right[:k] @ x))
    noise = rng.standard_normal((d_out, num_samples))
    noise -= noise @ x.T @ whitener @ whitener @ x  # outside the row space of X: never fitted
    # Samples are scaled by √m so that the mean over them is the sum of the unscaled ones.
    scale = np.sqrt(num_samples)
    return _Directions(scale * x.T, scale * (fitted + noise).T, left, right)


def _weights(
    widths: Sequence[int], subset: Sequence[int], s: Matrix, parts: _Directions, carried: Carried
) -> list[Matrix]:
    """Lay out W₁ … W_H: fitted directions (from 0) first, then what other hidden coordinates carry."""
    depth, r = len(widths) - 1, len(subset)
    weights = [np.zeros((widths[i + 1], widths[i])) for i in range(depth)]
    for row, direction in enumerate(subset):
        weights[0][row] = parts.right[direction]
        weights[-1][:, row] = s[direction] * parts.left[:, direction]
        for middle in weights[1:-1]:
            middle[row, row] = 1.0
    unused = [i for i in range(s.size) if i not in subset]
    for coordinate, layers in carried.items():
        for layer in layers:
            if layer == 1:
                weights[0][coordinate] = parts.right[unused[coordinate - r]]
            elif layer == depth:
                weights[-1][:, coordinate] = parts.left[:, unused[coordinate - r]]
            else:
                weights[layer - 1][coordinate, coordinate] = 1.0
    return weights


def _fault(widths: Sequence[int], subset: Sequence[int], s: Matrix, carried: Carried) -> str | None:
    """Say what is wrong with the arguments of ``deep_linear_point``; None where nothing is."""
    r, depth = len(subset), len(widths) - 1
    most = min(widths[0], widths[-1])
    if s.ndim != 1 or not 1 <= s.size <= most or np.any(s <= 0.0) or np.any(np.diff(s) >= 0.0):
        return f"expected 1 ... {most} positive, strictly decreasing singular values, got {s}"
    if r > min(widths) or any(not 0 <= i < s.size for i in subset) or len(set(subset)) != r:
        got = tuple(i + 1 for i in subset)
        return f"expected at most {min(widths)} different directions in 1 ... {s.size}, got {got}"
    for coordinate, layers in carried.items():
        if len(layers) > depth - 2:
            return (
                f"hidden coordinate {coordinate} must be zero in at least two of the {depth} "
                f"layers, but is carried in {sorted(layers)}"
            )
        for layer in layers:
            hidden = [w for i, w in enumerate(widths[1:-1], 1) if i in (layer - 1, layer)]
            if not 1 <= layer <= depth or not r <= coordinate < min(hidden):
                return (
                    f"layer {layer} has no free hidden coordinate {coordinate} "
                    f"(widths {tuple(widths)}, {r} directions fitted)"
                )
        if layers & {1, depth} and coordinate >= s.size:
            return f"no unused singular direction is left for hidden coordinate {coordinate}"
    return None


def _is_tightened(weights: Sequence[Matrix], r: int) -> bool:
    """Whether a critical point of rank r has the pairs of layers that ``deep_linear_point`` speaks of."""
    sizes = [weights[0].shape[1], *(weight.shape[0] for weight in weights)]

    def rank(first: int, end: int) -> int:
        start = np.eye(sizes[first])
        return int(np.linalg.matrix_rank(reduce(lambda x, weight: weight @ x, weights[first:end], start)))

    pairs = combinations(range(len(weights)), 2)
    return all(r in (rank(i + 1, len(weights)), rank(j + 1, i), rank(0, j)) for j, i in pairs)


def _index_of_two_layers(widths: Sequence[int], subset: Sequence[int], s: Matrix) -> tuple[int, int]:
    """Count negative and zero eigenvalues of a network of widths d₀, p, d₂, free hidden units zero.

    Returns:
        n₋ = #{i ∈ S, j ∉ S: sⱼ > sᵢ} + (p − r)(d − r) and n₀ = r² + (p − r)(d₀ + d₂ − 2(d − r)),
        counted with d replaced by the number of directions that have a singular value.
    """
    d_in, p, d_out = widths
    r, d = len(subset), s.size
    swaps = sum(1 for i in subset for j in range(d) if j not in subset and s[j] > s[i])
    return swaps + (p - r) * (d - r), r**2 + (p - r) * (d_in + d_out - 2 * (d - r))


def _descent(weights: Sequence[Matrix], subset: Sequence[int], s: Matrix, parts: _Directions) -> list[Matrix]:
    """Return the unit direction that fills the zeros of one hidden path of a non-strict saddle.

    The loss falls along it like the power of the number of layers that it fills.
    """
    r = len(subset)
    direction = next(i for i in range(s.size) if i not in subset)
    full = [np.zeros_like(w) for w in weights]
    full[0][r] = parts.right[direction]
    full[-1][:, r] = parts.left[:, direction]
    for middle in full[1:-1]:
        middle[r, r] = 1.0
    missing = [f * (not np.any(w * f)) for w, f in zip(weights, full, strict=True)]
    norm = np.sqrt(sum(float(np.sum(m**2)) for m in missing))
    return [m / norm for m in missing]


def deep_linear_point(
    widths: Sequence[int],
    subset: Sequence[int],
    singular_values: Sequence[float] | None = None,
    *,
    carried: Mapping[int, Iterable[int]] | None = None,
    rotate_hidden: bool = True,
    seed: int = 0,
) -> KnownPoint:
    """Build a critical point of a deep linear network that fits chosen singular directions.

    Layer 1 carries Vᵀ_S(XXᵀ)^(-1/2) in its first r rows, middle layers the identity on the first
    r hidden coordinates, layer H carries U_S diag(s_S). The loss is ½(‖Y‖² − Σ_{i∈S} sᵢ²) for the
    unscaled Y. The label:

    - r = min(widths), or every direction, and S the top r: a global minimum with flat gauge
      directions;
    - S not the top r: a strict saddle;
    - otherwise a strict saddle if for some pair of layers i > j none of W_H⋯W_{i+1},
      W_{i−1}⋯W_{j+1}, W_{j−1}⋯W₁ has rank r, else a non-strict one: no negative eigenvalue, yet
      lower values arbitrarily near.

    Args:
        widths: d₀ … d_H, H ≥ 2.
        subset: S, directions counted from 1 in order of decreasing singular value.
        singular_values: s, strictly decreasing and positive, min(d₀, d_H) of them or fewer; None
            for that many, …, 3, 2, 1.
        carried: For hidden coordinates r, r + 1, … (counted from 0): the layers in 1 … H in which
            each is switched on, at most H − 2; a 1 in middle layers, an unused singular direction
            at the ends. None switches all off everywhere.
        rotate_hidden: Turn every hidden layer by a random rotation, so that nothing is aligned with
            coordinates. The loss and the Hessian's spectrum do not see it.
        seed: Draws data, singular directions and rotations.

    Returns:
        The point: ``loss(params, data)`` with params a tuple of H matrices, shape (dᵢ, dᵢ₋₁), and
        data the inputs and targets, samples first, more samples than inputs, the targets not
        linear in the inputs. ``index`` and ``num_zero`` are set for H = 2 and for all-zero weights.

    Raises:
        ValueError: If the arguments describe no critical point; the message says which and why.

    Example:
        >>> deep_linear_point((4, 2, 3), (1,))  # 4 inputs, 2 hidden units, 3 outputs
        KnownPoint(linear_network/linear_4-2-3_fit_1: saddle, index 2, 14 parameters)
    """
    if len(widths) < 3 or min(widths) < 1:
        raise ValueError(f"expected at least three positive widths, got {tuple(widths)}")
    top = range(min(widths[0], widths[-1]), 0, -1)
    s = np.asarray(top if singular_values is None else singular_values, np.float64)
    chosen = [i - 1 for i in sorted(subset)]
    layers = {c: frozenset(where) for c, where in (carried or {}).items()}
    fault = _fault(widths, chosen, s, layers)
    if fault is not None:
        raise ValueError(fault)
    r, depth = len(chosen), len(widths) - 1
    parts = _directions(widths, s, seed)
    weights = _weights(widths, chosen, s, parts, layers)
    fits_top = chosen == list(range(r))
    is_minimum = fits_top and r in (min(widths), s.size)
    non_strict = fits_top and not is_minimum and _is_tightened(weights, r)
    descent = _descent(weights, chosen, s, parts) if non_strict else None
    index, num_zero = (0 if is_minimum or non_strict else None), None
    if depth == 2:
        index, num_zero = _index_of_two_layers(widths, chosen, s)
    elif r == 0 and not any(layers.values()):
        index, num_zero = 0, sum(w.size for w in weights)
    if rotate_hidden:
        rng = np.random.default_rng([seed, *widths, len(chosen)])
        turns = [np.eye(widths[0]), *(random_rotation(w, rng) for w in widths[1:-1]), np.eye(widths[-1])]

        def turned(layers: list[Matrix]) -> list[Matrix]:
            pairs = zip(turns[1:], layers, turns, strict=False)
            return [after @ layer @ before.T for after, layer, before in pairs]

        weights, descent = turned(weights), None if descent is None else turned(descent)
    if is_minimum:
        why = "fits the leading directions with all the rank there is (Baldi & Hornik 1989)"
    elif non_strict:
        why = "tightened: no second-order descent, yet a saddle (Achour et al. 2024)"
    else:
        why = "a better direction is unused and second order sees it (Achour et al. 2024)"
    fitted = "".join(str(i + 1) for i in chosen) or "none"
    extra = "".join(f"_h{c}:{''.join(map(str, sorted(w)))}" for c, w in sorted(layers.items()))
    return KnownPoint(
        f"linear_{'-'.join(map(str, widths))}_fit_{fitted}{extra}",
        deep_linear_loss,
        tuple(weights),
        "minimum" if is_minimum else "saddle",
        index,
        (parts.inputs, parts.targets),
        kind="linear_network",
        degenerate=is_minimum or non_strict,
        num_zero=num_zero,
        isolated=False,
        descent=None if descent is None else tuple(descent),
        why=why,
    )
