"""The sealed half of the zoo."""

from __future__ import annotations

from benchmarks.zoo import sealed_fit, sealed_healthy, sealed_layers, sealed_steps
from benchmarks.zoo.training import Plant

# Like the untouched half, with other models, data and ways of going wrong, and stricter healthy runs.
SEALED = (
    Plant("healthy: forecast of a row", "healthy", sealed_healthy.healthy_forecast, "sealed"),
    Plant("healthy: depthwise, Lion", "healthy", sealed_healthy.healthy_depthwise, "sealed"),
    Plant("healthy: sines, one cycle", "healthy", sealed_healthy.healthy_waves, "sealed"),
    Plant("healthy: hole in a photo", "healthy", sealed_healthy.healthy_hole, "sealed"),
    Plant("healthy: mosaic of a sensor", "healthy", sealed_healthy.healthy_mosaic, "sealed"),
    Plant(
        "range test without end",
        "divergence",
        sealed_steps.endless_range,
        "sealed",
        ("oscillation", "saturation"),
    ),
    Plant("steps of one length", "oscillation", sealed_steps.one_length, "sealed", (), True),
    Plant("Adadelta at 0.02", "slow", sealed_steps.adadelta_small, "sealed", (), True),
    Plant("Yogi on pairs", "noise", sealed_steps.noisy_yogi, "sealed", ("oscillation",), True),
    Plant("weights kept above zero", "optimization", sealed_steps.kept_positive, "sealed", (), True),
    Plant(
        "threshold above all codes",
        "dead_units",
        sealed_layers.high_threshold,
        "sealed",
        ("vanishing_gradients",),
    ),
    Plant("channels shut", "saturation", sealed_layers.shut_channels, "sealed", ("vanishing_gradients",)),
    Plant("halved by gates", "vanishing_gradients", sealed_layers.halved_by_gates, "sealed", ("saddle",)),
    Plant(
        "products of products",
        "exploding_gradients",
        sealed_layers.products_of_products,
        "sealed",
        ("slow", "ill_conditioned"),
    ),
    Plant("missing is -999", "input_scale", sealed_layers.missing_coded, "sealed", ("ill_conditioned",)),
    Plant("gate and branch at zero", "saddle", sealed_fit.closed_branch, "sealed", (), True),
    Plant("rare colours", "ill_conditioned", sealed_fit.rare_colours, "sealed", (), True),
    Plant("distance for an order", "model_bias", sealed_fit.blind_to_order, "sealed", ("minimum",)),
    Plant("columns in bins", "overfitting", sealed_fit.many_bins, "sealed"),
    Plant("dead column of the sensor", "mismatch", sealed_fit.dead_column, "sealed"),
)
