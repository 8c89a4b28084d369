"""Small networks of rows: an init and an apply each, made once for each shape to reuse programs."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.zoo import layers as nn
from benchmarks.zoo.layers import Model, Params


@functools.cache
def dense(
    widths: tuple[int, ...], activation: str = "none", gain: Any = 1.0, last: str = "none", stream: int = 2
) -> Model:
    """A fully connected network; `gain` may differ by layer, `last` is the activation of the output."""
    gains = gain if isinstance(gain, tuple) else (gain,) * (len(widths) - 1)
    sizes = zip(itertools.pairwise(widths), gains, strict=True)

    def apply(params: Params, inputs: Any) -> Any:
        hidden = nn.flattened(inputs)
        for layer in params[:-1]:
            hidden = nn.ACTIVATIONS[activation](nn.linear(layer, hidden))
        return nn.ACTIVATIONS[last](nn.linear(params[-1], hidden))

    return nn.drawn(stream, [nn.affine(*size, gain=gain) for size, gain in sizes]), apply


@functools.cache
def mean_of_inputs(classes: int = 10) -> Model:
    """A linear model of one number, the mean of the inputs."""
    init, apply = dense((1, classes))
    return init, lambda params, inputs: apply(params, nn.flattened(inputs).mean(axis=1, keepdims=True))


@functools.cache
def residual(
    width: int, blocks: int, classes: int, inputs: int, gain: float = 1.0, normed: bool = False
) -> Model:
    """Blocks x + gelu(x W) V behind a linear embedding; `normed`: each behind a layer norm."""

    def apply(params: Params, inputs: Any) -> Any:
        hidden = inputs @ params["embed"]
        scales = params["scale"] if normed else [None] * blocks
        for scale, block in zip(scales, params["blocks"], strict=True):
            middle = hidden
            if scale is not None:
                middle = hidden - hidden.mean(-1, keepdims=True)
                middle = scale * middle / jnp.sqrt(jnp.mean(middle**2, -1, keepdims=True) + 1e-5)
            hidden = hidden + jax.nn.gelu(middle @ block["w"]) @ block["v"]
        return hidden @ params["out"]

    pairs = [{name: nn.weights(width, width, gain=gain) for name in "wv"} for _ in range(blocks)]
    spec = {"embed": nn.weights(inputs, width), "blocks": pairs, "out": nn.weights(width, classes)}
    return nn.drawn(11, spec | ({"scale": nn.ones(blocks, width)} if normed else {})), apply


@functools.cache
def layer_normed(widths: tuple[int, ...], activation: str) -> Model:
    """A dense network whose units are normalised over each layer before their activation."""

    def apply(params: Params, inputs: Any) -> Any:
        hidden = inputs
        for layer in params["layers"]:
            hidden = nn.normalised(hidden @ layer["w"]) * layer["scale"] + layer["offset"]
            hidden = nn.ACTIVATIONS[activation](hidden)
        return nn.linear(params["out"], hidden)

    sizes = itertools.pairwise(widths[:-1])
    layers = [{"w": nn.weights(a, b), "scale": nn.ones(b), "offset": nn.zeros(b)} for a, b in sizes]
    return nn.drawn(24, {"layers": layers, "out": nn.affine(*widths[-2:])}), apply


@functools.cache
def batch_normed(inputs: int, hidden: int, outputs: int) -> Model:
    """A dense network whose hidden units are normalised over the batch (Ioffe & Szegedy 2015)."""

    def apply(params: Params, inputs: Any) -> Any:
        sums = inputs @ params["in"]
        spread = jnp.sqrt(jnp.var(sums, axis=0) + 1e-3)
        scaled = (sums - jnp.mean(sums, axis=0)) / spread
        return nn.linear(params["out"], jax.nn.leaky_relu(params["scale"] * scaled + params["shift"], 0.1))

    spec = {"in": nn.weights(inputs, hidden), "scale": nn.ones(hidden), "shift": nn.zeros(hidden)}
    return nn.drawn(104, spec | {"out": nn.affine(hidden, outputs, gain=0.5)}), apply


@functools.cache
def gated_layers(
    widths: tuple[int, ...], *, stream: int, gain: float = 1.0, gate: str = "sigmoid", biased: bool = False
) -> Model:
    """Layers x W · gate(x V): gated linear units (Dauphin et al. 2017), or polynomials; then a linear one."""

    def apply(params: Params, inputs: Any) -> Any:
        hidden = inputs
        for layer in params["layers"]:
            sums, gates = hidden @ layer["w"], hidden @ layer["v"]
            hidden = sums * nn.ACTIVATIONS[gate](gates + layer["b"] if biased else gates)
        return nn.linear(params["out"], hidden)

    layers, gain_of_gates = [], gain if gate == "none" else 1.0
    for size in itertools.pairwise(widths[:-1]):
        layers.append({"w": nn.weights(*size, gain=gain), "v": nn.weights(*size, gain=gain_of_gates)})
        layers[-1] |= {"b": nn.zeros(size[1])} if biased else {}
    return nn.drawn(stream, {"layers": layers, "out": nn.affine(*widths[-2:])}), apply


@functools.cache
def linear_coder(code: int) -> Model:
    """A linear autoencoder of digits without intercepts."""
    init = nn.drawn(29, {"in": nn.weights(64, code), "out": nn.weights(code, 64, gain=0.3)})
    return init, lambda params, inputs: inputs @ params["in"] @ params["out"]


@functools.cache
def small_coder() -> Model:
    """A linear autoencoder of 13 numbers with a code of four."""
    init = nn.drawn(16, {"code": nn.noise(0.3, 13, 4), "out": nn.noise(0.3, 4, 13)})
    return init, lambda params, inputs: inputs @ params["code"] @ params["out"]


@functools.cache
def sparse_coder(units: int, threshold: float) -> Model:
    """An autoencoder of digits whose codes are shrunk by a threshold each (Gregor & LeCun 2010)."""

    def apply(params: Params, inputs: Any) -> Any:
        sums = inputs @ params["in"]
        up, down = sums - params["threshold"], -sums - params["threshold"]
        return nn.linear(params["out"], jax.nn.relu(up) - jax.nn.relu(down))

    spec = {"in": nn.weights(64, units, gain=1.4), "threshold": jnp.full(units, threshold, jnp.float32)}
    return nn.drawn(58, spec | {"out": nn.affine(units, 64, gain=0.3)}), apply


@functools.cache
def factorisation_machine(inputs: int, rank: int, scale: float) -> Model:
    """A linear model and products of inputs through factors (Rendle 2010)."""

    def apply(params: Params, inputs: Any) -> Any:
        pairs = (inputs @ params["factors"]) ** 2 - inputs**2 @ params["factors"] ** 2
        return inputs @ params["linear"] + params["bias"] + 0.5 * pairs.sum(axis=1, keepdims=True)

    spec = {"factors": nn.noise(scale, inputs, rank), "bias": nn.zeros(1)}
    return nn.drawn(41, spec | {"linear": nn.weights(inputs, 1, gain=0.1)}), apply


@functools.cache
def pairwise_factors(inputs: int, rank: int, scale: float) -> Model:
    """A factorisation machine whose linear part starts at zero."""

    def apply(params: Params, inputs: Any) -> Any:
        sums = inputs @ params["linear"] + params["bias"]
        squared, own = inputs @ params["pairs"], inputs**2 @ params["pairs"] ** 2
        return (sums + 0.5 * jnp.sum(squared**2 - own, axis=-1))[:, None]

    spec = {"bias": nn.zeros(1), "linear": nn.zeros(inputs), "pairs": nn.noise(scale, inputs, rank)}
    return nn.drawn(102, spec), apply


@functools.cache
def table(rows: int, columns: int, rank: int, scale: float) -> Model:
    """Rows of a table as products of a row's and the columns' factors; inputs are numbers of rows."""
    init = nn.drawn(42, {"row": nn.noise(scale, rows, rank), "column": nn.noise(scale, rank, columns)})
    return init, lambda params, inputs: params["row"][inputs] @ params["column"]


@functools.cache
def recommender(rows: int, columns: int, width: int) -> Model:
    """Vectors for two kinds of number; the answer is their product and an offset for each."""
    counts = {"rows": rows, "columns": columns}

    def apply(params: Params, inputs: Any) -> Any:
        row, column = (
            {name: part[inputs[:, i]] for name, part in params[kind].items()} for i, kind in enumerate(counts)
        )
        product = jnp.sum(row["vector"] * column["vector"], axis=1, keepdims=True)
        return product + row["offset"] + column["offset"]

    spec = {name: {"vector": nn.noise(0.3, n, width), "offset": nn.zeros(n, 1)} for name, n in counts.items()}
    return nn.drawn(88, spec), apply


@functools.cache
def token_sum(width: int, deviation: float, scale: float, classes: int = 10) -> Model:
    """A vector for each token, their sum times a scale, tanh, and a linear layer."""
    init = nn.drawn(91, {"table": nn.noise(deviation, 17 * 64, width), "out": nn.affine(width, classes)})
    return init, lambda params, x: nn.linear(params["out"], jnp.tanh(scale * params["table"][x].sum(axis=1)))


@functools.cache
def branched(inputs: int, width: int, gate: float) -> Model:
    """A linear model and a branch behind a gate (Bachlechner et al. 2021); its last weights start at zero."""

    def apply(params: Params, inputs: Any) -> Any:
        branch = jax.nn.silu(nn.linear(params["in"], inputs)) @ params["out"]
        return nn.linear(params["line"], inputs) + params["gate"] * branch

    spec = {"line": nn.affine(inputs, 1, gain=0.1), "in": nn.affine(inputs, width, gain=3.0)}
    return nn.drawn(59, spec | {"out": nn.zeros(width, 1), "gate": jnp.asarray(gate, jnp.float32)}), apply


@functools.cache
def siamese(width: int, ordered: bool) -> Model:
    """Two images through one network; the answer is made from their distance (or their difference)."""

    def apply(params: Params, inputs: Any) -> Any:
        halves = jnp.split(inputs, 2, axis=1)
        first, second = (jnp.tanh(nn.linear(params["in"], half)) for half in halves)
        return nn.linear(params["out"], first - second if ordered else (first - second) ** 2)

    return nn.drawn(60, {"in": nn.affine(64, width, gain=1.4), "out": nn.affine(width, 1)}), apply


@functools.cache
def routed_experts(count: int, width: int, inputs: int, classes: int, *, one: bool) -> Model:
    """A mixture of experts with one hidden layer each: all of them (Jacobs et al. 1991) or the likeliest."""

    def apply(params: Params, inputs: Any) -> Any:
        share, hidden = routed(params, inputs, one)
        answers = jnp.einsum("neh,ehc->nec", hidden, params["down"]) + params["offset"]
        return jnp.einsum("ne,nec->nc", share, answers)

    up = nn.stacked(count, nn.weights(inputs, width, gain=1.4))
    down = nn.stacked(count, nn.weights(width, classes))
    spec = {"router": nn.affine(inputs, count), "up": up, "bias": nn.zeros(count, width)}
    return nn.drawn(73, spec | {"down": down, "offset": nn.zeros(count, classes)}), apply


def routed(params: Params, inputs: Any, one: bool) -> Any:
    """Each expert's share in the answer, and the hidden units of the experts that are asked."""
    share = jax.nn.softmax(nn.linear(params["router"], inputs))
    hidden = jax.nn.relu(jnp.einsum("ni,eih->neh", inputs, params["up"]) + params["bias"])
    if one:
        asked = jax.nn.one_hot(jnp.argmax(share, axis=1), share.shape[1])
        share, hidden = share * asked, hidden * asked[..., None]
    return share, hidden


@functools.cache
def soft_experts(inputs: int, count: int, outputs: int, hidden: int = 0, copied: bool = False) -> Model:
    """Experts weighted by a softmax router; `copied`: all are the first one, and the router is zero."""

    def apply(params: Params, inputs: Any) -> Any:
        rows = jax.nn.gelu(inputs[None] @ params["up"]) if hidden else inputs[None]
        answers = rows @ params["down"] + params["bias"][:, None]
        shares = jax.nn.softmax(inputs @ params["router"])
        return jnp.einsum("nk,kno->no", shares, jnp.broadcast_to(answers, (count, len(inputs), outputs)))

    def each(*shape: int) -> nn.Draw:
        draw = nn.stacked(count, nn.weights(*shape))
        return lambda rng: draw(rng)[:1].repeat(count, 0) if copied else draw(rng)

    up, down = {"up": each(inputs, hidden)} if hidden else {}, {"down": each(hidden or inputs, outputs)}
    router = nn.zeros(inputs, count) if copied else nn.weights(inputs, count)
    return nn.drawn(82, up | down | {"bias": nn.zeros(count, outputs), "router": router}), apply


@functools.cache
def soft_tree(depth: int, inputs: int, classes: int, sharpness: float) -> Model:
    """A tree whose forks are sigmoids of sums of the inputs (Frosst & Hinton 2017)."""

    def apply(params: Params, inputs: Any) -> Any:
        right = forks(params, inputs, sharpness)
        reach = jnp.ones((len(inputs), 1), inputs.dtype)
        for level in range(depth):
            turn = right[:, 2**level - 1 : 2 ** (level + 1) - 1]
            reach = jnp.stack([reach * (1 - turn), reach * turn], axis=-1).reshape(len(inputs), -1)
        return jnp.log(reach @ jax.nn.softmax(params["leaf"]) + 1e-6)

    spec = {"fork": nn.affine(inputs, 2**depth - 1, gain=2.0), "leaf": nn.noise(0.1, 2**depth, classes)}
    return nn.drawn(74, spec), apply


def forks(params: Params, inputs: Any, sharpness: float) -> Any:
    """How far each fork of `soft_tree` sends an input to the right, 0 to 1."""
    return jax.nn.sigmoid(sharpness * nn.linear(params["fork"], inputs))


@functools.cache
def flow(inputs: int, width: int, end: float, steps: int = 40) -> Model:
    """A differential equation solved by Euler's steps from time 0 to an end (Chen et al. 2018)."""

    def apply(params: Params, inputs: Any) -> Any:
        field = params["field"]

        def step(state: Any, _: Any) -> Any:
            slope = jax.nn.silu(nn.linear(field, state)) @ field["v"]
            return state + end / steps * slope, None

        state, _ = jax.lax.scan(step, inputs @ params["in"], None, length=steps)
        return nn.linear(params["out"], state)

    field = {**nn.affine(width, 2 * width, gain=1.4), "v": nn.weights(2 * width, width)}
    return nn.drawn(76, {"in": nn.weights(inputs, width), "field": field, "out": nn.affine(width, 1)}), apply


@functools.cache
def additive(inputs: int, width: int) -> Model:
    """A sum of small networks that see one input each (Agarwal et al. 2021)."""

    def apply(params: Params, inputs: Any) -> Any:
        hidden = jnp.tanh(inputs[:, :, None] * params["w"] + params["b"])
        return jnp.sum(hidden * params["v"], axis=(1, 2))[:, None] + params["offset"]

    spec = {name: nn.noise(size, inputs, width) for name, size in (("w", 3.0), ("b", 2.0), ("v", 0.5))}
    return nn.drawn(77, spec | {"offset": nn.zeros(1)}), apply


@functools.cache
def radial_bases(width: float) -> Model:
    """Gaussian bumps of a width around centres that are parameters, and a weighted sum of them."""

    def apply(params: Params, inputs: Any) -> Any:
        distance = jnp.sum((inputs[:, None] - params["centres"]) ** 2, axis=-1)
        return nn.linear(params, jnp.exp(-distance / (2 * width**2)))

    return None, apply


@functools.cache
def random_cosines(count: int, spread: float, inputs: int = 64, classes: int = 10) -> Model:
    """Cosines of fixed random sums of the inputs (Rahimi & Recht 2007), and a linear layer."""
    rng = np.random.default_rng(93)
    sums = (spread * rng.standard_normal((inputs, count))).astype(np.float32)
    phases = rng.uniform(0, 2 * np.pi, count).astype(np.float32)

    def apply(params: Params, inputs: Any) -> Any:
        return nn.linear(params, np.sqrt(2) * jnp.cos(inputs @ sums + phases))

    return nn.drawn(94, nn.affine(count, classes, gain=0.1)), apply


@functools.cache
def heights(count: int, waves: bool) -> Model:
    """Heights of points, of which differences were measured (or waves of heights, scaled by their slope)."""
    steps, basis = np.arange(count), np.eye(count)
    if waves:
        basis = np.cos(np.pi * (steps[:, None] + 0.5) * steps[None, 1:] / count)
        basis /= np.linalg.norm(np.diff(basis, axis=0), axis=0)
    basis, init = basis.astype(np.float32), nn.drawn(0, {"height": nn.zeros(basis.shape[1])})
    return init, lambda params, inputs: jnp.diff((basis @ params["height"])[inputs], axis=1)


@functools.cache
def normal_mixture(groups: int, equal: bool, width: float = 0.5) -> Model:
    """A mixture of normal densities of one width in four dimensions: log densities of the groups."""
    means = nn.noise(1.0, groups, 4)

    def apply(params: Params, inputs: Any) -> Any:
        far = jnp.sum((inputs[:, None] - params["means"]) ** 2, axis=-1)
        return jax.nn.log_softmax(params["shares"]) - 0.5 * far / width**2

    start = (lambda rng: jnp.tile(means(rng)[:1], (groups, 1))) if equal else means
    return nn.drawn(201, {"means": start, "shares": nn.zeros(groups)}), apply


@functools.cache
def neighbours(*, diagonal: bool, scaled: bool) -> np.ndarray:
    """Which cells of a 4 × 4 grid touch, themselves included; scaled as in Kipf & Welling (2017)."""
    place = np.indices((4, 4)).reshape(2, -1).T
    apart = abs(place[:, None] - place)
    touch = ((apart.max(-1) if diagonal else apart.sum(-1)) <= 1).astype(np.float64)
    degree = np.sqrt(touch.sum(axis=1))
    return (touch / degree / degree[:, None] if scaled else touch).astype(np.float32)


@functools.cache
def graph(width: int, classes: int = 10) -> Model:
    """Two graph convolutions over the sixteen squares of a digit, then a linear layer of all of them."""

    def apply(params: Params, inputs: Any) -> Any:
        near = neighbours(diagonal=False, scaled=True)
        hidden = jax.nn.silu(near @ (nn.squares_of(inputs) @ params["embed"]) + params["place"])
        hidden = jax.nn.silu(near @ (hidden @ params["mix"]) + params["bias"])
        return nn.linear(params["out"], nn.flattened(hidden))

    spec = {"embed": nn.weights(4, width, gain=1.4), "place": nn.noise(0.3, 16, width)}
    spec |= {"mix": nn.weights(width, width, gain=1.4), "bias": nn.zeros(width)}
    return nn.drawn(81, spec | {"out": nn.affine(16 * width, classes)}), apply


@functools.cache
def deep_graph(width: int, depth: int, *, scaled: bool, classes: int = 10) -> Model:
    """Graph convolutions over the sixteen squares of a digit; each adds up its neighbours, or scales them."""

    def apply(params: Params, inputs: Any) -> Any:
        links, hidden = neighbours(diagonal=True, scaled=scaled), nn.squares_of(inputs)
        for layer in params["layers"]:
            hidden = jax.nn.relu(jnp.einsum("ij,njc->nic", links, hidden @ layer["w"]) + layer["b"])
        return nn.linear(params["out"], nn.flattened(hidden))

    layers = [nn.affine(*size, gain=1.4) for size in itertools.pairwise([4] + [width] * depth)]
    return nn.drawn(92, {"layers": layers, "out": nn.affine(16 * width, classes)}), apply
