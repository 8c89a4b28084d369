"""Reasons for a label: codes with named numbers, and the one place where these become sentences.

Nothing reads a sentence back: programs compare codes.  A sentence is written for the person whose training
is stuck: what was measured, against what, and what it means.
"""

from __future__ import annotations

from hessian_probe.results import CodedSentence

_HALVES = (
    "{value:+3} ± {error:2} (even batches {even:+3} ± {even_error:2}, odd batches {odd:+3} ± {odd_error:2})"
)
_ONE_ROUNDING = (
    "when the parameters move by one rounding: randomness in the loss (a dropout key, data that change "
    "between passes), a kink, or too little precision; fix the key and the data, or use float64"
)
_NOT_FLAT = "; give directions along which the loss does not change"

SENTENCES = {
    # What rules a classification out.
    "params_nonfinite": "{where} holds a NaN or an infinity",
    "loss_nonfinite": "the loss is {value} at these parameters",
    "gradient_nonfinite": (
        "{found}; no learning rate helps: keep the operation away from that number, before it and not after "
        "(jnp.where on its input, a small number added under a root)"
    ),
    "nonfinite_nearby": "the loss or its gradient is not finite one rounding away from the parameters",
    "no_parameter_read": "the loss reads none of the parameters ({names})",
    "budget_too_small": "max_hvps={budget} is too few: at least {least} Hessian-vector products are needed",
    "interrupted": "interrupted {when}",
    "product_nonfinite": (
        "a Hessian-vector product is not finite here, though loss and gradient are: no second derivative"
    ),
    "gradient_not_repeatable": "the gradient changes by {change:2} " + _ONE_ROUNDING,
    "product_not_repeatable": "Hessian-vector products change by {share:2} of ‖H‖ " + _ONE_ROUNDING,
    "product_not_symmetric": (
        "Hessian-vector products are not symmetric (by {share:2} of ‖H‖): the gradient is not that of one "
        "loss; a custom derivative, or a loss whose randomness depends on the parameters"
    ),
    # Derivatives compared with the loss itself.
    "derivative_not_of_loss": (
        "the derivative is not that of the loss: along a line in {leaves} it claims a slope of "
        "{claimed:+3}, and within {distance:2} the loss shows {shown:+3}; where the derivative is replaced "
        "or stops: {where}"
    ),
    "loss_jumps": (
        "the loss changes by {change:2} when the parameters move by one rounding, and no derivative shows "
        "it: a jump lies here; operations that jump, or stop the derivative: {where}"
    ),
    "curvature_unconfirmed": (
        "the Hessian claims curvature {claimed:+5}, but neither the loss nor its gradient shows it at any "
        "distance tried: a kink, a custom derivative, or rounding, which float64 would rule out"
    ),
    "curvature_contradicted": (
        "the Hessian claims curvature {claimed:+5}, but the loss shows {shown:+5} over the same direction: a "
        "kink, or a custom derivative that is not that of the loss"
    ),
    "spot_check": (
        "by its curvature a {label}, but a {side} loss was sampled {distance:2} away: a kink or a step, "
        "which derivatives do not show"
    ),
    # A null space given by the user.
    "null_space_slope": "{name} is not flat: the slope along it is {slope:3} (rounding {allowed:2})"
    + _NOT_FLAT,
    "null_space_product": (
        "{name} is not flat: H times it has length {product:3} (zero band {band:2})" + _NOT_FLAT
    ),
    "null_space_flow": (
        "{name} is not flat: the loss changes by {moved:3} over {distance:2} along its flow" + _NOT_FLAT
    ),
    "null_space_line": (
        "{name} is not flat: the loss changes by {moved:3} within {distance:2} along it" + _NOT_FLAT
    ),
    "null_space_combination": (
        "a combination of null_space's vectors is not flat: the loss changes by {moved:3} within "
        "{distance:2} along it; leave out fewer of them"
    ),
    "null_space_left_out": (
        "null_space: {count} flat directions are left out; the label is about the other {rest}"
    ),
    "loss_raised": (
        "the loss raised an exception at trial points ({count} times), where it counts as not finite: {error}"
    ),
    "leaf_ignored": "the loss ignores {name}: it is flat along it",
    # What is left to gain.
    "gain": (
        "within {reach:2} of here the loss can {sign:fall|rise} by at most {gain:2} (resolution "
        "{resolution:2}; largest change tried: {shown:2})"
    ),
    "flat_families": "the loss does not change along {count} directions ({names})",
    "flat_at_resolution": (
        "along {flat} of {size} directions the curvature changes the loss by no more than the resolution "
        "within the reach"
    ),
    "tail": (
        "two full Newton steps leave over a third of the gradient, while the loss falls as predicted: "
        "a tail without a minimum nearby"
    ),
    "falls_further": (
        "along the gradient the loss {sign:falls|rises} steadily beyond the reach, by {fall:2} over "
        "{distance:2}: a slope"
    ),
    "lower_beyond": (
        "behind a {sign:rise|fall}, {distance:2} away, a {sign:lower|higher} loss was found (by {fall:2}): "
        "the label is about the distances before it"
    ),
    "lower_on_sphere": (
        "nothing within {reach:2} lowers the loss by the resolution, but the weights are smaller than "
        "initialisers draw them, and {distance:2} away, at that scale, the loss is lower by {fall:2} with no "
        "rise before: try hp.escape"
    ),
    "gain_open": (
        "nothing tried lowers the loss by the resolution, but up to {gain:2} to gain is not excluded: a "
        "larger max_hvps, or resolution={gain:2}, would settle it"
    ),
    "narrow": (
        "by its curvature a {label}, but that holds only so near that no change of the loss by the "
        "resolution lies within; beyond, the loss is {side} by {change:2} with no barrier before"
    ),
    "resolution_rounded": (
        "changes of the loss by {resolution:2} count, and its rounding error is {rounding:2}: float64, or a "
        "resolution of the caller's own, would be needed"
    ),
    "resolution_noisy": (
        "the noise of the data hides changes of the loss up to {noise:2}, where the loss itself varies by "
        "{scale:2} near here: more samples would be needed, or sampled=False for these data alone"
    ),
    # Where the critical point is.
    "gradient_zero": "gradient norm {gradient:3} is zero to rounding (tolerance {tolerance:2})",
    "gradient_below_change": (
        "gradient norm {gradient:3} cannot be told from zero: it changes by up to {change:2} when the "
        "parameters move by one rounding (rounding error, or a kink)"
    ),
    "newton_predicts": (
        "Newton predicts a critical point {distance:2} away: the gradient norm drops from {before:3} to "
        "{after:3} there, and the loss changes by {moved:2} ({percent:2} % of what the curvature changes "
        "over distance {radius:2})"
    ),
    "slope_without_curvature": (
        "gradient norm {gradient:3}, and no curvature beyond the zero band: the point lies on a slope"
    ),
    "gradient_too_large": (
        "gradient norm {gradient:3} is too large: where the gradient of the quadratic model vanishes, the "
        "loss differs by {change:2} or more, {percent:2} % of what the curvature changes over distance "
        "{radius:2} (near a critical point at most {limit:2} %)"
    ),
    "slope_along_flat": (
        "{percent:3} % of the gradient (norm {gradient:3}) lies where there is no curvature: a slope along a "
        "flat direction"
    ),
    "flat_or_rounding": (
        "{percent:3} % of the gradient (norm {gradient:3}) lies where there is no curvature, and it could be "
        "rounding"
    ),
    "loss_moves_too_much": (
        "on the path to the predicted critical point the loss changes too much for the curvature here to "
        "be about it (at most {limit:2} % of what the curvature changes)"
    ),
    "model_moves_too_much": (
        "eigenvector by eigenvector the quadratic model changes by {percent:2} % of what the curvature "
        "changes on the path to the predicted critical point (at most {limit:2} %)"
    ),
    "prediction_too_far": (
        "the nearest predicted critical point is {distance:2} or more away, beyond the {limit:2} over which "
        "predictions are checked"
    ),
    "curvature_not_held": "the curvature that the Hessian claims holds at no distance tried",
    "curvature_held_nearer": "that is further away than the {radius:2} over which the curvature holds",
    "no_curvature_along_step": "along the step to the predicted critical point the loss shows no curvature",
    "loss_nonfinite_there": "the loss is not finite at the predicted critical point",
    "newton_budget": (
        "the Newton step to a critical point was not found within the budget ({unexplained:2} of the "
        "gradient is still unexplained); raise max_hvps"
    ),
    "newton_stalls": (
        "a Newton step leaves {share:2} of the gradient (towards a regular critical point at most {kept}): "
        "there may be no critical point, or it has flat directions"
    ),
    "not_regular": (
        "the gradient shrinks towards the predicted critical point only as fast as where there is no "
        "curvature, so second order cannot classify it (rounding has the same effect)"
    ),
    # Second order.
    "curvature": "curvature from {low:+5} to {high:+5}, zero band ±{band:2}",
    "curvature_confirmed": (
        "differences of the {of} over ±{radius:2} show curvature {measured:+5} along the direction of {side} "
        "curvature"
    ),
    "curvature_there": "curvature at that point along the same directions: {low:+5} and {high:+5}",
    "signs_differ_there": (
        "curvature at that point along the same directions: {low:+5} and {high:+5}, not of both signs as "
        "at the parameters"
    ),
    "spectrum_there": "the spectrum was computed at that point",
    "saddle_predicted": (
        "both signs are computed; that a critical point is there is predicted, not certified"
    ),
    "saddle_vanishing": (
        "both curvatures shrink with the gradient: the saddle is of higher order, not certified"
    ),
    "all_one_sign": "all {count} eigenvalues are {sign:positive|negative}",
    "none_beyond": (
        "no eigenvalue {side} {bound:+2} with probability {confidence} (random start, {steps} Lanczos steps)"
    ),
    "bound_too_weak": (
        "no eigenvalue {side} {bound:+2} with probability {confidence} (random start, {steps} Lanczos "
        "steps), where {asked:2}, that is {negative_tol}·‖H‖, was asked for; {need}"
    ),
    "not_settled": "the label is not settled within {budget} products; raise max_hvps{need}",
    "silent": "curvature is zero to rounding along {flat} of {size} directions",
    "silent_somewhere": "curvature is zero to rounding along at least one direction",
    "inertia": (
        "in units that make every variable's own curvature ±1 (these curvatures differ by a factor of "
        "{spread:2}) the spectrum is {low:+3} to {high:+3}, zero band ±{band:2}; signs do not depend on "
        "units (Sylvester)"
    ),
    "inertia_confirmed": (
        "differences of the {of} show curvature {measured:+5} along its direction of lowest curvature"
    ),
    # Higher order.
    "spheres_flat": (
        "on spheres in the flat space, all other directions relaxed, slopes are zero to rounding (up to "
        "{far:2} away)"
    ),
    "spheres_rise": (
        "the {sign:lowest|highest} points on spheres in the flat space, all other directions relaxed, "
        "{sign:rise|fall} with the distance (from {near:2} to {far:2} away)"
    ),
    "spheres_fall": (
        "the {sign:lowest|highest} points on spheres in the flat space, all other directions relaxed, "
        "{sign:fall|rise} with power {order:2} of the distance (from {near:2} to {far:2} away)"
    ),
    "spheres_unclear": (
        "on spheres in the flat space, all other directions relaxed, the slope away from the point follows "
        "no power of the distance (from {near:2} to {far:2} away)"
    ),
    # Kinks, and points where the second derivative fails.
    "kinks_many_directions": (
        "kinks meet here: second derivatives do not show what lies across them, and {size} directions are "
        "too many to rule out a narrow descent by samples"
    ),
    "kink_sampled": "a kink lies here: that nothing falls across it is sampled, not proved",
    "finite_steps_differ": (
        "by its derivatives a {label}, but finite steps find a {side} loss close by: a kink"
    ),
    "hidden_slope": (
        "the gradient here is {gradient:2}, yet {mean:2} on average on both sides of the point, "
        "{distance:2} away: a slope that the derivative at a kink does not show"
    ),
    "no_finite_step": "no finite step could be evaluated",
    "plateau": (
        "a plateau: loss and gradient do not change at all up to {distance:2} in any direction tried: units "
        "that are dead or saturated"
    ),
    "finite_steps_extremum": (
        "finite steps: the {kind} loss found around is {side} at every distance ({listed}), in random "
        "directions and directions found by descent: sampled, not proved"
    ),
    "finite_steps_saddle": "finite steps: lower and higher losses at every distance ({listed})",
    "gradient_vanishes": "the gradient vanishes with the distance, so there is no slope",
    "zero_in_hull": (
        "no slope: a weighted average of the gradients around the point vanishes (it is at most {share:2} of "
        "the longest of them)"
    ),
    "finite_steps_slope": (
        "finite steps show a slope: within {distance:2} no convex combination of the gradients is shorter "
        "than {shortest:2} (the longest: {longest:2})"
    ),
    "finite_steps_rounded": (
        "finite steps change the loss by more than its rounding error only at {listed}; float64 would show "
        "more"
    ),
    "finite_steps_jump": (
        "the loss changes by {change:2} within {distance:2}, the gradients there are at most {longest:2}: a "
        "jump, or derivatives that are not those of the loss"
    ),
    "finite_steps_disagree": (
        "finite steps do not agree on one kind over distances; changes of the loss: {listed}"
    ),
    # Batches as a sample of more data.
    "few_batches": (
        "fewer than {least} batches (here {count}) do not show how much the data scatter: the label is about "
        "these data"
    ),
    "no_products_for_batches": ("no products were left to measure how much the data scatter; raise max_hvps"),
    "few_products_for_batches": (
        "{left} products are too few to check the signs on held-out batches; raise max_hvps"
    ),
    "few_products_for_shift": (
        "{left} products are too few to see where noise moves the critical point; raise max_hvps"
    ),
    "half_product_nonfinite": "a product with half of the batches is not finite",
    "finite_steps_not_held_out": (
        "the batches are a sample, and finite steps were not repeated on held-out ones; sampled=False judges "
        "these data alone"
    ),
    "higher_order_not_held_out": (
        "curvature is zero to rounding along some direction, and higher order was seen on the mean of these "
        "batches only, not batch by batch; sampled=False judges these data alone"
    ),
    "held_out_curvature": "{side} curvature on held-out batches: " + _HALVES,
    "held_out_curvature_noisy": (
        "{side} curvature on held-out batches: " + _HALVES + ": not {sign} beyond its noise"
    ),
    "curvature_over_batches": "{side} curvature over the data: " + _HALVES,
    "curvature_over_batches_noisy": (
        "{side} curvature over the data: " + _HALVES + ": not {sign} beyond its noise"
    ),
    "shift": (
        "with the gradient's noise (norm {noise:2}) the loss may change by {most:2} on the path to the "
        "critical point, instead of {seen:2} (at most {limit:2} counts as near)"
    ),
    "shift_too_large": (
        "with the gradient's noise (norm {noise:2}) the loss may change by {most:2} on the path to the "
        "critical point, instead of {seen:2}: too much to say that one is near (at most {limit:2})"
    ),
    "fitted": (
        "the gradients of both halves of the batches oppose each other (" + _HALVES + "), as they do where "
        "the parameters were fitted to these very data, which then say too little of others: give batches "
        "that were not trained on, or sampled=False"
    ),
    "gradient_over_batches": (
        "gradient norm {gradient:3}, {without:3} without its noise of {noise:2}; slope on held-out batches "
        "along the gradient of the other half: " + _HALVES
    ),
    "gradient_over_batches_noisy": (
        "gradient norm {gradient:3}, {without:3} without its noise of {noise:2}; slope on held-out batches "
        "along the gradient of the other half: "
        + _HALVES
        + ": too much of it may be noise to call it a slope"
    ),
    "samples_needed": (
        "about {samples:,} samples in all ({low:,} to {high:,}; these are {total:6}), in {batches} batches "
        "or more, would settle it with probability {power} (if the true value is at least {least} times its "
        "present standard error)"
    ),
    "more_batches": (
        "first shuffle the same data and cut them into {batches} batches instead of {count}: their scatter, "
        "and so every error, is then known better"
    ),
    "samples_unknown": "from these batches no number of samples can be named that would settle it",
}


class Reason(CodedSentence):
    """One piece of evidence for a label.

    >>> str(Reason("curvature", low=-0.25, high=1.5, band=1e-12))
    'curvature from -0.25 to +1.5, zero band ±1.0e-12'
    """

    sentences = SENTENCES
