"""What a report shows: figures with what can be seen in them, and the policies at work."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from iq_offline.config import label
from iq_offline.sweeps.answers import in_a_row, settings_of, trajectories
from iq_offline.sweeps.findings import Findings
from iq_offline.sweeps.page import Html, data_uri, element, figure, folded, joined, paragraph, picture, section
from iq_offline.sweeps.results import TASK
from iq_offline.sweeps.video import REMEDY, Clip, Films, Order, chosen_runs, make_clips
from iq_offline.sweeps.words import COUNT, EXPERT, with_lines
from iq_offline.training.tracking import patient_progress

if TYPE_CHECKING:
    from iq_offline.sweeps.figures import Draw

NARROW = "(max-width: 40rem)"
"""Screens that get a figure in the width of a paper's column."""
OTHERS = " Thin grey lines are published returns of others, normalised by their own experts."
PANELS = 12
"""Learning curves with more panels are folded."""
MOVING = "screen and (prefers-reduced-motion: no-preference)"
MEASURES = {"score": "normalised score", "return": "return", "held_out_error": "error on held-out trajectories"}


def figures_of(found: Findings) -> Html:
    """The figures that these runs can fill."""
    if found.metric is None:
        return Html("")
    from iq_offline.sweeps.figures import drawings_of

    learners = in_a_row([label(name) for name in found.runs["algorithm"].unique().sort()])
    measure = MEASURES[found.metric]
    published = found.sweep.published if found.sweep else ()
    said = {
        "expert_counts": (
            f"Chart of the {measure} against the number of expert trajectories, with a line for each of {learners}. "
            "Its numbers are in the table of every setting.",
            f"How good with how many trajectories. {_points(found)} {_meaning(found)}{OTHERS * bool(published)}",
        ),
        "learners": (
            f"Chart of the {measure} of each learner: {learners}. Its numbers are in the tables.",
            f"How good each learner is. {_points(found)} {_meaning(found)}",
        ),
        "learning_curves": (
            f"Charts of the {measure} along the gradient steps, with a line for each of {learners}.",
            (
                "Along the training. The policies that were saved on the way are scored when it is over, and none "
                "of them is chosen: the result is always the last one."
            ),
        ),
        "performance_profiles": (
            f"Chart of the share of runs above each score, with a line for each of {learners}.",
            (
                "Single runs. For each score the share of a learner's runs that are above it, over all numbers of "
                "trajectories: the later a line falls, the better."
            ),
        ),
        "heat_map": (
            f"Heat map of the interquartile mean of {learners} on each dataset. Its numbers are in the table.",
            "All datasets at a glance: interquartile means of the normalised score.",
        ),
    }
    drawings = drawings_of(found.runs, found.curves, published)
    shown = {name: _chart(draw, *said[name]) for name, draw in drawings.items()}
    if "learning_curves" in shown and found.curves.select(*TASK, COUNT).n_unique() > PANELS:
        shown["learning_curves"] = folded("Along the training", shown["learning_curves"])
    return section("Figures", list(shown.values())) if shown else Html("")


def _chart(draw: "Draw", alt: str, caption: str) -> Html:
    """A figure for wide screens and paper, and one for narrow screens."""
    from iq_offline.evaluation.plots import rendered
    from iq_offline.sweeps.plots import COLUMN, PAGE

    wide, narrow = (data_uri(rendered(draw(width), "svg"), "image/svg+xml") for width in (PAGE, COLUMN))
    return figure(picture(wide, narrow, NARROW, alt), caption, kind="chart")


def _points(found: Findings) -> str:
    """What a point and a band are."""
    sizes = found.runs.drop_nulls(found.metric).group_by(found.by).len()["len"]
    few, many = sizes.min(), sizes.max()
    if many == 1:
        return "A point is one learner: there is one seed."
    over = f"{few}" if few == many else f"{few} to {many}"
    return (
        f"A point is the interquartile mean (of the middle half) over {over} learners that differ in their seed; the "
        "band or bar is its 95% bootstrap interval: how much other seeds would change it."
    )


def _meaning(found: Findings) -> str:
    """What 0 and 1 are, and what was learned from."""
    kept = found.runs["data.subsample"].unique().sort().to_list()
    which = (
        "The trajectories are complete." if kept == [1] else f"Of each trajectory 1 step in {in_a_row(kept)} is kept."
    )
    if 1 in kept and len(kept) > 1:
        which = "Some trajectories are complete, of others only some steps are kept."
    if found.metric != "score":
        return which
    references = found.runs.select("expert_return", "random_return").drop_nulls().unique().rows()
    if len(references) != 1:
        return f"0 is a random policy, 1 the expert (see below for their returns). {which}"
    expert, random = references[0]
    scored = found.runs.drop_nulls("expert_return")["run"]
    source = " and ".join(dict.fromkeys(found.summaries[run]["references"] for run in scored))
    return f"0 is a random policy (return {random:.1f}), 1 the expert ({expert:.1f}); {source}. {which}"


def clips_of(found: Findings) -> Html:
    """The final policies at work, or why they are not shown."""
    chosen = chosen_runs(found.runs, found.by)
    orders = [
        Order(found.folder / run / "policy.safetensors", expert, seed)
        for run, expert, seed in chosen.select("run", EXPERT, "evaluation.seed").rows()
    ]
    with patient_progress("drawing the policies") as progress:
        films = make_clips(orders, progress)
    called = dict(with_lines(found.runs, settings_of(found.runs)).select("run", "line").rows())
    rows = chosen.rows(named=True)
    names = [f"{called[row['run']]}, {trajectories(row[COUNT])}, seed {row['seed']}" for row in rows]
    shown = [_filmed(films.clips[index], names[index], rows[index]) for index in sorted(films.clips)]
    cells = found.runs.select(*found.by).n_unique()
    fewer = f" {len(rows)} of {cells} settings are shown." if len(rows) < cells else ""
    about = (
        "The final policy in its first evaluation episode, with the lowest seed that there is: none was chosen by its "
        f"return.{fewer}"
    )
    why = [paragraph(text, kind="quiet") for text in missing_clips(films, names)]
    if not shown:
        return section("The policies at work", why)
    videos = folded("Videos", element("div", shown, class_="clips"), opened=True)
    return section("The policies at work", paragraph(about, kind="quiet"), videos, why)


def missing_clips(films: Films, names: list[str]) -> list[str]:
    """Why videos are missing, one line a reason."""
    lines = [
        f"No video of {_which(indices, names)}: {reason}." for reason, indices in _by_reason(films.refused).items()
    ]
    for reason, indices in _by_reason(films.failed).items():
        lines.append(f"No video of {_which(indices, names)}, because it could not be drawn: {reason}. {REMEDY}.")
    return lines


def _by_reason(reasons: dict[int, str]) -> dict[str, list[int]]:
    return {reason: [i for i in sorted(reasons) if reasons[i] == reason] for reason in dict.fromkeys(reasons.values())}


def _which(indices: Iterable[int], names: list[str]) -> str:
    some = [names[index] for index in indices]
    return "any policy" if len(some) == len(names) and len(some) > 1 else "; ".join(some)


def _filmed(clip: Clip, name: str, row: dict) -> Html:
    said = f"return {clip.episode_return:.1f}"
    expert, random = row["expert_return"], row["random_return"]
    if row["score"] is not None:
        said += f", score {(clip.episode_return - random) / (expert - random):.3f}"
    cut = f"; the first {clip.shown:.1f} s of {clip.seconds:.1f} s" if clip.shown < clip.seconds else ""
    moving, still = data_uri(clip.moving, "image/avif"), data_uri(clip.still, "image/webp")
    alt = f"Video of the policy of {name}"
    return figure(
        picture(still, moving, MOVING, alt, kind="image/avif"), joined(element("strong", name), f": {said}{cut}")
    )
