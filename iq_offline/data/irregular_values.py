"""What is odd in the numbers of a dataset: its spaces, what lies outside them, and what float32 makes of it."""

from collections.abc import Iterator

import numpy as np

from iq_offline.data.actions import action_encoder, has_finite_actions, is_open
from iq_offline.data.irregularity import Irregularity, Severity, few, number
from iq_offline.data.spaces import SMALLEST_DEVIATION, is_learnable, leaves_of, word
from iq_offline.data.spread import Oddity, Spread
from iq_offline.data.survey import Survey
from iq_offline.errors import UserError

FINEST = 1_000
"""Steps of float32 that a standard deviation should span at least."""


def value_irregularities(survey: Survey) -> Iterator[Irregularity]:
    """Everything odd about spaces, observations and actions."""
    for rule in (_spaces, _observations, _actions, _precision, _standstill):
        yield from rule(survey)


def _spaces(survey: Survey) -> Iterator[Irregularity]:
    source = survey.source
    leaves = leaves_of(source.observation_space)
    names = [leaf.name for leaf in leaves]
    if twice := {name for name in names if names.count(name) > 1}:
        text = "stops: rename a key that has a dot in it"
        yield Irregularity("refused", "two observations of one name", few(sorted(twice)), len(twice), "names", text)
    unusable = [leaf for leaf in leaves if not is_learnable(leaf.space)]
    if unusable:
        usable = [leaf.name for leaf in leaves if leaf not in unusable]
        remedy = f"in the recipe: observation_keys = {usable}".replace("'", '"') if usable else "nothing else is there"
        where = few([f"{leaf.name} ({word(leaf.space)})" for leaf in unusable])
        yield Irregularity(
            "refused", "observations that are not numbers", where, len(unusable), "parts", f"stops; {remedy}"
        )
    elif not sum(leaf.size for leaf in leaves):
        yield Irregularity("refused", "observations that hold no numbers", "", 1, "spaces", "stops")
    spread = survey.actions
    recorded = ([0.0], [0.0]) if spread is None or not spread.count.all() else (spread.min, spread.max)
    try:
        action_encoder(source.action_space, (list(recorded[0]), list(recorded[1])), (), (), source.id)
    except UserError as error:
        text = "stops: " + str(error).removeprefix(f"{source.id}: ")
        yield Irregularity("refused", "an action space that cannot be learned", "", 1, "spaces", text)


def _observations(survey: Survey) -> Iterator[Irregularity]:
    remedy = "stops" if len(survey.observations) == 1 else "stops where observation_keys does not leave them out"
    for name, spread in survey.observations.items():
        yield from _odd(
            spread.not_finite, name, "refused", "observations that are NaN, infinite or beyond float32", remedy
        )
        yield from _odd(
            spread.no_byte,
            name,
            "refused",
            "observations that are no whole numbers from 0 to 255, in a space of uint8",
            "stops: store them as uint8, pictures in levels from 0 to 255",
        )
        if spread.leaf.is_categorical:
            yield from _odd(spread.outside, name, "refused", "observations outside their space", "stops")
        else:
            yield from _odd(
                spread.outside, name, "ignored", "observations outside their space", "takes them as they are"
            )


def _actions(survey: Survey) -> Iterator[Irregularity]:
    spread, space = survey.actions, survey.source.action_space
    if spread is None:
        return
    yield from _odd(spread.not_finite, "action", "refused", "actions that are NaN, infinite or beyond float32", "stops")
    if has_finite_actions(space):
        yield from _odd(spread.outside, "action", "refused", "actions outside their space", "stops")
        return
    reached = f"; they reach {number(np.nanmin(spread.min))} to {number(np.nanmax(spread.max))}"
    yield from _odd(
        spread.outside,
        "action",
        "clipped",
        "actions outside the stored box",
        "clips them to the box (action_low and action_high override it)",
        detail=reached,
    )
    open_ = is_open(spread.low) | is_open(spread.high)
    if open_.any():
        yield _dimensions(
            "worth knowing",
            "actions without bounds",
            [("action", open_)],
            "takes the range of the recorded actions (action_low and action_high override it)",
        )


def _precision(survey: Survey) -> Iterator[Irregularity]:
    coarse: list[tuple[str, np.ndarray]] = []
    for name, spread in _plain(survey):
        yield from _odd(spread.rounded, name, "worth knowing", "integers too large for float32", "rounds them")
        with np.errstate(invalid="ignore", over="ignore"):
            step = np.spacing(np.maximum(np.abs(spread.min), np.abs(spread.max)).astype(np.float32))
            coarse.append((name, (spread.count > 0) & (spread.std > 0) & (step > spread.std / FINEST)))
    if any(found.any() for _, found in coarse):
        yield _dimensions(
            "worth knowing",
            "values far from zero beside how little they vary",
            coarse,
            f"stores float32, whose steps there are coarser than 1/{FINEST} of the deviation: subtract the offset",
        )


def _standstill(survey: Survey) -> Iterator[Irregularity]:
    still: list[tuple[str, np.ndarray]] = []
    slow: list[tuple[str, np.ndarray]] = []
    names: list[tuple[str, np.ndarray]] = []
    for name, spread in survey.observations.items():
        constant = (spread.count > 1) & (spread.min == spread.max)
        kept = not spread.leaf.is_measured
        (names if kept else still).append((name, constant))
        if not kept:
            slow.append((name, ~constant & (spread.std < SMALLEST_DEVIATION)))
    if any(found.any() for _, found in still):
        yield _dimensions(
            "worth knowing",
            "observations that never change",
            still,
            "does not scale them when it normalises: nothing is learned of what a change at evaluation means",
        )
    if any(found.any() for _, found in names):
        yield _dimensions("worth knowing", "categories or pixels that never change", names, "keeps them")
    if any(found.any() for _, found in slow):
        yield _dimensions(
            "worth knowing",
            f"observations that vary by less than {SMALLEST_DEVIATION}",
            slow,
            f"divides them by {SMALLEST_DEVIATION}, not by their deviation: the network hardly sees them",
        )
    spread = survey.actions
    if spread is not None and (constant := (spread.count > 1) & (spread.min == spread.max)).any():
        yield _dimensions(
            "worth knowing", "actions that never change", [("action", constant)], "learns them like the others"
        )


def _odd(
    odd: Oddity, name: str, severity: Severity, what: str, training: str, detail: str = ""
) -> Iterator[Irregularity]:
    if odd.rows:
        where = f"{_named([(name, odd.dimensions > 0)])}, first in episode {odd.first}{detail}"
        count, unit = (odd.rows, "steps") if severity == "clipped" else (odd.values, "values")
        yield Irregularity(severity, what, where, count, unit, training)


def _dimensions(severity: Severity, what: str, found: list[tuple[str, np.ndarray]], training: str) -> Irregularity:
    count = sum(int(mask.sum()) for _, mask in found)
    return Irregularity(severity, what, _named(found), count, "dimensions", training)


def _plain(survey: Survey) -> Iterator[tuple[str, Spread]]:
    """Everything that is stored as float32, by name."""
    for name, spread in survey.observations.items():
        if not spread.leaf.is_categorical and not spread.leaf.is_image:
            yield name, spread
    if survey.actions is not None and not has_finite_actions(survey.source.action_space):
        yield "action", survey.actions


def _named(found: list[tuple[str, np.ndarray]]) -> str:
    """``observation[3, 5], action[0]`` and the like."""
    parts = [
        f"{name}[{few([str(index) for index in np.flatnonzero(mask)])}]" if len(mask) > 1 else name
        for name, mask in found
        if mask.any()
    ]
    return few(parts)
