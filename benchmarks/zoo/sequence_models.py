"""Small networks of sequences, recurrent or with attention: an init and an apply each."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.zoo import layers as nn
from benchmarks.zoo.layers import Model, Params


@functools.cache
def recurrent(width: int, activation: str, gain: float = 1.0) -> Model:
    """A recurrent network that reads the eight rows of a digit in an unrolled loop."""

    def apply(params: Params, inputs: Any) -> Any:
        rows = inputs.reshape(-1, 8, 8)
        hidden = jnp.zeros((len(rows), width), rows.dtype)
        for row in range(8):
            sums = rows[:, row] @ params["in"] + hidden @ params["again"] + params["bias"]
            hidden = nn.ACTIVATIONS[activation](sums)
        return nn.linear(params["out"], hidden)

    spec = {"in": nn.weights(8, width), "again": nn.weights(width, width, gain=gain), "bias": nn.zeros(width)}
    return nn.drawn(14, spec | {"out": nn.affine(width, 10)}), apply


def read(
    step: Any, params: Params, rows: Any, states: int = 1, *, every: bool = False, reverse: bool = False
) -> Any:
    """Read rows in the order (row, sample, column); the last hidden state, or that behind every row."""

    def scanned(carry: Any, row: Any) -> Any:
        carry = step(params, carry, row)
        return carry, carry[0] if every else None

    blank = jnp.zeros((rows.shape[1], len(params["again"])), rows.dtype)
    carry, seen = jax.lax.scan(scanned, (blank,) * states, rows, reverse=reverse)
    return seen if every else carry[0]


def time_first(inputs: Any, columns: int) -> Any:
    """Rows of each sample in the order (row, sample, column)."""
    return inputs.reshape(len(inputs), -1, columns).swapaxes(0, 1)


@functools.cache
def scanned(width: int, activation: str, gain: float = 1.0, biased: bool = True) -> Model:
    """A recurrent network that reads rows by `lax.scan`; biases are in the recurrence, or at the output."""

    def step(params: Params, carry: Any, row: Any) -> Any:
        sums = row @ params["in"] + carry[0] @ params["again"]
        return (nn.ACTIVATIONS[activation](sums + params["bias"] if biased else sums),)

    def apply(params: Params, inputs: Any) -> Any:
        hidden = read(step, params, time_first(inputs, 8))
        return hidden @ params["out"] if biased else nn.linear(params["out"], hidden)

    spec = {"in": nn.weights(8, width), "again": nn.weights(width, width, gain=gain)}
    if biased:
        return nn.drawn(21, spec | {"bias": nn.zeros(width), "out": nn.weights(width, 10)}), apply
    return nn.drawn(23, spec | {"out": nn.affine(width, 10)}), apply


def lstm_step(params: Params, carry: Any, row: Any) -> Any:
    """Long short-term memory (Hochreiter & Schmidhuber 1997)."""
    hidden, cell = carry
    sums = row @ params["in"] + hidden @ params["again"] + params["bias"]
    forget, enter, leave, new = jnp.split(sums, 4, axis=-1)
    cell = jax.nn.sigmoid(forget) * cell + jax.nn.sigmoid(enter) * jnp.tanh(new)
    return jax.nn.sigmoid(leave) * jnp.tanh(cell), cell


def gru_step(params: Params, carry: Any, row: Any, keeps: bool = False) -> Any:
    """Gated recurrent units (Cho et al. 2014), whose first gate renews the state, or keeps it."""
    seen = jnp.split(row @ params["in"] + params["bias"], 3, axis=-1)
    kept = jnp.split(carry[0] @ params["again"], 3, axis=-1)
    gate, reset = (jax.nn.sigmoid(seen[i] + kept[i]) for i in (0, 1))
    new = jnp.tanh(seen[2] + reset * kept[2])
    return (gate * carry[0] + (1 - gate) * new if keeps else (1 - gate) * carry[0] + gate * new,)


def gates(columns: int, width: int, count: int) -> Params:
    """Weights of the gates of a memory, not yet drawn."""
    sums = count * width
    return {"in": nn.weights(columns, sums), "again": nn.weights(width, sums), "bias": nn.zeros(sums)}


@functools.cache
def lstm(width: int, columns: int, outputs: int) -> Model:
    """An LSTM that reads rows; its forget gates start open."""

    def apply(params: Params, inputs: Any) -> Any:
        return nn.linear(params["out"], read(lstm_step, params, time_first(inputs, columns), 2))

    spec = gates(columns, width, 4)
    opened = {"bias": spec["bias"].at[:width].set(1.0), "out": nn.affine(width, outputs)}
    return nn.drawn(51, spec | opened), apply


@functools.cache
def stacked_lstm(width: int, depth: int, columns: int, outputs: int) -> Model:
    """Layers of LSTM, each read forwards and backwards, and their mean over the rows."""

    def apply(params: Params, inputs: Any) -> Any:
        rows = time_first(inputs, columns)
        for ways in params["layers"]:
            both = [read(lstm_step, at, rows, 2, every=True, reverse=bool(i)) for i, at in enumerate(ways)]
            rows = jnp.concatenate(both, axis=-1)
        return nn.linear(params["out"], rows.mean(axis=0))

    sizes = (columns, *(2 * width,) * (depth - 1))
    layers = [[gates(size, width, 4) for _ in range(2)] for size in sizes]
    return nn.drawn(85, {"layers": layers, "out": nn.affine(2 * width, outputs)}), apply


@functools.cache
def gru(width: int, columns: int, outputs: int, *, keeps: bool = False) -> Model:
    """Gated recurrent units that read rows; the output sees their mean over time, or the last state kept."""

    def apply(params: Params, inputs: Any) -> Any:
        step = functools.partial(gru_step, keeps=keeps)
        seen = read(step, params, time_first(inputs, columns), every=not keeps)
        return nn.linear(params["out"], seen if keeps else seen.mean(axis=0))

    spec = {**gates(columns, width, 3), "out": nn.affine(width, outputs)}
    return nn.drawn(22 if keeps else 83, spec), apply


@functools.cache
def causal(channels: int) -> Model:
    """Dilated causal convolutions with skips (van den Oord et al. 2016) predict each next value of a line."""
    gaps = (1, 2, 4)

    def apply(params: Params, inputs: Any) -> Any:
        hidden = inputs[..., None] @ params["embed"]
        for gap, taps, bias in zip(gaps, params["taps"], params["bias"], strict=True):
            before = jnp.pad(hidden, ((0, 0), (gap, 0), (0, 0)))[:, :-gap]
            hidden = hidden + jnp.tanh(before @ taps[0] + hidden @ taps[1] + bias)
        return nn.linear(params["out"], hidden)[..., 0]

    taps = nn.stacked(len(gaps), nn.weights(2, channels, channels))
    spec = {"embed": nn.weights(1, channels), "taps": taps}
    spec |= {"bias": nn.zeros(len(gaps), channels), "out": nn.affine(channels, 1, gain=0.03)}
    return nn.drawn(85, spec), apply


def projections(width: int, deviation: float) -> Params:
    """Weights of one layer of attention over rows of eight numbers, and of their places, not yet drawn."""
    inner = {name: nn.weights(width, width) for name in "qkv"}
    return {"embed": nn.weights(8, width), **inner, "place": nn.noise(deviation, 8, width)}


@functools.cache
def attention(width: int = 16, hidden: int = 32) -> Model:
    """One attention head over the eight rows of a digit, then a small dense part."""

    def apply(params: Params, inputs: Any) -> Any:
        rows = inputs.reshape(-1, 8, 8) @ params["embed"] + params["place"]
        q, k, v = (rows @ params[name] for name in "qkv")
        scores = jax.nn.softmax(q @ jnp.swapaxes(k, 1, 2) / np.sqrt(width), axis=-1)
        return jax.nn.relu(nn.flattened(rows + scores @ v) @ params["up"]) @ params["out"]

    spec = {**projections(width, 0.3), "up": nn.weights(8 * width, hidden, gain=1.4)}
    return nn.drawn(4, spec | {"out": nn.weights(hidden, 10)}), apply


@functools.cache
def two_heads(width: int = 12, classes: int = 10) -> Model:
    """Two heads of attention over the columns of a digit, then a normalised dense part."""

    def apply(params: Params, inputs: Any) -> Any:
        columns = jnp.swapaxes(inputs.reshape(-1, 8, 8), 1, 2)
        tokens = columns @ params["embed"] + params["place"]
        parts = [(tokens @ params[name]).reshape(-1, 8, 2, width // 2) for name in "qkv"]
        scores = jnp.einsum("nihc,njhc->nhij", parts[0], parts[1]) / np.sqrt(width // 2)
        mixed = jnp.einsum("nhij,njhc->nihc", jax.nn.softmax(scores, axis=-1), parts[2])
        tokens = tokens + mixed.reshape(tokens.shape)
        spread = jnp.std(tokens, axis=-1, keepdims=True) + 1e-3
        tokens = params["scale"] * (tokens - jnp.mean(tokens, axis=-1, keepdims=True)) / spread
        tokens = tokens + jax.nn.gelu(tokens @ params["up"]) @ params["down"]
        return nn.flattened(tokens) @ params["out"]

    spec = {**projections(width, 0.5), "scale": nn.ones(width), "up": nn.weights(width, 4 * width)}
    spec |= {"down": nn.weights(4 * width, width), "out": nn.weights(8 * width, classes)}
    return nn.drawn(13, spec), apply


@functools.cache
def transformer(width: int = 16, classes: int = 10, blocks: int = 1) -> Model:
    """Blocks of attention and a dense part, normalised first, over the sixteen 2 × 2 squares of a digit."""

    def apply(params: Params, inputs: Any) -> Any:
        tokens = nn.squares_of(inputs) @ params["embed"] + params["place"]
        for block in params["blocks"]:
            q, k, v = jnp.split(nn.normalised(tokens) @ block["qkv"], 3, axis=-1)
            scores = jax.nn.softmax(q @ jnp.swapaxes(k, 1, 2) / np.sqrt(width), axis=-1)
            tokens = tokens + scores @ v @ block["mix"]
            tokens = tokens + jax.nn.gelu(nn.normalised(tokens) @ block["up"]) @ block["down"]
        return nn.linear(params["out"], nn.flattened(nn.normalised(tokens)))

    block = {"qkv": nn.weights(width, 3 * width), "mix": nn.weights(width, width)}
    block |= {"up": nn.weights(width, 2 * width), "down": nn.weights(2 * width, width)}
    spec = {"embed": nn.weights(4, width), "place": nn.noise(0.5, 16, width), "blocks": [block] * blocks}
    return nn.drawn(21, spec | {"out": nn.affine(16 * width, classes)}), apply


@functools.cache
def column_tokens(columns: int, width: int, blocks: int, classes: int, *, skip: bool) -> Model:
    """Attention over the columns of a table (Gorishniy et al. 2021), with skips or without."""

    def apply(params: Params, inputs: Any) -> Any:
        tokens = inputs[:, :, None] * params["scale"] + params["place"]
        for block in params["blocks"]:
            scores = (tokens @ block["q"]) @ jnp.swapaxes(tokens @ block["k"], 1, 2) / np.sqrt(width)
            new = jax.nn.softmax(scores, axis=-1) @ (tokens @ block["v"]) @ block["mix"]
            tokens = tokens + new if skip else new
        return nn.linear(params["out"], tokens.mean(axis=1))

    block = {name: nn.weights(width, width, gain=0.02 * np.sqrt(width)) for name in ("q", "k", "v", "mix")}
    spec = {"scale": nn.noise(1.0, columns, width), "place": nn.noise(1.0, columns, width)}
    return nn.drawn(75, spec | {"blocks": [block] * blocks, "out": nn.affine(width, classes)}), apply
