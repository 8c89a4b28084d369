"""Sentences of escapes and of the training hooks: what was tried and seen, by code, with named fields."""

from __future__ import annotations

from hessian_probe.results import CodedSentence

_FELL = "the loss fell by {gain:4} over a distance of {distance:3}"
_TREND = "over {steps} steps the {of} {fall:fell|rose} by {size:3} ± {error:2}"

SENTENCES = {
    # An escape from a classified point.
    "not_classified": "{reason}",
    "interrupted": "interrupted before a lower loss was found",
    "minimum": "a minimum: the loss can fall by at most {left:2} within {reach:2} of here",
    "slope": (
        "a slope without negative curvature: the gradient itself lowers the loss, by up to {left:2} within "
        "{reach:2} of here"
    ),
    "derivative": "{reason}",
    "no_direction": "the point is {label}, and no direction of negative curvature is known: {reason}",
    "no_decrease": (
        "no step tried lowers the loss below {floor:6} by more than rounding and the slope do ({margin:2}); "
        "the lowest found is {lowest:6}"
    ),
    "fell": _FELL,
    "fell_by_model": _FELL + "; the quadratic model predicts {predicted:4}",
    "fell_by_higher_order": _FELL + "; second order shows no descent there, higher order does",
    "fell_on_sphere": (
        _FELL + ", on a sphere of {radius:2} initialiser's draws; the slope alone gained {slope:3}"
    ),
    "nothing_found_on_spheres": (
        "on spheres of {radii} initialiser's draws round it, no displacement lowers the loss by as much as "
        "the slope and rounding"
    ),
    "below_critical_point": (
        "it is now {below:4} below the loss of the critical point, to which no descent from here returns"
    ),
    "from_no_critical_point": (
        "the point was {label}, no critical point; the step lowers the loss all the same"
    ),
    # The monitor's probes.
    "probed": "{label} on {data}: {reason}",
    "not_confirmed": "on other data the loss changes by {change:+3}, not by {expected:+3}",
    "gains_too_little": (
        "the step lowers the loss by {gain:3}; {least:3} is the least that is worth it, after what training "
        "gains in a window and has gained so far"
    ),
    "rolled_back": (
        "the loss is {value:5}, above {threshold:5}: the escape at update {update} is taken back; no probe "
        "before update {next}"
    ),
    "at_minimum": (
        "a minimum: the loss can fall by at most {left:2} within {reach:2}; the next probe is at update "
        "{next}"
    ),
    # The loss as training goes on.
    "value_nonfinite": "the {of} is not finite",
    "few_values": "{seen} of {window} values seen",
    "trend": _TREND + "; single values vary by {noise:2}",
    "trend_in_run": _TREND
    + ", {speed:3} of its rate of fall over the latest half of the run; single values vary by {noise:2}",
    "gradient_lasts": "the loss has stopped and the gradient has not: its norm is {level:3} still",
    # Searches inside compiled steps.
    "on_schedule": "searches continue on schedule",
    "paused": "no search before update {update}",
    "step_taken": "a displacement that training does not reach by itself lowers the loss by {gain:3}",
    "step_taken_back": ("the loss rose by {gain:3} above the saddle's, so the escape was taken back; {then}"),
    "nothing_on_spheres": (
        "on spheres of {radii} initialiser's draws the loss is not lower on all fresh batches, or not by "
        "enough; {then}"
    ),
}


class EscapeReason(CodedSentence):
    """What was tried or seen at a plateau, or on leaving a point."""

    sentences = SENTENCES
