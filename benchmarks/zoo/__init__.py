"""The zoo: planted troubles and healthy runs, by halves."""

from __future__ import annotations

from benchmarks.zoo import (
    fresh_fit,
    fresh_layers,
    fresh_steps,
    further_layers,
    further_steps,
    known,
    reported_layers,
    reported_steps,
)
from benchmarks.zoo.sealed_list import SEALED
from benchmarks.zoo.training import Plant
from benchmarks.zoo.unseen_list import UNSEEN
from benchmarks.zoo.untouched_list import UNTOUCHED
from benchmarks.zoo.varied_list import VARIED

KNOWN = (
    Plant("healthy: dense", "healthy", known.healthy_dense, "tuning"),
    Plant("healthy: convolutional", "healthy", known.healthy_conv, "tuning"),
    Plant("healthy: attention", "healthy", known.healthy_attention, "tuning"),
    Plant("healthy: dense on wine", "healthy", known.healthy_wine, "kept"),
    Plant("rate too large, dense", "divergence", known.too_large_rate, "tuning", ("oscillation",)),
    Plant(
        "rate too large, convolutional",
        "divergence",
        known.conv_too_large_rate,
        "kept",
        ("oscillation", "dead_units"),
    ),
    Plant("bouncing, linear", "oscillation", known.bouncing_linear, "tuning", (), True),
    Plant("bouncing, logistic", "oscillation", known.bouncing_logistic, "kept", (), True),
    Plant("rate too small, dense", "slow", known.tiny_rate_dense, "tuning", (), True),
    Plant("rate too small, convolutional", "slow", known.tiny_rate_conv, "kept", (), True),
    Plant(
        "small start, dense",
        "saddle",
        known.small_start_dense,
        "tuning",
        ("slow", "vanishing_gradients"),
        True,
    ),
    Plant(
        "small start, deeper",
        "saddle",
        known.small_start_deep_linear,
        "kept",
        ("slow", "vanishing_gradients"),
        True,
    ),
    Plant("dead units, dense", "dead_units", known.dead_dense, "tuning"),
    Plant("dead units, convolutional", "dead_units", known.dead_conv, "kept"),
    Plant("saturated tanh", "saturation", known.saturated_tanh, "tuning", ("slow",)),
    Plant("saturated sigmoid", "saturation", known.saturated_sigmoid, "kept", ("slow",)),
    Plant("deep sigmoid", "vanishing_gradients", known.vanishing_sigmoid, "tuning", ("saddle", "slow")),
    Plant(
        "deep tanh, small weights", "vanishing_gradients", known.vanishing_tanh, "kept", ("saddle", "slow")
    ),
    Plant("deep relu, large weights", "exploding_gradients", known.exploding_relu, "tuning", ("slow",)),
    Plant("deep convolutional, large", "exploding_gradients", known.exploding_conv, "kept", ("slow",)),
    Plant(
        "raw units",
        "input_scale",
        known.raw_inputs,
        "tuning",
        ("saturation", "ill_conditioned", "oscillation", "slow"),
    ),
    Plant(
        "inputs around 100",
        "input_scale",
        known.offset_inputs,
        "kept",
        ("ill_conditioned", "oscillation", "slow"),
    ),
    Plant("batches of two, dense", "noise", known.noisy_batches, "tuning", ("oscillation",), True),
    Plant("batches of two, convolutional", "noise", known.noisy_conv, "kept", ("oscillation",), True),
    Plant("long valley, linear", "ill_conditioned", known.long_valley, "tuning", ("slow",), True),
    Plant(
        "long valley, dense",
        "ill_conditioned",
        known.long_valley_dense,
        "kept",
        ("slow", "input_scale"),
        True,
    ),
    Plant("bottleneck", "model_bias", known.bottleneck, "tuning", ("minimum", "ill_conditioned")),
    Plant("linear on rings", "model_bias", known.linear_on_rings, "kept", ("minimum",)),
    Plant("few samples, dense", "overfitting", known.few_samples, "tuning"),
    Plant("few samples, attention", "overfitting", known.few_samples_attention, "kept"),
    Plant("inverted test images", "mismatch", known.inverted_test, "tuning"),
    Plant("moved test images", "mismatch", known.moved_test, "kept"),
    Plant("healthy: tanh convolutional", "healthy", known.healthy_tanh_conv, "blind"),
    Plant("rate too small, attention", "slow", known.tiny_rate_attention, "blind", (), True),
    Plant("dead units, attention", "dead_units", known.dead_attention, "blind"),
    Plant("deep sigmoid on wine", "vanishing_gradients", known.vanishing_wine, "blind", ("saddle", "slow")),
    Plant("small start on wine", "saddle", known.small_start_wine, "blind", ("slow",), True),
    Plant("few samples, convolutional", "overfitting", known.few_samples_conv, "blind"),
    Plant("noisy test images", "mismatch", known.noisy_test, "blind"),
    Plant("one number per image", "model_bias", known.narrow_conv, "blind", ("minimum", "ill_conditioned")),
)

# Written by someone who had read the documentation of `diagnose` and none of its rules; checked without it
# by `python -m benchmarks.zoo.check`.
FRESH = (
    Plant("healthy: iris", "healthy", fresh_fit.healthy_iris, "fresh"),
    Plant("healthy: cancer, cosine", "healthy", fresh_fit.healthy_cancer, "fresh"),
    Plant("healthy: pixel of a photo", "healthy", fresh_fit.healthy_centre, "fresh"),
    Plant("healthy: five digits, Adagrad", "healthy", fresh_fit.healthy_few_digits, "fresh"),
    Plant("healthy: two heads, AdamW", "healthy", fresh_fit.healthy_heads, "fresh"),
    Plant("healthy: recurrent, Nesterov", "healthy", fresh_fit.healthy_recurrent, "fresh"),
    Plant(
        "heavy ball past its limit", "divergence", fresh_steps.diverging_momentum, "fresh", ("oscillation",)
    ),
    Plant("RMSProp at rate 1", "divergence", fresh_steps.diverging_rmsprop, "fresh", ("oscillation",)),
    Plant("RMSProp hops on iris", "oscillation", fresh_steps.bouncing_rmsprop, "fresh", (), True),
    Plant("regression at its limit", "oscillation", fresh_steps.bouncing_edge, "fresh", (), True),
    Plant("rate halved too often", "slow", fresh_steps.decayed_early, "fresh", (), True),
    Plant("warm-up without end", "slow", fresh_steps.endless_warmup, "fresh", (), True),
    Plant(
        "weights of zero",
        "saddle",
        fresh_steps.zero_start,
        "fresh",
        ("dead_units", "vanishing_gradients"),
        True,
    ),
    Plant("autoencoder of equal units", "saddle", fresh_steps.equal_units, "fresh", (), True),
    Plant("neighbouring pixels", "ill_conditioned", fresh_steps.photo_valley, "fresh", ("slow",), True),
    Plant("single samples", "noise", fresh_steps.single_samples, "fresh", ("oscillation",), True),
    Plant("Adam on pairs", "noise", fresh_steps.noisy_adam, "fresh", ("oscillation",), True),
    Plant("one unit left", "dead_units", fresh_layers.one_unit_left, "fresh", ("vanishing_gradients",)),
    Plant("negative weights", "dead_units", fresh_layers.negative_weights, "fresh", ("vanishing_gradients",)),
    Plant(
        "sigmoid output",
        "saturation",
        fresh_layers.saturated_output,
        "fresh",
        ("vanishing_gradients", "slow"),
    ),
    Plant(
        "recurrent, biases of 12",
        "saturation",
        fresh_layers.saturated_memory,
        "fresh",
        ("vanishing_gradients", "slow"),
    ),
    Plant(
        "deep gelu, small weights",
        "vanishing_gradients",
        fresh_layers.vanishing_gelu,
        "fresh",
        ("saddle", "slow"),
    ),
    Plant(
        "deep convolutional, small",
        "vanishing_gradients",
        fresh_layers.vanishing_conv,
        "fresh",
        ("saddle", "slow"),
    ),
    Plant(
        "residual, large weights",
        "exploding_gradients",
        fresh_layers.exploding_residual,
        "fresh",
        ("slow", "oscillation", "ill_conditioned"),
    ),
    Plant(
        "recurrent, large weights",
        "exploding_gradients",
        fresh_layers.exploding_memory,
        "fresh",
        ("slow", "oscillation", "ill_conditioned"),
    ),
    Plant("raw blood values", "input_scale", fresh_layers.raw_diabetes, "fresh", ("ill_conditioned", "slow")),
    Plant(
        "pixels divided twice",
        "input_scale",
        fresh_layers.divided_twice,
        "fresh",
        ("slow", "saddle", "vanishing_gradients"),
    ),
    Plant("least squares, solved", "minimum", fresh_fit.least_squares, "fresh", ("model_bias",)),
    Plant(
        "parity by a linear model", "model_bias", fresh_fit.parity, "fresh", ("minimum", "ill_conditioned")
    ),
    Plant(
        "contrast by a linear model",
        "model_bias",
        fresh_fit.linear_contrast,
        "fresh",
        ("minimum", "ill_conditioned"),
    ),
    Plant("few patients", "overfitting", fresh_fit.few_patients, "fresh"),
    Plant("wrong labels by heart", "overfitting", fresh_fit.learnt_by_heart, "fresh"),
    Plant("test not standardised", "mismatch", fresh_fit.unstandardised_test, "fresh"),
    Plant("test upside down", "mismatch", fresh_fit.upside_down, "fresh"),
    Plant("test columns moved", "mismatch", fresh_fit.other_columns, "fresh"),
    Plant(
        "deeper is worse",
        "optimization",
        fresh_fit.deeper_is_worse,
        "fresh",
        ("slow", "ill_conditioned", "saddle", "vanishing_gradients"),
    ),
)

# Like the unseen half; every trouble is one that users report in public.
REPORTED = reported_steps.STEPS + reported_layers.LAYERS
# The same, in a hurry, after the rules that the reported half had changed.
FURTHER = further_steps.STEPS + further_layers.LAYERS

PLANTS = KNOWN + FRESH + VARIED + UNTOUCHED + SEALED + UNSEEN + REPORTED + FURTHER
# What six halves gave when nobody had seen a diagnosis of them; docs/api/diagnose.md has the tables.
FIRST_COUNT = (
    "first counts, before rules were changed: fresh half healthy first 44 of 60, planted first 186 of 268, "
    "two 196 of 268, contradicted 28; untouched half healthy first 22 of 25, planted first 118 of 140, two "
    "119 of 140, contradicted 6; sealed half healthy first 20 of 20, planted first 43 of 60, two 44 of 60, "
    "contradicted 4; unseen half healthy first 40 of 40, planted first 114 of 160, two 121 of 160, "
    "contradicted 15; reported half healthy first 40 of 40, planted first 119 of 151, two 141 of 151, "
    "contradicted 0; further half healthy first 10 of 10, planted first 140 of 160, two 150 of 160, "
    "contradicted 0"
)
