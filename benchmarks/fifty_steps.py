"""Draws 50 labelled steps of four tasks beside three kinds of data, from ``results/suboptimal_scales.parquet``.

    python benchmarks/fifty_steps.py docs/fifty_steps.png

The rows are of ``iq-offline sweep hopper_suboptimal`` and its three sisters: looking ahead and BC with seeds 0 to 2,
the controls with seed 0. BC on the labelled steps does not see the other data and is in every panel of its task.
"""

import sys
from pathlib import Path

import polars as pl

from iq_offline.sweeps.plots import learners, save_figure
from iq_offline.sweeps.results import runs_of

ROWS = Path(__file__).parent / "results" / "suboptimal_scales.parquet"
BEFORE_THE_RULE = "16402c6"
"""Commit of looking ahead as it was before; both are in the rows."""


def shown() -> pl.DataFrame:
    """The runs in the picture."""
    rows = pl.read_parquet(ROWS).filter("is_final", pl.col("bc.learning_rate") == 3e-4)
    old = (pl.col("algorithm") == "iq_learn") & pl.col("git_commit").str.starts_with(BEFORE_THE_RULE)
    rows = rows.filter(~old).with_columns(env_steps=pl.lit(None, pl.Int64))
    mixed, alone = (rows.filter((pl.col("data.suboptimal") != "[]") == there) for there in (True, False))
    kinds = mixed.select("data.expert", "data.suboptimal").unique(maintain_order=True)
    alone = alone.drop("data.suboptimal").join(kinds, on="data.expert").select(rows.columns)
    name = pl.format("{} {} {} {} {}", "data.suboptimal", "algorithm", "bc.imitate", "iq_learn.policy", "seed")
    return runs_of(pl.concat([mixed, alone]).with_columns(run=name).lazy())


if __name__ == "__main__":
    runs, place = shown(), Path(sys.argv[1])
    save_figure(learners(runs, ["iq_learn.policy", "bc.imitate"]), place.with_suffix(""), ["png"])
    line = ["algorithm", "iq_learn.policy", "bc.imitate"]
    unread = pl.when(algorithm="bc").then(pl.lit("")).otherwise("iq_learn.policy").alias("iq_learn.policy")
    cells = runs.with_columns(unread).group_by(*line, "data.expert", "data.suboptimal").agg(pl.col("score").mean())
    about = [pl.col("score").min().alias("lowest of twelve"), (pl.col("score") < 0.9).sum().alias("under 0.9")]
    print(cells.group_by(line).agg(about).sort("lowest of twelve"))
