"""What the runs answer, in sentences: from how many expert trajectories each learner is at the expert's level.

A *setting* is what runs of a learner have in common besides the number of trajectories and the seed.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import polars as pl

from iq_offline.config import LABELS, is_others
from iq_offline.sweeps.results import COUNT, as_words, expert_level, key_in_words, summary_of, varied

LEVEL = 0.95
"""Normalised score that counts as the expert's, as the lower end of an interval."""
FEW = 5
"""Seeds below which bootstrap intervals are clearly too narrow (:mod:`iq_offline.sweeps.statistics`)."""

Kind = Literal["reached", "lost again", "not reached", "no interval"]


@dataclass(frozen=True)
class Answer:
    """What the scores of a learner in one setting say."""

    algorithm: str
    setting: Mapping[str, object]
    """What tells it from the learner's other settings."""
    kind: Kind
    count: int | None
    """The number of trajectories from which on it is at the expert's level."""
    sentence: str


def answers_of(runs: pl.DataFrame) -> list[Answer]:
    """An answer for each learner and setting, from the runs that have a score."""
    return [_answer(*part) for part in _parts(runs.drop_nulls("score"))]


def _parts(runs: pl.DataFrame) -> Iterator[tuple[str, dict[str, object], pl.DataFrame]]:
    """Each learner, what tells its setting from its others, and the runs there."""
    for (algorithm,), own in runs.sort("algorithm").group_by("algorithm", maintain_order=True):
        keys = settings_of(own, str(algorithm))
        groups = own.sort(keys).group_by(keys, maintain_order=True) if keys else [((), own)]
        for values, part in groups:
            yield str(algorithm), dict(zip(keys, values, strict=True)), part


def settings_of(runs: pl.DataFrame, algorithm: str | None = None) -> list[str]:
    """The keys that tell settings apart; of one algorithm, without those that only others read."""
    keys = [key for key in varied(runs) if key not in ("algorithm", COUNT)]
    return [key for key in keys if algorithm is None or not is_others(key, algorithm)]


def _answer(algorithm: str, setting: Mapping[str, object], runs: pl.DataFrame) -> Answer:
    cells = summary_of(runs, [COUNT], "score").sort(COUNT)
    counts, last = cells[COUNT].to_list(), cells.row(-1, named=True)
    reached = expert_level(runs, LEVEL)[algorithm]
    most = trajectories(counts[-1])
    if reached is not None:
        return Answer(algorithm, setting, "reached", reached, _where_reached(reached, counts))
    if math.isnan(last["low"]):
        score = f"its score with {most} is {last['iqm']:.3f}"
        some = any(cells["n"] > 1)
        why = f"with {most} only one seed is done" if some else "only one seed"
        return Answer(algorithm, setting, "no interval", None, f"no answer: {why}, so there is no interval; {score}")
    there = cells.filter(pl.col("low") >= LEVEL)[COUNT].to_list()
    score = f"with {most} its score is {number_with_interval(last)}"
    if there:
        sentence = f"expert level with {trajectories(there[-1])}, but not with every larger number tried: {score}"
        return Answer(algorithm, setting, "lost again", None, sentence)
    tried = "the only number tried" if len(counts) == 1 else f"any number tried ({in_a_row(counts)})"
    return Answer(algorithm, setting, "not reached", None, f"expert level is not reached at {tried}: {score}")


def _where_reached(count: int, counts: Sequence[int]) -> str:
    if len(counts) == 1:
        return f"expert level with {trajectories(count)}, the only number tried"
    return f"expert level from {trajectories(count)}" + (", the fewest tried" if count == counts[0] else "")


def overall(answers: Sequence[Answer]) -> str:
    """One sentence over the settings of a learner."""
    reached = [answer.count for answer in answers if answer.count is not None]
    if len(reached) == len(answers):
        return f"expert level from {trajectories(max(reached))} in all {len(answers)} settings"
    if not reached:
        return f"expert level is not reached in any of {len(answers)} settings"
    return f"expert level in {len(reached)} of {len(answers)} settings"


def in_short(answer: Answer) -> str:
    """An answer in a cell of a table."""
    return answer.kind if answer.count is None else str(answer.count)


def name_of(answer: Answer) -> str:
    """``BC``, or ``BC, hopper/expert``."""
    return setting_in_words(answer.algorithm, answer.setting)


def setting_in_words(algorithm: str, setting: Mapping[str, object]) -> str:
    """A learner and what tells its setting from others."""
    words = [
        as_words(value) if key == "data.expert" else f"{key_in_words(key)} {as_words(value)}"
        for key, value in setting.items()
    ]
    return ", ".join([LABELS.get(algorithm, algorithm), *words])


def without_scores(runs: pl.DataFrame, metric: str) -> list[tuple[str, str]]:
    """Each learner and setting, and a sentence, where no run has a score.

    Args:
        runs: those of a folder.
        metric: ``return``, or ``held_out_error``.
    """
    sentences = []
    for algorithm, setting, own in _parts(runs.drop_nulls(metric)):
        cells = summary_of(own, [COUNT], metric).sort(COUNT).rows(named=True)
        values = [f"{number_with_interval(cell)} with {trajectories(cell[COUNT])}" for cell in cells]
        sentences.append((setting_in_words(algorithm, setting), f"{_measured(own, metric)} {in_a_row(values)}"))
    return sentences


def _measured(runs: pl.DataFrame, metric: str) -> str:
    if metric == "return":
        return "its return is"
    kinds = runs["held_out_measure"].drop_nulls().unique().to_list()
    words = {"squared_error": "squared error", "wrong_actions": "share of wrong actions"}
    return f"its {words.get(kinds[0], 'error') if len(kinds) == 1 else 'error'} on held-out trajectories is"


def number_with_interval(cell: dict[str, float]) -> str:
    """``0.912 (0.850 to 0.950)``; returns with one digit."""
    digits = 1 if abs(cell["iqm"]) >= 10 else 3
    number = f"{cell['iqm']:.{digits}f}"
    if math.isnan(cell["low"]):
        return number
    return f"{number} ({cell['low']:.{digits}f} to {cell['high']:.{digits}f})"


def trajectories(count: int) -> str:
    """``1 trajectory``, ``3 trajectories``."""
    return f"{count:,} {'trajectory' if count == 1 else 'trajectories'}"


def in_a_row(parts: Sequence[object]) -> str:
    """``1, 3 and 10``."""
    *first, last = map(str, parts)
    return f"{', '.join(first)} and {last}" if first else last


def is_anchored(runs: pl.DataFrame) -> bool:
    """Whether some IQ-Learn here is held to the expert's actions, on expert data alone.

    Finitely many actions have no actor to anchor.
    """
    finite = pl.col("held_out_measure") == "wrong_actions"
    anchored = runs.filter(
        pl.col("algorithm") == "iq_learn",
        pl.col("iq_learn.behavior_anchor") > 0,
        pl.col("data.suboptimal") == "[]",
        ~finite.fill_null(False),
    )
    return anchored.height > 0
