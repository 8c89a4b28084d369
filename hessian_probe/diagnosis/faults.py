"""Faults of the program: what is wrong, what was measured and what to do, in one table by their code."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from hessian_probe.diagnosis.confidence import exact, finding
from hessian_probe.diagnosis.result import Finding
from hessian_probe.results import number

# What a fault of the training loop takes to show, and one of the data or the outputs.
OF_LOOP, OF_LOSSES = "a few steps on a copy", "a few losses and outputs"
KEEP = ("keep_updates", "return the parameters and the state that a step computes, and go on with these")
FIT = ("fit_loss", "an output for each class, with a cross-entropy of logits")
REACH = (
    "outputs stay {within} at all parameters tried, so the loss cannot fall below {floor}; that of the best "
    "constant output is {constant}",
    "lowest loss within the range of outputs ÷ that of the best constant",
)
ADD = (
    "its length is {taken}, the optimiser's {wanted}, at a cosine of {cosine}", "cosine between both steps",
    ("step_from_params", "add the updates to the parameters given, as optax.apply_updates does"),
)  # fmt: skip
FREE = ("remove_last_activation", "remove the last activation of the model{other}")


class Text(NamedTuple):
    """What is wrong and what was measured, with fields in braces; the number's name; the remedy."""

    wrong: str
    measured: str
    quantity: str
    remedy: tuple[str, str]


# fmt: off
FAULTS = {
    "index_outside": Text(
        "index {value} is outside of {read}, which has entries 0 to {last}: JAX raises no error",
        "it stands in {where}{ones}; with others in place of them the loss of that batch is {low} to {high}",
        "indices outside",
        ("mend_indices", "make the table longer than the largest index, or map such ids to one of its "
        "entries")),
    "label_outside": Text("label {value} is outside of the classes 0 to {last}: JAX raises no error",
        "it stands in {where}{ones}; with others in place of them the loss of that batch is {low} to {high}",
        "labels outside",
        ("mend_indices", "give the model an output for each class, or number the classes from zero")),
    "samples_mix": Text("{wrong}",
        "the loss of {count} samples is {together}, the mean of their losses, each alone, {alone}",
        "loss of some samples ÷ mean of their losses", ("separate_samples", "{mend}")),
    "sum_for_mean": Text(
        "this loss is a sum over samples, not a mean: steps are too long by the number of samples in a batch",
        "{count} samples have a loss of {one}, taken twice {two}, three times {three}",
        "loss of samples taken twice ÷ taken once",
        ("take_the_mean", "take the mean over samples, or divide the loss by their number")),
    "inputs_alike": Text("all inputs are the same, so no output can follow its target",
        "the {count} inputs differ in no entry", "entries in which inputs differ",
        ("mend_inputs", "look at how batches are made: one input stands in for all")),
    "labels_scaled": Text("the labels, not the inputs, were divided by 255",
        "targets are multiples of 1/255 up to {count}/255, and inputs reach {largest}", "largest target",
        ("scale_inputs", "divide the inputs by 255, and leave the labels as they are")),
    "one_class_batches": Text("each batch holds samples of one class, so each step unlearns the others",
        "{count} of {batches} batches have one class, of {classes} in all",
        "share of the batches with one class",
        ("shuffle", "shuffle the samples before they are put into batches, anew in each epoch")),
    "batches_alike": Text("all batches are the same, so training sees no other sample",
        "the {batches} batches differ in no entry", "entries in which batches differ",
        ("next_batch", "draw the next batch in each step: look at where the loop over batches begins anew")),
    "constant_loss": Text("no parameter changes the loss{why}",
        "it is {loss} here, at re-initialised parameters and at others, and the gradient is zero everywhere",
        "largest difference of these losses", ("mend_output", "{mend}")),
    "inputs_ignored": Text("the outputs do not depend on the inputs",
        "with every input replaced by the first the loss of {count} samples stays {loss}, and unchanged at "
        "two other sets of parameters", "change of the loss",
        ("use_inputs", "follow the inputs through the model: they are overwritten or never used")),
    "tied_outputs": Text(
        "the outputs are tied together, the targets are not: a softmax stands over independent targets",
        "outputs of every sample sum to {total} at all parameters, targets to {low} to {high}",
        "standard deviation of the sums of targets",
        ("untie_outputs", "in place of the softmax a sigmoid for each output, or for a regression nothing")),
    "binary_loss_beyond_targets": Text(
        "a binary cross-entropy is taken of targets beyond 0 and 1: {what}, and the loss has no lowest value",
        "targets lie between {low} and {high}", "share of the targets beyond 0 and 1",
        ("fit_loss", "{mend}")),
    "logits_as_probabilities": Text("{what}",
        "outputs lie between {low} and {high}, {share} % of them outside of 0 and 1",
        "share of the outputs outside of 0 and 1", FIT),
    "rectified_logits": Text("a rectifier stands before a loss of logits, which stop learning at 0 then",
        "{share} % of the outputs are 0, and none is below at any parameters tried",
        "share of outputs that are 0", FREE),
    "bounded_logits": Text("the last activation bounds what the loss takes for logits", *REACH, FREE),
    "targets_out_of_reach": Text("the last activation cannot reach {share} % of the targets", *REACH, FREE),
    "squared_error_of_classes": Text("a squared error is taken of {count} classes{order}",
        "the loss is {share} of that of the best constant output", "loss ÷ that of the best constant output",
        FIT),
    "target_scale": Text("the targets are far from the size that outputs start with",
        "their root mean square is {size}, and the loss is {share} of that of the best constant output",
        "root mean square of the targets",
        ("standardise_targets", "subtract the targets' mean and divide by their standard deviation; undo it "
        "after")),
    "rate_of_zero": Text("the optimiser moves no parameter",
        "from a new state its first {count} updates are zero in every entry, at a gradient that is not",
        "largest update",
        ("mend_rate", "look at what is masked, and at the learning rate, which begins at zero and stays "
        "there")),
    "warm_up_too_long": Text("the learning rate is still in its warm-up, far below where it is to come",
        "far longer steps lower the loss more, and the schedule raises the rate by a factor of {by} only in "
        "{steps} steps", "learning rate within that number of steps ÷ now",
        ("shorten_warm_up", "end the warm-up within a tenth of the steps of the training")),
    "clipped_away": Text("clipping leaves next to nothing of the gradient",
        "{share} % of the step's length are left, and far longer steps lower the loss more",
        "length of a step ÷ without clipping",
        ("raise_clip", "clip at {by} times this norm, a little above the gradients' usual one")),
    "updates_lost": Text("updates are lost to rounding: the parameters' {dtype} is too coarse for them",
        "{share} % of updates that are not zero leave their parameter as it was, in {leaf} {worst} %",
        "share of the updates that are lost",
        ("keep_float32", "keep the parameters in float32, and cast them inside the loss")),
    "never_moved": Text("the parameters never move: updates are computed and not kept", "{said}",
        "leaves that move", KEEP),
    "leaves_not_moved": Text("the trainer does not keep the updates of some leaves",
        "a step leaves {some} as they were; the optimiser moves {count} leaves there",
        "leaves that do not move", KEEP),
    "state_not_kept": Text(
        "the optimiser's state is not kept, so momentum, counts and schedules begin anew in each step",
        "a step returns it as it was; the optimiser's own update changes it", "change of the state", KEEP),
    "batch_ignored": Text("the trainer takes the same step whatever the batch",
        "two batches lead to the same parameters, by the optimiser to others", "difference after two batches",
        ("use_batch", "let the step take its loss on the batch that it is given")),
    "overwritten": Text(
        "a step of the trainer sets new parameters, and does not step from those given", *ADD),
    "update_subtracted": Text("a step of the trainer goes against the optimiser's update", *ADD),
    "frozen_leaves": Text("the optimiser holds {some} fixed, which this training needs",
        "{steps} steps of Adam on all leaves reach a loss of {free}, without these {held}",
        "loss with these leaves held ÷ with all of them moved",
        ("unfreeze", "look at the labels or the mask of the optimiser, and let these leaves move")),
}
# fmt: on


def fault(
    code: str,
    value: float,
    fields: dict[str, Any],
    threshold: float = 0.0,
    *,
    source: str = "an experiment on the program itself",
    sure: float | None = None,
    cost: str = OF_LOSSES,
    place: str = "",
) -> Finding:
    """A finding of the cause "program", its texts filled with fields; floats are shown with three digits."""
    text = FAULTS[code]
    shown = {name: number(x, 3) if isinstance(x, float) else x for name, x in fields.items()}
    wrong, measured, mend = (part.format(**shown) for part in (text.wrong, text.measured, text.remedy[1]))
    return finding(
        ("program", code),
        f"{wrong}. {measured[:1].upper()}{measured[1:]}",
        text.quantity,
        exact(value if math.isfinite(value) else math.inf, threshold),
        source=source,
        sure=sure,
        remedy=(text.remedy[0], mend),
        cost=cost,
        place=place,
    )
