"""Keras 3 on JAX: a callback that watches `fit`."""

from __future__ import annotations

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np
from _digits import batches

import hessian_probe as hp


def main() -> None:
    """Train, and print what the callback saw."""
    keras.utils.set_random_seed(0)
    tiny = keras.initializers.RandomNormal(stddev=1e-4)
    net = keras.Sequential([
        keras.layers.Input((64,)),
        keras.layers.BatchNormalization(),
        keras.layers.Dense(16, "tanh", kernel_initializer=tiny),
        keras.layers.Dense(16, "tanh", kernel_initializer=tiny),
        keras.layers.Dropout(0.1),
        keras.layers.Dense(10, kernel_initializer=tiny),
    ])  # fmt: skip
    crossentropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    net.compile(keras.optimizers.SGD(0.02, momentum=0.5), crossentropy)
    seen = list(batches(steps=6))
    x, y = (np.concatenate(parts) for parts in zip(*seen, strict=True))
    watch = hp.training.keras_callback(seen)
    fitted = net.fit(x, y, batch_size=250, epochs=120, verbose=0, callbacks=[watch])
    for event in watch.history:
        if event.kind == "escaped":
            print(event)
    print(f"loss after 120 epochs: {fitted.history['loss'][-1]:.3f}; cost: {watch.monitor.cost}")


if __name__ == "__main__":
    main()
