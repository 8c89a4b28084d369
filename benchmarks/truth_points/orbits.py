"""Extrema and saddles on orbits: symmetries keep the loss constant along curves through the point.

A minimum here is global unless its row says otherwise, so that nothing within any distance is lower.
"""

from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.truth_points.flat import factorisation
from benchmarks.truth_points.table import draws, of_data, table
from hessian_probe.problems import KnownPoint
from hessian_probe.problems.known_point import random_rotation

ORBIT: dict[str, Any] = {"degenerate": True, "isolated": False}
SADDLE: dict[str, Any] = {"isolated": False}
known = KnownPoint.from_curvature


def unit(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw a direction."""
    direction = rng.standard_normal(size)
    return direction / np.linalg.norm(direction)


# ½ mean (Σ vⱼ tanh(wⱼ·x) − y)²; x has a constant among its entries.
tanh_network = of_data(lambda p, x, y: 0.5 * jnp.mean((jnp.tanh(x @ p["w"].T) @ p["v"] - y) ** 2))


@table("orbit", product((2, 3), (False, True)))
def merged(seed: int, copies: int, misfit: bool) -> KnownPoint:
    """Three tanh units, the first in 2 or 3 copies that share its output weight.

    A residual r orthogonal to the outputs' derivatives keeps the gradient zero.  Moving the copies by u/share
    and −u/share then changes the loss by second order as uᵀBu does, B = mean of r v tanh''(w·x) xxᵀ
    (Fukumizu & Amari, Neural Networks 13, 2000, doi:10.1016/S0893-6080(00)00009-5).
    """
    rng, m = draws(seed, copies, misfit, 51), 40
    inputs = np.c_[rng.standard_normal((m, 3)), np.ones(m)]
    w, v = 1.5 * random_rotation(4, rng)[:3], np.array([1.0, 1.2, 0.8])
    hidden = np.tanh(inputs @ w.T)
    slopes = (1.0 - hidden**2) * v
    jacobian = np.c_[hidden, (slopes[:, :, None] * inputs[:, None, :]).reshape(m, -1)]
    basis, _ = np.linalg.qr(jacobian)
    best, residual = 0.0, np.zeros(m)
    for _ in range(50 if misfit else 0):
        r = rng.standard_normal(m)
        r -= basis @ (basis.T @ r)
        bend = np.linalg.eigvalsh(inputs.T @ ((-2.0 * r * hidden[:, 0] * slopes[:, 0])[:, None] * inputs) / m)
        if min(-bend[0], bend[-1]) > best:
            best, residual = float(min(-bend[0], bend[-1])), r
    shares = np.array([0.3, 0.7]) if copies == 2 else np.array([0.2, 0.3, 0.5])
    params = {"w": np.r_[np.repeat(w[:1], copies, 0), w[1:]], "v": np.r_[shares * v[0], v[1:]]}
    data = (inputs, hidden @ v - residual)
    name = f"merged_{copies}{'_misfit' * misfit}"
    if misfit:
        why = "the gradient is zero, and copies moved apart have curvature of both signs (Fukumizu & Amari)"
        return KnownPoint(name, tanh_network, params, "saddle", data=data, why=why, **SADDLE)
    zero, why = 5 * (copies - 1), "zero loss; w and v of every further copy add no rank to the Jacobian"
    return KnownPoint(name, tanh_network, params, "minimum", 0, data, num_zero=zero, why=why, **ORBIT)


def reflect(x: Any, mirror: Any) -> Any:
    """Reflect rows of x in the plane orthogonal to a unit vector (Householder)."""
    return x - 2.0 * (x @ mirror)[..., None] * mirror.reshape((1,) * (x.ndim - 1) + (-1,))


@of_data
def rayleigh(params: jax.Array, values: Any, mirror: Any) -> jax.Array:
    """Σ over rows of zᵀDz/zᵀz, z the reflected row and D diagonal."""
    z = reflect(params, mirror) ** 2
    return jnp.sum((z @ values) / jnp.sum(z, axis=-1))


def mirrored(eigenvector: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return a random unit vector and the mirror that takes a given one to it."""
    there = unit(rng, eigenvector.size)
    mirror = there - eigenvector
    return there, mirror / np.linalg.norm(mirror)


@table("orbit", [*product(((30,), (200,)), (0, 1, 2)), ((5000,), 2), ((50, 100), 0)])
def eigenvectors(seed: int, shape: tuple[int, ...], which: int) -> KnownPoint:
    """Rows at the eigenvectors of the lowest, the middle and the highest eigenvalue of one matrix."""
    rng, n, rows = draws(seed, *shape, which, 52), shape[-1], int(np.prod(shape[:-1]))
    bulk = rng.uniform(0.2, 1.0, n - 3) * np.where(np.arange(n - 3) % 2, 1.0, -1.0)
    values = np.r_[-2.0, 0.0, 2.0, bulk]
    there, mirror = mirrored(np.eye(n)[which], rng)
    lengths = rng.uniform(0.5, 2.0, shape[:-1])
    curvature = np.concatenate([2.0 * (values - values[which]) / r**2 for r in lengths.ravel()])
    name, params = f"eigenvector{which}_{rows}x{n}", lengths[..., None] * there
    why = "the Hessian at an eigenvector is 2(A − aₖ)/‖x‖², and x itself is its one null direction in a row"
    return known(name, rayleigh, params, curvature, (values, mirror), why=why, isolated=False)


def quartic_on_sphere(params: jax.Array, mirror: Any) -> jax.Array:
    """−Σ zᵢ⁴/‖z‖⁴ at the reflected z: minus the largest share that one component explains."""
    z = reflect(params, mirror) ** 2
    return -jnp.sum(z**2) / jnp.sum(z) ** 2


@table("orbit", [(10, 1), (10, 3), (10, 10), (200, 1), (200, 40), (200, 200), (5000, 2500)])
def orthogonal_tensors(seed: int, n: int, support: int) -> KnownPoint:
    """A symmetric orthogonal tensor of order 4 on the sphere, where `support` components share equally.

    Along the sphere the curvature is −8/s within the support of s components (s − 1 directions) and +4/s
    outside of it (n − s): Anandkumar et al., "Tensor decompositions for learning latent variable models"
    (J. Mach. Learn. Res. 15, 2014), theorem 4.1.
    """
    rng = draws(seed, n, support, 53)
    z = np.zeros(n)
    z[rng.permutation(n)[:support]] = rng.choice([-1.0, 1.0], support) / np.sqrt(support)
    there, mirror = mirrored(z, rng)
    length = rng.uniform(0.5, 3.0)
    curvature = np.r_[np.full(support - 1, -8.0), np.full(n - support, 4.0), 0.0] / (support * length**2)
    why = f"{support - 1} directions of −8/s and {n - support} of 4/s on the unit sphere, s = {support}"
    name = f"orthogonal_tensor_{support}_of_{n}"
    return known(name, quartic_on_sphere, length * there, curvature, mirror, why=why, isolated=False)


# ½ mean (X(g v/‖v‖) − y)².
weight_norm = of_data(
    lambda p, x, y: 0.5 * jnp.mean((x @ (p["g"] * p["v"] / jnp.sqrt(jnp.sum(p["v"] ** 2))) - y) ** 2)
)


@table("orbit", product((0.3, 3.0), (False, True)))
def weight_norms(seed: int, length: float, silent: bool) -> KnownPoint:
    """Least squares by weights of a length g and a direction v, at the solution and at g = 0.

    At g = 0 with v orthogonal to Xᵀy the curvature is positive along g, zero along v, and their product has
    the coefficient −Xᵀy/(m‖v‖): a Hessian of rank 2 and of both signs.
    """
    rng, n, m = draws(seed, int(10 * length), silent, 54), 8, 30
    inputs, noise = rng.standard_normal((m, n)), rng.standard_normal(m)
    weights = rng.standard_normal(n)
    noise -= inputs @ np.linalg.lstsq(inputs, noise)[0]
    targets = inputs @ weights + 0.3 * noise
    pull = inputs.T @ targets / np.linalg.norm(inputs.T @ targets)
    v = rng.standard_normal(n)
    v = v - pull * (pull @ v) if silent else weights
    g = np.array([0.0 if silent else np.linalg.norm(weights)])
    params = {"g": g, "v": length * v / np.linalg.norm(v)}
    name, data = f"weight_norm_{length:g}{'_silent' * silent}", (inputs, targets)
    if silent:
        why = "positive along g and, off the diagonal, not zero: both signs"
        return KnownPoint(name, weight_norm, params, "saddle", 1, data, num_zero=n - 1, why=why, **SADDLE)
    why = "the solution of a convex problem in g v/‖v‖, which the length of v does not change"
    return KnownPoint(name, weight_norm, params, "minimum", 0, data, num_zero=1, why=why, **ORBIT)


# ½ Σ Aᵢⱼ (1 − cos(θᵢ − θⱼ − φᵢⱼ)), unchanged by a shift of all phases.
phase_energy = of_data(
    lambda p, links, offsets: 0.5 * jnp.sum(links * (1.0 - jnp.cos(p[:, None] - p[None, :] - offsets)))
)


@table("orbit", [("complete", 0), ("complete", 1), ("bipartite", 0), ("bipartite", 6)])
def phases(seed: int, graph: str, turned: int) -> KnownPoint:
    """Twelve phases in step, and with the first 1 or 6 turned by π: links between the parts weigh −1."""
    rng, side = draws(seed, len(graph), turned, 55), np.arange(12) < 6
    links = 1.0 - np.eye(12) if graph == "complete" else (side[:, None] != side[None, :]).astype(np.float64)
    params = rng.uniform(-np.pi, np.pi, 12)
    offsets = params[:, None] - params[None, :]
    params[:turned] += np.pi
    sign = np.where(np.arange(12) < turned, -1.0, 1.0)
    signed = links * np.outer(sign, sign)
    curvature = np.linalg.eigvalsh(np.diag(signed.sum(1)) - signed)
    curvature[np.abs(curvature) < 1e-9] = 0.0
    name, why = f"phases_{graph}_{turned}", "the Hessian is the Laplacian of the links with these signs"
    return known(name, phase_energy, params, curvature, (links, offsets), why=why, isolated=False)


@table("orbit", product((3, 5), (3, 2)))
def low_rank(seed: int, width: int, fitted: int) -> KnownPoint:
    """A 12 × 10 matrix of rank 3 in factors as wide or wider, with all or two of its singular pairs."""
    rng = draws(seed, width, fitted, 56)
    left, right = random_rotation(12, rng)[:, :3], random_rotation(10, rng)[:, :3]
    values = np.array([3.0, 2.0, 1.0])
    mix = random_rotation(width, rng)[:3] * rng.uniform(0.7, 1.5, width)
    root = np.sqrt(values) * (np.arange(3) < fitted)
    params = {"U": left * root @ mix, "V": right * root @ np.linalg.pinv(mix).T}
    name, target = f"low_rank_{width}_fit_{fitted}", left * values @ right.T
    if fitted < 3:
        why = "a singular pair is left out (Baldi & Hornik 1989)"
        return KnownPoint(name, factorisation, params, "saddle", data=target, why=why, **SADDLE)
    return KnownPoint(name, factorisation, params, "minimum", 0, target, why="zero loss", **ORBIT)


# ¼‖XXᵀ − M‖²; ½ Σ over the entries seen of (UVᵀ − M)².
gram = of_data(lambda p, target: 0.25 * jnp.sum((p @ p.T - target) ** 2))
completion = of_data(lambda p, seen, target: 0.5 * jnp.sum(seen * (p["U"] @ p["V"].T - target) ** 2))


@table("orbit", [("all", 3), ("two", 3), ("none", 3), ("none", 12)])
def grams(seed: int, fitted: str, rank: int) -> KnownPoint:
    """XXᵀ with X of shape (12, 3) at a positive semidefinite matrix of rank 3, and at zero.

    At X = 0 the Hessian is −M for each column: a maximum where M has full rank, else ¼‖XXᵀ‖² rises on the
    null space of M.
    """
    rng = draws(seed, len(fitted), rank, 57)
    basis, values = random_rotation(12, rng)[:, :rank], rng.uniform(1.0, 3.0, rank)
    count = {"all": 3, "two": 2, "none": 0}[fitted]
    params = basis[:, :3] * np.sqrt(values[:3]) * (np.arange(3) < count) @ random_rotation(3, rng)
    name, target = f"gram_{fitted}_rank_{rank}", basis * values @ basis.T
    if count:
        facts = {"index": 0, "num_zero": 3, **ORBIT} if count == 3 else SADDLE
        why = "zero loss; the orbit of X under rotations" if count == 3 else "an eigenvector is left out"
        label = "minimum" if count == 3 else "saddle"
        return KnownPoint(name, gram, params, label, data=target, why=why, **facts)
    curvature = -np.repeat(np.r_[values, np.zeros(12 - rank)], 3)
    why = "the Hessian is −M, and ¼‖XXᵀ‖² rises where M is silent"
    label = "maximum" if rank == 12 else "saddle"
    return known(name, gram, params, curvature, target, label=label, why=why)


@table("orbit", 2)
def completions(seed: int, number: int) -> KnownPoint:
    """A 16 × 12 matrix of rank 2 of which two thirds are seen, at its factors."""
    rng = draws(seed, number, 58)
    params = {"U": rng.standard_normal((16, 2)), "V": rng.standard_normal((12, 2))}
    data = ((rng.random((16, 12)) < 0.67).astype(np.float64), params["U"] @ params["V"].T)
    name = f"completion_{number}"
    return KnownPoint(name, completion, params, "minimum", 0, data, why="zero loss", **ORBIT)
