"""A page about the runs in a folder that needs nothing but itself: question, answer, figures, tables, videos.

    folder -> findings -> answer, figures, tables, clips, how it was made -> one HTML file

Everything is in the file, and it runs no script. Nothing here imports torch: another process draws the videos.
"""

import shlex
import time
from pathlib import Path

import polars as pl

from iq_offline.config import label
from iq_offline.files import disk_errors, write_atomically
from iq_offline.provenance import package_versions
from iq_offline.sweeps import answers
from iq_offline.sweeps.exhibits import clips_of, figures_of
from iq_offline.sweeps.findings import Findings, findings_in, same_and_different
from iq_offline.sweeps.page import Html, document, element, folded, joined, paragraph, section, table, words_table
from iq_offline.sweeps.results import BASELINE, comparisons_of, not_compared, require_baseline, summary_of
from iq_offline.sweeps.tables import overview_of
from iq_offline.sweeps.words import COUNT, SUBOPTIMAL, as_words

REPORT = "report.html"
SENTENCES = 6
"""More answers than these are a table."""
MEANINGS = {
    "score": "Normalised scores: 0 a random policy, 1 the expert.",
    "return": "Returns: no references are known to normalise them by.",
    "held_out_error": "Errors against the expert's actions on trajectories kept from training; lower is better.",
}
ANCHORED = (
    "Here IQ-Learn's actor is held to the expert's actions (the behaviour anchor, on by default). On expert data alone "
    "that is BC with a Q-term on top: with the defaults of both, a seed begins with the same weights and sees the same "
    "rows, so that a difference paired by seed is the Q-term's. behavior_anchor = 0 shows IQ-Learn by itself."
)


def write_report(folder: Path, output: Path | None = None, video: bool = True, baseline: str = BASELINE) -> Path:
    """Write the page about a folder.

    Args:
        folder: of a sweep, or any with runs in it.
        output: the page, or a folder for it; ``FOLDER/report.html`` where None.
        video: show the policies, where their environments can be drawn.
        baseline: the algorithm that the others are compared with.

    Returns:
        Where the page is.

    Raises:
        UserError: no such folder, no finished run in it or none of the baseline, or no place to write.
    """
    output = output or folder / REPORT
    output = output / REPORT if output.is_dir() else output
    found = findings_in(folder)
    require_baseline(baseline, found.runs["algorithm"], folder)
    clips = clips_of(found) if video else Html("")
    with disk_errors("writing a report", output.parent):
        write_atomically(output, page_of(found, clips, baseline))
    return output


def page_of(found: Findings, clips: Html = Html(""), baseline: str = BASELINE) -> str:
    """The whole page."""
    parts = (answer_of(found), figures_of(found), tables_of(found, baseline), clips, made_of(found))
    written = f"Written on {time.strftime('%Y-%m-%d')} by iq-offline {package_versions()['iq-offline']}."
    return document(
        found.question,
        element("header", element("h1", found.question), "\n", paragraph(_about(found), kind="quiet")),
        element("main", [joined("\n", part) for part in parts]),
        element("footer", written, " This page is one file and loads nothing."),
    )


def _about(found: Findings) -> str:
    datasets = [as_words(value) for value in found.runs["data.expert"].unique().sort()]
    named = datasets[0] if len(datasets) == 1 else f"{len(datasets)} datasets"
    kept = found.runs["data.subsample"].unique().sort().to_list()
    which = "complete" if kept == [1] else f"1 step in {answers.in_a_row(kept)} kept" if 1 not in kept else "see table"
    learners = answers.in_a_row([label(name) for name in found.runs["algorithm"].unique().sort()])
    sweep = f"Sweep {found.sweep.name}: " if found.sweep else ""
    return f"{sweep}{learners} on {named}, trajectories: {which}. {found.progress}."


def answer_of(found: Findings) -> Html:
    """What the runs say, and how far to trust it."""
    scored = found.runs.drop_nulls("score")
    lines, more = _sentences(found.runs, found.metric)
    explained = (
        f"Expert level: from that number of trajectories on, every 95% interval of the interquartile mean of the "
        f"normalised score (0 a random policy, 1 the expert) begins at {answers.LEVEL} or higher."
    )
    return joined(
        [paragraph(element("strong", title), " ", text, kind="warning") for title, text in _warnings(found)],
        element("ul", [element("li", element("strong", name), f": {said}.") for name, said in lines], class_="answers"),
        more,
        paragraph(explained, kind="quiet") if scored.height else "",
        [paragraph(note, kind="quiet") for note in _notes(found)],
    )


def _sentences(runs: pl.DataFrame, metric: str | None) -> tuple[list[tuple[str, str]], Html]:
    """Names and sentences, and a table where there are too many."""
    if metric is None:
        return [("No answer", "no run was scored, and none has an error on held-out trajectories")], Html("")
    if metric != "score":
        why = "no run has a score, because no references are known" if metric == "return" else "no run was scored"
        return [("No answer on expert level", why), *answers.without_scores(runs, metric)], Html("")
    found = answers.answers_of(runs)
    if len(found) <= SENTENCES:
        return [(answer.name, answer.sentence) for answer in found], Html("")
    lines = []
    for learner in dict.fromkeys(answer.learner for answer in found):
        own = [answer for answer in found if answer.learner == learner]
        lines.append((learner, answers.overall(own)))
    if runs[COUNT].n_unique() == 1 and runs[SUBOPTIMAL].n_unique() > 1:
        return lines, Html("")  # The table of every kind of data says more.
    rows = [[answer.name, answers.in_short(answer)] for answer in found]
    title = "From how many trajectories on it is at the expert's level"
    return lines, words_table(["learner and setting", "trajectories"], rows, title, numbers=[False, True])


def _warnings(found: Findings) -> list[tuple[str, str]]:
    warnings = []
    if found.fast:
        warnings.append(
            ("A rehearsal, not a result.", "Runs made with --fast have a tiny budget: their scores say nothing.")
        )
    if found.unfinished:
        failed = sum(state.startswith("failed") for state in found.unfinished.values())
        more = f", {failed} failed" if failed else ""
        change = ", and may change" if len(found.unfinished) > failed else ""
        warnings.append(("Not finished.", f"{found.progress}{more}: what follows is about those alone{change}."))
    if len(found.of_all("git_commit")) > 1 or any(" / " in versions for _, versions in _versions(found)):
        warnings.append(("Not all alike.", "The runs were made with different versions of the code or of packages."))
    return warnings


def _notes(found: Findings) -> list[str]:
    notes = []
    missing = found.runs["score"].null_count()
    if found.metric == "score" and missing:
        notes.append(f"{missing} of {found.runs.height} runs have no score and are left out.")
    counted = found.runs.drop_nulls(found.metric) if found.metric else found.runs
    seeds = counted.group_by(found.by).len().filter(pl.col("len") > 1)["len"].min()
    if isinstance(seeds, int) and seeds < answers.FEW:
        notes.append(
            f"Some intervals are from {seeds} seeds, and too narrow: from three seeds a 95% interval holds the true "
            "interquartile mean in about 75% of cases, from five in 90%, from ten in 94%."
        )
    return notes + [ANCHORED] * answers.is_anchored(found.runs)


def tables_of(found: Findings, baseline: str) -> Html:
    """Cells, comparisons with the baseline, and every run."""
    parts: list[Html] = []
    if found.metric:
        summary = summary_of(found.runs, found.by, found.metric)
        meaning = (
            f"{MEANINGS[found.metric]} IQM: interquartile mean, of the middle half of the seeds, with its 95% "
            "bootstrap interval; worst: of the seeds; seconds: of training, the median."
        )
        overview = overview_of(summary)
        if overview.height:
            about = f"{MEANINGS[found.metric]} Interquartile means over seeds, with 95% bootstrap intervals."
            parts.append(table(overview, "Every learner on every kind of suboptimal data", about))
        parts.append(table(_filled(summary), "Every setting", meaning))
        comparisons = comparisons_of(found.runs, found.by, found.metric, baseline)
        if comparisons.height:
            title = f"Difference to {label(baseline)}, run by run"
            parts.append(table(_filled(comparisons), title, _compared(found.metric)))
        if lacking := not_compared(summary, comparisons, baseline):
            parts.append(paragraph(f"{lacking}.", kind="quiet"))
    if found.unfinished:
        rows = [element("li", element("code", name), f" {state}") for name, state in found.unfinished.items()]
        parts += [element("h3", "Runs that are not finished"), element("ul", rows, class_="plain")]
    return section("Tables", parts, folded(f"Every run ({found.runs.height})", _every_run(found)))


def _compared(metric: str) -> str:
    paired = "Means over pairs with the same seed, and so the same trajectories, with 95% bootstrap intervals."
    if metric != "score":
        return paired + " Lower is better." * (metric == "held_out_error")
    return (
        f"{paired} By the interval: clearly above where it begins over 0, non-inferior where it begins at -0.05 or "
        "higher, below where it ends under -0.05, else not shown; unknown where there is one pair."
    )


def _every_run(found: Findings) -> Html:
    rows = found.runs.sort(*found.by, "seed").select(
        *found.by,
        "seed",
        "score",
        "return",
        "held_out_error",
        "episodes",
        "seconds",
        pl.col("run").str.strip_prefix("runs/").replace("", found.folder.resolve().name).alias("folder"),
    )
    return table(_filled(rows), "Every finished run", "Score and return: means over the run's evaluation episodes.")


def _filled(frame: pl.DataFrame) -> pl.DataFrame:
    """Without the columns that hold nothing."""
    return frame.select(column for column in frame if column.null_count() < frame.height)


def made_of(found: Findings) -> Html:
    """References, configuration, versions, and how to do it again."""
    same, different = same_and_different(found.runs)
    packages = [[name, versions] for name, versions in _versions(found)]
    commits = [[commit if commit != "None" else "not run from a checkout"] for commit in found.of_all("git_commit")]
    hours = found.runs["seconds"].sum() / 3600
    spent = f"{hours:.1f} hours" if hours > 2 else f"{60 * hours:.1f} minutes"
    return section(
        "How it was made",
        paragraph(
            f"Each learner trains {_met(found.runs)} for a fixed number of gradient steps. Its averaged weights after "
            f"the last step are scored in whole episodes; no checkpoint is chosen. All trainings together took {spent}."
        ),
        _references(found),
        _repeat(found),
        folded(
            "Configuration",
            words_table(["key", "values"], different, "What differs between the runs") if different else "",
            words_table(["key", "value"], same, "What all runs have in common"),
        ),
        folded(
            "Versions",
            words_table(["package", "version"], packages, "Packages"),
            words_table(["commit"], commits, "Code"),
        ),
    )


def _met(runs: pl.DataFrame) -> str:
    """Whether learners met an environment."""
    online = runs["online.env_steps"] > 0
    if not online.any():
        return "on fixed data alone"
    there = "on fixed data and on what it lives through in the environment, without its reward,"
    return there if online.all() else f"on fixed data alone, or (online) {there}"


def _references(found: Findings) -> Html:
    known = found.runs.filter(pl.col("expert_return").is_not_null())
    if known.is_empty():
        return paragraph("The runs have no reference returns.")
    sources = {run: found.summaries[run]["references"] for run in known["run"]}
    rows = known.select(
        "data.expert", "expert_return", "random_return", pl.col("run").replace_strict(sources).alias("from")
    ).unique(maintain_order=True)
    words = [
        [as_words(dataset), f"{expert:.1f}", "" if random is None else f"{random:.1f}", source]
        for dataset, expert, random, source in rows.rows()
    ]
    headings, numbers = ["dataset", "1: expert", "0: random", "from"], [False, True, True, False]
    return words_table(headings, words, "Returns that scores of 1 and 0 stand for", numbers=numbers)


def _repeat(found: Findings) -> Html:
    if found.sweep:
        how = "To do it again, save the sweep's file as sweep.toml (it is in the sweep's folder, too) and give:"
        command = "iq-offline sweep sweep.toml --output runs/again"
        more = folded("The sweep's file", element("pre", found.sweep.to_toml(), tabindex="0"))
    else:
        how = "To do a run again, such as the first:"
        first = found.folder / found.runs["run"][0] / "config.toml"
        command, more = f"iq-offline train {shlex.quote(str(first))} --output runs/again", Html("")
    return joined(paragraph(how), element("pre", element("code", command), tabindex="0"), more)


def _versions(found: Findings) -> list[tuple[str, str]]:
    """Each package with its version, or with all of them."""
    names = dict.fromkeys(name for summary in found.summaries.values() for name in summary["versions"])
    return [
        (name, " / ".join(sorted({summary["versions"].get(name, "unknown") for summary in found.summaries.values()})))
        for name in names
    ]
