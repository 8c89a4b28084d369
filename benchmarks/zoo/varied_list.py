"""Plants of other losses, models and optimisers, on which rules were tuned."""

from __future__ import annotations

from benchmarks.zoo import varied
from benchmarks.zoo.training import Plant

# Other losses, models and optimisers.
VARIED = (
    Plant("healthy: autoencoder", "healthy", varied.healthy_code, "tuning"),
    Plant("healthy: one logit", "healthy", varied.healthy_binary, "tuning"),
    Plant("healthy: target in hundreds", "healthy", varied.healthy_units, "tuning"),
    Plant("healthy: scan, gathered steps", "healthy", varied.healthy_looped, "tuning"),
    Plant("healthy: layer norm, no test", "healthy", varied.healthy_normed, "tuning"),
    Plant("healthy: injected rate", "healthy", varied.healthy_injected, "tuning"),
    Plant(
        "rate jumps late",
        "divergence",
        varied.late_divergence,
        "tuning",
        ("oscillation", "dead_units", "saturation"),
    ),
    Plant("RMSProp at 2, autoencoder", "divergence", varied.diverging_code, "tuning", ("oscillation",)),
    Plant("bouncing, one logit", "oscillation", varied.bouncing_binary, "tuning", (), True),
    Plant("bouncing Lion", "oscillation", varied.bouncing_lion, "tuning", (), True),
    Plant("tiny rate, autoencoder", "slow", varied.slow_code, "tuning", (), True),
    Plant("cosine ended early", "slow", varied.ended_schedule, "tuning", (), True),
    Plant("clipped to nothing", "slow", varied.clipped_short, "tuning", (), True),
    Plant("powers of an input", "ill_conditioned", varied.powers, "tuning", ("slow",), True),
    Plant("twins", "ill_conditioned", varied.twins, "tuning", ("slow",), True),
    Plant("tied units", "optimization", varied.tied_units, "tuning", ("saddle",), True),
    Plant(
        "small start, autoencoder",
        "saddle",
        varied.small_code,
        "tuning",
        ("slow", "vanishing_gradients"),
        True,
    ),
    Plant("single samples, one logit", "noise", varied.noisy_nesterov, "tuning", ("oscillation",), True),
    Plant("pairs, RMSProp", "noise", varied.noisy_rmsprop, "tuning", ("oscillation",), True),
    Plant("dead gelu", "dead_units", varied.dead_gelu, "tuning", ("vanishing_gradients",)),
    Plant("dead where", "dead_units", varied.dead_where, "tuning", ("vanishing_gradients",)),
    Plant(
        "saturated hard tanh", "saturation", varied.hard_saturation, "tuning", ("vanishing_gradients", "slow")
    ),
    Plant(
        "saturated regression",
        "saturation",
        varied.soft_saturation,
        "tuning",
        ("vanishing_gradients", "slow"),
    ),
    Plant(
        "vanishing in a scan", "vanishing_gradients", varied.vanishing_looped, "tuning", ("saddle", "slow")
    ),
    Plant(
        "deep sigmoid autoencoder", "vanishing_gradients", varied.vanishing_code, "tuning", ("saddle", "slow")
    ),
    Plant(
        "exploding leaky relu",
        "exploding_gradients",
        varied.exploding_linear,
        "tuning",
        ("slow", "oscillation", "ill_conditioned"),
    ),
    Plant(
        "exploding in a scan",
        "exploding_gradients",
        varied.exploding_looped,
        "tuning",
        ("slow", "oscillation", "ill_conditioned"),
    ),
    Plant(
        "bytes",
        "input_scale",
        varied.bytes_scale,
        "tuning",
        ("saturation", "ill_conditioned", "oscillation", "slow"),
    ),
    Plant("inputs far from zero", "input_scale", varied.far_offset, "tuning", ("ill_conditioned", "slow")),
    Plant("sign of a product", "model_bias", varied.products, "tuning", ("minimum", "ill_conditioned")),
    Plant(
        "autoencoder of one unit", "model_bias", varied.narrow_code, "tuning", ("minimum", "ill_conditioned")
    ),
    Plant("one tanh unit", "model_bias", varied.tanh_neck, "tuning", ("minimum", "ill_conditioned")),
    Plant("ridge, solved", "minimum", varied.ridge, "tuning", ("model_bias",)),
    Plant("few patients, no apply", "overfitting", varied.few_binary, "tuning"),
    Plant("few wines, autoencoder", "overfitting", varied.few_codes, "tuning"),
    Plant("other labels in the test", "mismatch", varied.other_labels, "tuning"),
    Plant("test of three times the gain", "mismatch", varied.other_gain, "tuning"),
)
