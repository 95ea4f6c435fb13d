"""What the runs answer, in sentences: from how many expert trajectories each learner is at the expert's level.

A *setting* is what runs of a learner have in common besides the number of trajectories and the seed.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from iq_offline.sweeps.results import TASK, expert_level, summary_of, varied
from iq_offline.sweeps.words import COUNT, with_lines

LEVEL = 0.95
"""Normalised score that counts as the expert's, as the lower end of an interval."""
FEW = 5
"""Seeds below which bootstrap intervals are clearly too narrow (:mod:`iq_offline.sweeps.statistics`)."""

Kind = Literal["reached", "lost again", "not reached", "no interval"]


@dataclass(frozen=True)
class Answer:
    """What the scores of a learner in one setting say."""

    learner: str
    """With its own settings: "BC", or "IQ-Learn, temperature 0.01"."""
    name: str
    """Of the learner and of what it learned from, where that differs: "BC, hopper/expert"."""
    kind: Kind
    count: int | None
    """The number of trajectories from which on it is at the expert's level."""
    sentence: str


def answers_of(runs: pl.DataFrame) -> list[Answer]:
    """An answer for each learner and setting, from the runs that have a score."""
    return [_answer(*part) for part in _parts(runs.drop_nulls("score"))]


def _parts(runs: pl.DataFrame) -> Iterator[tuple[str, str, pl.DataFrame]]:
    """Each learner, its name in a setting, and the runs there."""
    if runs.is_empty():
        return
    learners = with_lines(runs, settings_of(runs, besides=TASK)).rename({"line": "learner"})
    for own in with_lines(learners, settings_of(runs)).sort("line").partition_by("line", maintain_order=True):
        yield own["learner"][0], own["line"][0], own


def settings_of(runs: pl.DataFrame, besides: Sequence[str] = ()) -> list[str]:
    """The keys that tell settings apart, without some."""
    return [key for key in varied(runs) if key not in ("algorithm", COUNT, *besides)]


def _answer(learner: str, name: str, runs: pl.DataFrame) -> Answer:
    cells = summary_of(runs, [COUNT], "score").sort(COUNT)
    counts, last = cells[COUNT].to_list(), cells.row(-1, named=True)
    reached = expert_level(runs, LEVEL)[runs["algorithm"][0]]
    most = trajectories(counts[-1])
    if reached is not None:
        return Answer(learner, name, "reached", reached, _where_reached(reached, counts))
    if math.isnan(last["low"]):
        score = f"its score with {most} is {last['iqm']:.3f}"
        some = any(cells["n"] > 1)
        why = f"with {most} only one seed is done" if some else "only one seed"
        return Answer(learner, name, "no interval", None, f"no answer: {why}, so there is no interval; {score}")
    there = cells.filter(pl.col("low") >= LEVEL)[COUNT].to_list()
    score = f"with {most} its score is {number_with_interval(last)}"
    if there:
        sentence = f"expert level with {trajectories(there[-1])}, but not with every larger number tried: {score}"
        return Answer(learner, name, "lost again", None, sentence)
    tried = "the only number tried" if len(counts) == 1 else f"any number tried ({in_a_row(counts)})"
    return Answer(learner, name, "not reached", None, f"expert level is not reached at {tried}: {score}")


def _where_reached(count: int, counts: Sequence[int]) -> str:
    if len(counts) == 1:
        return f"expert level with {trajectories(count)}, the only number tried"
    return f"expert level from {trajectories(count)}" + (", the fewest tried" if count == counts[0] else "")


def overall(answers: Sequence[Answer]) -> str:
    """One sentence over the settings of a learner."""
    if len(answers) == 1:
        return answers[0].sentence
    sure = [answer for answer in answers if answer.kind != "no interval"]
    if not sure:
        return f"no answer: only one seed in each of {len(answers)} settings, so there is no interval"
    reached = [answer.count for answer in answers if answer.count is not None]
    unknown = f"; {len(answers) - len(sure)} have one seed and no interval" if len(sure) < len(answers) else ""
    if len(reached) == len(answers):
        return f"expert level from {trajectories(max(reached))} in all {len(answers)} settings"
    if not reached:
        return f"expert level is not reached in any of {len(sure)} settings{unknown}"
    return f"expert level in {len(reached)} of {len(sure)} settings{unknown}"


def in_short(answer: Answer) -> str:
    """An answer in a cell of a table."""
    return answer.kind if answer.count is None else str(answer.count)


def without_scores(runs: pl.DataFrame, metric: str) -> list[tuple[str, str]]:
    """Each learner and setting, and a sentence, where no run has a score.

    Args:
        runs: those of a folder.
        metric: ``return``, or ``held_out_error``.
    """
    sentences = []
    for _, name, own in _parts(runs.drop_nulls(metric)):
        cells = summary_of(own, [COUNT], metric).sort(COUNT).rows(named=True)
        values = [f"{number_with_interval(cell)} with {trajectories(cell[COUNT])}" for cell in cells]
        sentences.append((name, f"{_measured(own, metric)} {in_a_row(values)}"))
    return sentences


def _measured(runs: pl.DataFrame, metric: str) -> str:
    if metric == "return":
        return "its return is"
    kinds = runs["held_out_measure"].drop_nulls().unique().to_list()
    words = {"squared_error": "squared error", "wrong_actions": "share of wrong actions"}
    return f"its {words.get(kinds[0], 'error') if len(kinds) == 1 else 'error'} on held-out trajectories is"


def number_with_interval(cell: Mapping[str, Any]) -> str:
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

    In a box: with finitely many actions rates and temperature are others than behavior cloning's.
    """
    finite = pl.col("held_out_measure") == "wrong_actions"
    anchored = runs.filter(
        pl.col("algorithm") == "iq_learn",
        pl.col("iq_learn.behavior_anchor") > 0,
        pl.col("data.suboptimal") == "[]",
        pl.col("online.env_steps") == 0,
        ~finite.fill_null(False),
    )
    return anchored.height > 0
