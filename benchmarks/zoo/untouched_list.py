"""The untouched half of the zoo."""

from __future__ import annotations

from benchmarks.zoo import untouched_fit, untouched_healthy, untouched_layers, untouched_steps
from benchmarks.zoo.training import Plant

# Like the fresh half, and with competing causes ruled out (`benchmarks/zoo/rivals.py`).
UNTOUCHED = (
    Plant(
        "healthy: transformer, clipped AdamW", "healthy", untouched_healthy.healthy_transformer, "untouched"
    ),
    Plant("healthy: gated memory", "healthy", untouched_healthy.healthy_gated, "untouched"),
    Plant("healthy: convolutional coder", "healthy", untouched_healthy.healthy_coder, "untouched"),
    Plant("healthy: coder of a flower", "healthy", untouched_healthy.healthy_petals, "untouched"),
    Plant("healthy: gathered gradients", "healthy", untouched_healthy.healthy_gathered, "untouched"),
    Plant(
        "warmed up too far",
        "divergence",
        untouched_steps.warmed_too_far,
        "untouched",
        ("oscillation",),
    ),
    Plant("AdamW at 1", "divergence", untouched_steps.hot_transformer, "untouched", ("oscillation",)),
    Plant("robust error bounces", "oscillation", untouched_steps.robust_bounce, "untouched", (), True),
    Plant("Adam without momentum hops", "oscillation", untouched_steps.hopping_coder, "untouched", (), True),
    Plant("clipped too tightly", "slow", untouched_steps.tight_clip, "untouched", (), True),
    Plant("Adagrad at 0.001", "slow", untouched_steps.adagrad_default, "untouched", (), True),
    Plant("RMSProp on threes", "noise", untouched_steps.noisy_units, "untouched", ("oscillation",), True),
    Plant(
        "long momentum on pairs", "noise", untouched_steps.noisy_momentum, "untouched", ("oscillation",), True
    ),
    Plant("decayed to nothing", "optimization", untouched_steps.decayed_away, "untouched", (), True),
    Plant("only biases are trained", "optimization", untouched_steps.only_biases, "untouched", (), True),
    Plant(
        "offset behind a norm",
        "dead_units",
        untouched_layers.offset_after_norm,
        "untouched",
        ("vanishing_gradients",),
    ),
    Plant(
        "relu at the output",
        "dead_units",
        untouched_layers.dead_output,
        "untouched",
        ("vanishing_gradients",),
    ),
    Plant(
        "gates that keep", "saturation", untouched_layers.shut_gates, "untouched", ("vanishing_gradients",)
    ),
    Plant(
        "codes of two values",
        "saturation",
        untouched_layers.two_valued_codes,
        "untouched",
        ("vanishing_gradients",),
    ),
    Plant(
        "divided by inputs",
        "vanishing_gradients",
        untouched_layers.divided_by_inputs,
        "untouched",
        ("saddle",),
    ),
    Plant(
        "blank rows at the end",
        "vanishing_gradients",
        untouched_layers.padded_right,
        "untouched",
        ("saddle",),
    ),
    Plant(
        "weights of deviation 1",
        "exploding_gradients",
        untouched_layers.unscaled_normal,
        "untouched",
        ("slow",),
    ),
    Plant(
        "one column in thousandths",
        "input_scale",
        untouched_layers.one_column_large,
        "untouched",
        ("saturation", "vanishing_gradients"),
    ),
    Plant("factors of zero", "saddle", untouched_fit.factors_of_zero, "untouched", (), True),
    Plant("empty table", "saddle", untouched_fit.empty_table, "untouched", ("vanishing_gradients",), True),
    Plant("powers of height", "ill_conditioned", untouched_fit.powers, "untouched", (), True),
    Plant("overlapping bumps", "ill_conditioned", untouched_fit.bumps, "untouched", (), True),
    Plant(
        "bag of pixels",
        "model_bias",
        untouched_fit.bag_of_pixels,
        "untouched",
        ("minimum", "ill_conditioned"),
    ),
    Plant("two components", "model_bias", untouched_fit.two_components, "untouched", ("minimum",)),
    Plant("chin-ups, solved", "minimum", untouched_fit.counted, "untouched", ("model_bias",)),
    Plant("waves too fine", "overfitting", untouched_fit.high_frequencies, "untouched"),
    Plant("idle columns", "overfitting", untouched_fit.idle_columns, "untouched"),
    Plant(
        "another photograph",
        "mismatch",
        untouched_fit.other_photograph,
        "untouched",
        ("ill_conditioned", "optimization"),
    ),
)
