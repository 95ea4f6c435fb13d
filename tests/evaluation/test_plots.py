"""The pictures of runs: what stands in them, with an environment and without."""

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from iq_offline.evaluation import plots
from iq_offline.evaluation.plots import plot_comparison, plot_run

ROWS = [{"gradient_steps": step, "held_out/error": 1 / step, "labelled/error": 0.0} for step in (10, 20)]


def summary(algorithm: str, returns: list[float]) -> dict[str, Any]:
    points = [
        {"gradient_steps": 10 * i, "return_mean": value, "returns": [value]} for i, value in enumerate(returns, 1)
    ]
    about = {
        "num_expert_trajectories": 2,
        "subsample": 20,
        "seed": 3,
        "fast": True,
        "dataset_ids": ["a/b-v0", "c/d-v0"],
    }
    return about | {"algorithm": algorithm, "curve": points, "expert_return": 9.0, "random_return": None}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that would be written."""
    figures: list[Figure] = []
    monkeypatch.setattr(plots, "save", lambda figure, path: figures.append(figure))
    return figures


def lines(axes: Any) -> dict[str, list[tuple[float, float]]]:
    return {line.get_label(): [*zip(*line.get_data(), strict=True)] for line in axes.lines}


def test_learners_are_compared_by_their_returns(drawn: list[Figure]) -> None:
    plot_comparison(Path("x"), [summary("bc", [1.0, 2.0]), summary("iq_learn", [3.0, 4.0])], [ROWS, ROWS])
    (axes,) = drawn[0].axes
    found = lines(axes)
    assert (found["BC"], found["IQ-Learn"]) == ([(10, 1.0), (20, 2.0)], [(10, 3.0), (20, 4.0)])
    assert axes.get_title().splitlines()[0] == "fast: not a result"


def test_without_returns_by_their_errors(drawn: list[Figure]) -> None:
    plot_comparison(Path("x"), [summary("bc", []), summary("iq_learn", [])], [ROWS, []])
    (axes,) = drawn[0].axes
    assert lines(axes) == {"BC": [(10, 0.1), (20, 0.05)]}
    assert axes.get_ylabel() == "error on held-out trajectories"


def test_without_both_it_is_said(drawn: list[Figure]) -> None:
    plot_comparison(Path("x"), [summary("bc", [])], [[]])
    assert [text.get_text() for text in drawn[0].axes[0].texts] == ["neither returns nor held-out trajectories"]


@pytest.mark.parametrize(("returns", "panels"), [([1.0, 2.0], 2), ([], 1)])
def test_no_panel_is_empty(returns: list[float], panels: int, drawn: list[Figure]) -> None:
    plot_run(Path("x"), summary("bc", returns), [{"gradient_steps": 10, "actor/loss": 0.5}], ROWS)
    assert len(drawn[0].axes) == panels
    assert lines(drawn[0].axes[-1]) == {"actor/loss": [(10, 0.5)], "held-out error": [(10, 0.1), (20, 0.05)]}
    assert all(axes.get_title() for axes in drawn[0].axes)
