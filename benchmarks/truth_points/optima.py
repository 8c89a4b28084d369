"""Global minima of fits with symmetries, and saddles: tensors, distances, mixtures, constant answers."""

from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.truth_points.orbits import ORBIT, SADDLE
from benchmarks.truth_points.table import draws, of_data, table
from hessian_probe.problems import KnownPoint
from hessian_probe.problems.known_point import random_rotation


def tensor_fit(params: dict[str, jax.Array], target: Any) -> jax.Array:
    """½‖Σ a ⊗ b ⊗ c − T‖² over the columns of three factors (canonical polyadic decomposition)."""
    pairs = params["a"][:, None, None, :] * params["b"][None, :, None, :]
    return 0.5 * jnp.sum((jnp.sum(pairs * params["c"][None, None, :, :], axis=-1) - target) ** 2)


@table("orbit", [("fit",), ("silent",), ("half",)])
def tensors(seed: int, state: str) -> KnownPoint:
    """A 5 × 4 × 3 tensor of two orthogonal components: both fitted, or the second left out.

    With a₂ = b₂ = c₂ = 0 the loss goes first as −2abc along the missing component; with a₂ kept it has
    curvature of both signs along b₂ and c₂.
    """
    rng = draws(seed, len(state), 61)
    frames = {name: random_rotation(size, rng)[:, :2] for name, size in (("a", 5), ("b", 4), ("c", 3))}
    weights = np.array([3.0, 2.0])
    target = np.einsum("ik,jk,lk,k->ijl", frames["a"], frames["b"], frames["c"], weights)
    share = rng.uniform(0.7, 1.5, 2)
    share = {"a": share, "b": 1.0 / share, "c": np.ones(2)}
    params = {name: frames[name] * np.cbrt(weights) * share[name] for name in "abc"}
    name = f"tensor_{state}"
    if state == "fit":
        why = "zero loss; the scales of a, b and c of a component count only by their product"
        return KnownPoint(name, tensor_fit, params, "minimum", 0, target, num_zero=4, why=why, **ORBIT)
    for leaf in "bc" if state == "half" else "abc":
        params[leaf][:, 1] = 0.0
    if state == "half":
        why = "the missing component has curvature of both signs along b₂ and c₂"
        return KnownPoint(name, tensor_fit, params, "saddle", data=target, why=why, **SADDLE)
    descent = {leaf: frames[leaf] * np.array([0.0, 1.0]) / np.sqrt(3.0) for leaf in "abc"}
    why = "along the missing component the loss goes as −abc to leading order"
    return KnownPoint(name, tensor_fit, params, "saddle", 0, target, descent=descent, why=why, **ORBIT)


# ⅛ Σ (‖xᵢ − xⱼ‖² − dᵢⱼ²)² over all ordered pairs of rows.
stress = of_data(
    lambda p, squared: jnp.sum((jnp.sum((p[:, None] - p[None]) ** 2, axis=-1) - squared) ** 2) / 8.0
)


@table("orbit", product((False, True), range(2)))
def distances(seed: int, collapsed: bool, number: int) -> KnownPoint:
    """Eight places in space from their distances: there, and all in one place.

    In one place the Hessian is −½ times the Laplacian of the weights 2dᵢⱼ², for each coordinate; a shift is
    silent, and a symmetry.
    """
    rng = draws(seed, collapsed, number, 62)
    places = rng.standard_normal((8, 3))
    squared = np.sum((places[:, None] - places[None]) ** 2, axis=-1)
    if not collapsed:
        name, facts = f"distances_{number}", {"num_zero": 6, "why": "zero loss, and rigid motions", **ORBIT}
        return KnownPoint(name, stress, places, "minimum", 0, squared, **facts)
    laplacian = np.linalg.eigvalsh(np.diag(squared.sum(1)) - squared)
    curvature = -np.repeat(np.r_[laplacian[1:], 0.0], 3)
    why = "the Hessian is minus a Laplacian, and its null directions are shifts"
    params = np.zeros((8, 3)) + number * rng.standard_normal(3)
    name = f"distances_collapsed_{number}"
    return KnownPoint.from_curvature(name, stress, params, curvature, squared, why=why, **SADDLE)


def gaussian_mixture(params: dict[str, jax.Array], samples: Any) -> jax.Array:
    """Mean negative log-likelihood of a mixture of Gaussians of unit covariance, but for a constant."""
    apart = samples[:, None, :] - params["means"][None, :, :]
    logs = jax.nn.log_softmax(params["logits"])[None, :] - 0.5 * jnp.sum(apart**2, axis=-1)
    return -jnp.mean(jax.nn.logsumexp(logs, axis=1))


@table("orbit", 3)
def mixtures(seed: int, wide: int) -> KnownPoint:
    """Three components at the mean of samples that spread further than 1 along `wide` of two axes.

    With weights π and means moved by δ the loss changes by ½ mean (Σ πδ·z)² − ½ Σ π δᵀ(S − 1)δ, S the
    samples' covariance.  Samples within distance 1 of their mean have E exp(t·z) ≤ exp(½‖t‖²) (Hoeffding,
    1963, doi:10.1080/01621459.1963.10500830), so that no mixture does better (Lindsay, Ann. Stat. 11, 1983,
    doi:10.1214/aos/1176346059).
    """
    rng = draws(seed, wide, 63)
    angle, radius = rng.uniform(0.0, 2.0 * np.pi, 30), np.sqrt(rng.uniform(0.1, 0.95, 30))
    z = np.c_[radius * np.cos(angle), radius * np.sin(angle)]
    z = np.r_[z, -z] * np.where(np.arange(2) < wide, 4.0, 1.0)
    mean = rng.standard_normal(2)
    params = {"means": np.tile(mean, (3, 1)), "logits": rng.standard_normal(3)}
    name = f"mixture_{wide}"
    if wide:
        why = f"curvature −π(S − 1) along {2 * wide} directions that keep the mean, and 1 along the mean's"
        facts = {"num_zero": 3, **SADDLE}
        return KnownPoint(name, gaussian_mixture, params, "saddle", 2 * wide, mean + z, why=why, **facts)
    why = "no mixture of more components is better (Lindsay 1983); all weights give the same"
    return KnownPoint(name, gaussian_mixture, params, "minimum", 0, mean + z, num_zero=3, why=why, **ORBIT)


@of_data
def softmax_regression(params: dict[str, jax.Array], inputs: Any, targets: Any) -> jax.Array:
    """Mean cross-entropy of the classes' log-odds Wx + b."""
    logs = jax.nn.log_softmax(inputs @ params["W"].T + params["b"][None, :])
    return -jnp.mean(jnp.sum(targets * logs, axis=1))


@table("orbit", 3)
def constant_answers(seed: int, number: int) -> KnownPoint:
    """Inputs that say nothing of the class, each with its opposite: W = 0 or one row, and frequencies."""
    rng = draws(seed, number, 64)
    inputs, classes = rng.standard_normal((30, 4)), np.r_[0:3, rng.integers(0, 3, 27)]
    targets = np.eye(3)[np.r_[classes, classes]]
    rows = np.tile(float(number) * rng.standard_normal(4), (3, 1))
    params = {"W": rows, "b": np.log(targets.mean(0)) + rng.standard_normal()}
    why = "convex, zero gradient; one row and one constant may be added to all classes"
    name, data = f"constant_answer_{number}", (np.r_[inputs, -inputs], targets)
    return KnownPoint(name, softmax_regression, params, "minimum", 0, data, num_zero=5, why=why, **ORBIT)
