"""The tables of a sweep, or of any folder of runs: read from the runs' own rows, nothing is computed twice.

    episodes (a row an evaluated episode) -> runs (one a learner) -> summary (one a cell), comparisons (pairs of cells)

A cell is what runs have in common that differ in their seed alone. Nothing here imports torch.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import polars as pl

from iq_offline.config import ALGORITHMS, BEFORE, BETTER_ALONE, RunConfig, label, resolved
from iq_offline.errors import UserError
from iq_offline.evaluation.rows import EPISODES, MEASURED, SUMMARY, configuration_row, is_finished
from iq_offline.files import ONCE_MORE
from iq_offline.sweeps.folders import folders_in
from iq_offline.sweeps.statistics import estimate, paired_difference, verdict
from iq_offline.sweeps.words import COUNT, EXPERT, SUBOPTIMAL, with_lines

BASELINE = "bc"
METRICS = ("score", "return", "held_out_error")
"""What runs can be told apart by, the best first: the score needs an environment and references, the error neither."""
TASK = EXPERT, SUBOPTIMAL
"""Keys that say what is learned from, besides the amount."""
ACTORS = "training.actors"
FIRST = ("algorithm", *TASK, COUNT, "data.subsample")
"""Keys that cells are named by before any other."""


class NothingToCompareError(UserError):
    """The runs are done, but nothing was measured."""


def read_episodes(folder: Path) -> pl.LazyFrame:
    """The rows of every finished run in a folder, with ``run``, the run's own folder, as the first column.

    What rows of an older version lack had the value that is the default now, or was then (``config.BEFORE``).

    Raises:
        UserError: there is no such folder, no finished run in it, or a file of rows is damaged.
    """
    if not os.path.isdir(folder):
        raise UserError(f"no folder {folder}: give the folder of a sweep or of runs")
    folder = folder.absolute()
    files = [str(run / EPISODES) for run, names in folders_in(folder) if EPISODES in names and is_finished(run)]
    if not files:
        raise UserError(f"{folder} holds no finished run yet (of none {EPISODES} and {SUMMARY} are there)")
    return _rows_of(files, folder).lazy()


def _rows_of(files: list[str], folder: Path) -> pl.DataFrame:
    """The rows of these files, which are below the folder.

    Raises:
        UserError: one is damaged.
    """
    try:
        return _scanned(files, folder).collect()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        if len(files) == 1:
            raise UserError(f"{files[0]} is cut or damaged, or no run's: {ONCE_MORE}") from error
        for file in files:  # The error does not say which it is.
            _rows_of([file], folder)
        raise


def _scanned(files: list[str], folder: Path) -> pl.LazyFrame:
    defaults = configuration_row(resolved(RunConfig()))
    rows = pl.scan_parquet(
        files,
        glob=False,
        hive_partitioning=False,
        schema={**MEASURED, **defaults.schema},
        missing_columns="insert",
        extra_columns="ignore",
        cast_options=pl.ScanCastOptions(integer_cast="upcast"),
        include_file_paths="file",
    )
    name = pl.col("file").str.strip_prefix(f"{folder}/").str.strip_suffix(EPISODES).str.strip_suffix("/")
    return rows.select(
        name.alias("run"),
        pl.col(*MEASURED),
        *(pl.col(key).fill_null(BEFORE.get(key, value)) for key, value in defaults.row(0, named=True).items()),
    )


def configuration(columns: list[str]) -> list[str]:
    """Those columns that are keys of a run's configuration."""
    return [name for name in columns if name not in (*MEASURED, "run", "episodes")]


def runs_of(episodes: pl.LazyFrame) -> pl.DataFrame:
    """One row a run: means over the final policy's episodes, and the configuration. What is not finite is null.

    Of runs that differ in nothing that their learner reads (BC in two sweeps over IQ-Learn's keys) the first stays.

    Raises:
        UserError: a learner is there twice, which would count as two.
    """
    columns = episodes.collect_schema().names()
    final = episodes.filter("is_final").group_by("run", maintain_order=True)
    same = [name for name in columns if name not in ("run", "is_final", "episode", "return", "score")]
    means = pl.col("score", "return").mean()
    aggregated = final.agg(means, pl.col("episode").count().alias("episodes"), pl.col(same).first())
    runs = aggregated.with_columns(map(_finite, METRICS)).sort("run").collect()
    keys = [key for key in configuration(runs.columns) if key != "recipe"]
    twice = runs.filter(pl.struct(keys).is_duplicated()).sort(keys, maintain_order=True)
    if twice.height:
        one, other = twice["run"].head(2)
        raise UserError(f"the runs {one} and {other} are of one configuration and seed: give a folder with one of them")
    return runs.with_columns(_where_read(keys)).unique(keys, keep="first", maintain_order=True)


def _where_read(keys: Sequence[str]) -> list[pl.Expr]:
    """Keys in an algorithm's section with one value for all who do not read it: they tell no runs of theirs apart."""
    own = [(key, key.split(".")[0]) for key in keys if key.split(".")[0] in ALGORITHMS]
    return [
        pl.when(algorithm=section).then(key).otherwise(pl.col(key).first().over("algorithm")).alias(key)
        for key, section in own
    ]


def _finite(name: str) -> pl.Expr:
    return pl.when(pl.col(name).is_finite()).then(pl.col(name))


def curves_of(episodes: pl.LazyFrame) -> pl.DataFrame:
    """One row for each run and snapshot, the final one included: means over its episodes, and the configuration."""
    columns = episodes.collect_schema().names()
    keys = configuration(columns)
    points = episodes.filter(pl.col("episode").is_not_null()).group_by("run", "gradient_steps", "env_steps")
    return (
        points.agg(pl.col("score", "return").mean(), pl.col("expert_return", "random_return", *keys).first())
        .with_columns(_finite("score"), _finite("return"))
        .sort("run", "gradient_steps")
        .collect()
    )


def varied(runs: pl.DataFrame) -> list[str]:
    """Configuration keys, but the seed, that tell cells apart; of those that change together only the first.

    The algorithm stands for no key but those of algorithms: where learners had other data or budgets, that is named.
    """
    keys = configuration(runs.columns)
    ordered = [key for key in FIRST if key in keys]
    ordered += [key for key in keys if key not in (*FIRST, "seed", "recipe")]
    own = [key for key in ordered if key.split(".")[0] in ALGORITHMS]
    if _as_many_as_each_is_best_with(runs):
        own = [key for key in ordered if key in (*own, ACTORS)]
    shared = _telling_apart(runs, [key for key in ordered if key not in ("algorithm", *own)], [])
    algorithm = ["algorithm"] * (runs["algorithm"].n_unique() > 1)
    return _telling_apart(runs, own, algorithm + shared)


def _as_many_as_each_is_best_with(runs: pl.DataFrame) -> bool:
    """Whether the learners differ in how many networks act because some are better alone, and for nothing else."""
    alone = pl.col("algorithm").is_in(BETTER_ALONE)
    return ACTORS in runs.columns and all(runs.filter(some)[ACTORS].n_unique() <= 1 for some in (alone, ~alone))


def _telling_apart(runs: pl.DataFrame, keys: list[str], chosen: list[str]) -> list[str]:
    cells = runs.select(chosen).n_unique() if chosen else 1
    for key in keys:
        if runs[key].n_unique() > 1 and (count := runs.select(*chosen, key).n_unique()) > cells:
            chosen, cells = [*chosen, key], count
    return chosen


def metric_of(runs: pl.DataFrame) -> str:
    """The best of :data:`METRICS` that any run has; the others are left out where runs are compared.

    Raises:
        NothingToCompareError: no run has one.
    """
    for metric in METRICS:
        if runs[metric].count():
            return metric
    raise NothingToCompareError("no run was scored, and none has an error on held-out trajectories")


def summary_of(runs: pl.DataFrame, by: list[str], metric: str) -> pl.DataFrame:
    """One row a cell: n, interquartile mean with a 95% bootstrap interval over learners, mean, worst, mean return.

    Args:
        runs: from :func:`runs_of`.
        by: keys of the configuration, as :func:`varied` gives; none makes one cell.
        metric: of :data:`METRICS`. The worst of errors is the highest.
    """
    rows = []
    for names, cell in _cells(runs, by):
        values = cell[metric].drop_nulls().to_numpy()
        if not len(values):
            continue
        middle = estimate([values])
        rows.append(
            {
                **dict(zip(by, names, strict=True)),
                "n": len(values),
                "iqm": middle.value,
                "low": middle.low,
                "high": middle.high,
                "mean": float(values.mean()),
                "worst": float(values.max() if metric == "held_out_error" else values.min()),
                "return_mean": cell["return"].mean(),
                "seconds": cell["seconds"].median(),
            }
        )
    return pl.DataFrame(rows, infer_schema_length=None)


def comparisons_of(runs: pl.DataFrame, by: list[str], metric: str, baseline: str = BASELINE) -> pl.DataFrame:
    """Every other algorithm minus the baseline in the same cell, paired by seed (and so by selection of trajectories).

    Where keys of the baseline's own vary, it is minus each variant, which ``minus`` names: "BC, everything".
    A verdict is for scores alone (:func:`iq_offline.sweeps.statistics.verdict`, ``docs/results.md``). Empty where there
    is no baseline or nothing beside it.
    """
    if "algorithm" not in by or baseline not in runs["algorithm"]:
        return pl.DataFrame()
    shared = [key for key in by if key != "algorithm" and key.split(".")[0] not in ALGORITHMS]
    own = [key for key in by if key.split(".")[0] == baseline]
    theirs: dict[tuple, list[tuple[str, dict[int, float]]]] = {}
    for names, cell in _cells(with_lines(runs.filter(algorithm=baseline), own), shared + own):
        theirs.setdefault(names[: len(shared)], []).append((cell["line"][0], _by_seed(cell, metric)))
    rows = []
    for names, cell in _cells(runs.filter(pl.col("algorithm") != baseline), by):
        place, ours = dict(zip(by, names, strict=True)), _by_seed(cell, metric)
        for minus, other in theirs.get(tuple(place[key] for key in shared), []):
            if ours.keys().isdisjoint(other):
                continue
            difference = paired_difference([ours], [other])
            rows.append(
                {
                    **place,
                    "minus": minus,
                    "pairs": difference.runs,
                    "difference": difference.value,
                    "low": difference.low,
                    "high": difference.high,
                    "verdict": verdict(difference) if metric == "score" else None,
                }
            )
    return pl.DataFrame(rows, infer_schema_length=None)


def require_baseline(baseline: str, algorithms: Iterable[str], where: object) -> None:
    """Refuse one that was asked for and is not there; that none is there by default is no mistake.

    Raises:
        UserError: ``where``, a folder or a sweep, has no runs of it.
    """
    if baseline not in (BASELINE, *algorithms):
        raise UserError(f"{where} has no runs of {baseline}: give --baseline {' or '.join(sorted(set(algorithms)))}")


def not_compared(summary: pl.DataFrame, comparisons: pl.DataFrame, baseline: str) -> str:
    """Which cells the comparisons lack, in a sentence; empty where they have all of the other algorithms.

    Args:
        summary: of :func:`summary_of`.
        comparisons: of :func:`comparisons_of`, by the same keys.
        baseline: that they are with.
    """
    if "algorithm" not in summary.columns or summary["algorithm"].n_unique() == 1:
        return ""
    if baseline not in summary["algorithm"]:
        others = " or ".join(summary["algorithm"].unique().sort())
        return f"Nothing of {label(baseline)} is there to compare with: give --baseline {others}"
    by = summary.columns[: summary.columns.index("n")]
    compared = {*comparisons.select(by).rows()} if comparisons.height else set()
    left = len({*summary.filter(pl.col("algorithm") != baseline).select(by).rows()} - compared)
    words = "settings of other learners are" if left > 1 else "setting of another learner is"
    why = f"{label(baseline)} has no run with the same data, budget and seed"
    return f"{left} {words} not compared: {why}" if left else ""


def _by_seed(cell: pl.DataFrame, metric: str) -> dict[int, float]:
    scored = cell.drop_nulls(metric)
    return dict(zip(scored["seed"].to_list(), scored[metric].to_list(), strict=True))


def expert_level(runs: pl.DataFrame, level: float = 0.95) -> dict[str, int | None]:
    """For each algorithm the smallest number of trajectories from which every interval's lower end is at least that.

    Every: of that count and of all larger ones, over all further keys that vary. None where there is none.
    """
    by = list(dict.fromkeys(["algorithm", *varied(runs), COUNT]))
    found: dict[str, int | None] = {}
    for algorithm in runs["algorithm"].unique(maintain_order=True):
        own = runs.filter(algorithm=algorithm)
        reached = None
        for number in sorted(own[COUNT].unique(), reverse=True):
            there = own.filter(pl.col(COUNT) == number)
            cells = summary_of(there, by, "score")
            if cells.height < there.select(by).n_unique():  # Some were not scored.
                break
            if cells["low"].is_nan().any() or cells["low"].min() < level:  # type: ignore[operator]
                break
            reached = number
        found[algorithm] = reached
    return found


def _cells(runs: pl.DataFrame, by: list[str]) -> list[tuple[tuple, pl.DataFrame]]:
    if not by:
        return [((), runs)]
    return [(names, cell) for names, cell in runs.sort(by, maintain_order=True).group_by(by, maintain_order=True)]
