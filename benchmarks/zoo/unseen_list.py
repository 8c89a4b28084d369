"""The unseen half of the zoo."""

from __future__ import annotations

from benchmarks.zoo import unseen_layers, unseen_steps
from benchmarks.zoo.training import Plant

# Like the sealed half, with other models, data and ways of going wrong.
UNSEEN = (
    Plant("healthy: upscaled photo, Adan", "healthy", unseen_steps.healthy_upscaler, "unseen"),
    Plant("healthy: causal convolutions", "healthy", unseen_steps.healthy_causal, "unseen"),
    Plant("sum instead of mean", "divergence", unseen_steps.summed_loss, "unseen", ("oscillation",)),
    Plant("Fromage at 0.25", "oscillation", unseen_steps.large_fromage, "unseen", (), True),
    Plant("Adam with epsilon 0.1", "slow", unseen_steps.large_epsilon, "unseen", (), True),
    Plant("Adan on pairs", "noise", unseen_steps.noisy_experts, "unseen", (), True),
    Plant("line of levels", "ill_conditioned", unseen_steps.levelling_line, "unseen", (), True),
    Plant("experts are copies", "saddle", unseen_steps.copied_experts, "unseen", (), True),
    Plant("weights cut as a critic's", "optimization", unseen_steps.boxed_weights, "unseen", (), True),
    Plant("gamma regression, at rest", "minimum", unseen_steps.gamma_regression, "unseen", ("model_bias",)),
    Plant("healthy: four experts, ridge", "healthy", unseen_layers.healthy_experts, "unseen"),
    Plant("healthy: enlarged photo", "healthy", unseen_layers.healthy_enlarging, "unseen"),
    Plant("all to one expert", "dead_units", unseen_layers.one_expert, "unseen"),
    Plant("forks too sharp", "saturation", unseen_layers.sharp_tree, "unseen", ("vanishing_gradients",)),
    Plant("attention without skips", "vanishing_gradients", unseen_layers.no_skips, "unseen", ("saddle",)),
    Plant(
        "clock in seconds",
        "exploding_gradients",
        unseen_layers.wrong_clock,
        "unseen",
        ("slow", "ill_conditioned"),
    ),
    Plant("places in pixels", "input_scale", unseen_layers.pixel_places, "unseen", ("ill_conditioned",)),
    Plant("row plus column", "model_bias", unseen_layers.rows_plus_columns, "unseen", ("minimum",)),
    Plant("bumps too narrow", "overfitting", unseen_layers.narrow_bumps, "unseen"),
    Plant("taken under a lamp", "mismatch", unseen_layers.under_a_lamp, "unseen"),
)
