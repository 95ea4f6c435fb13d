"""How well do numbers from recorded data rank the true returns of trained policies? Spearman's rank correlation.

    python benchmarks/selection.py runs/hopper_expert_count runs/walker2d_suboptimal

reads every finished run of those sweeps: the diagnostics of its last step (from its checkpoint where the run is older
than they are) and its mean score. Rows: ``benchmarks/results/selection.parquet``. Prints a table for each sweep: over
all its policies, and the mean over groups that differ in nothing but the seed (five or more, whose scores differ).
"""

import argparse
import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl

from iq_offline.config import RunConfig, from_table, read_toml, to_table
from iq_offline.errors import UserError
from iq_offline.evaluation.selection import health, read_diagnostics, watches
from iq_offline.experiment import Options, obtain
from iq_offline.training import checkpoint
from iq_offline.training.offline import LATEST
from iq_offline.training.setup import choose_data, prepare

RESULTS = Path(__file__).parent / "results" / "selection.parquet"
MEASURES = {
    "held_out/error": -1,
    "labelled/error": -1,
    "suboptimal/error": -1,
    "held_out/log_likelihood": 1,
    "held_out/reward": 1,
    "reward_margin": 1,
    "reward_saturation": -1,
    "value_of_bound": -1,
}
"""And whether more is expected to be better."""
dataset = cache(lambda name: obtain(name, Options(say=lambda line: None)))


def row_of(folder: Path) -> dict[str, Any] | None:
    """The run's score and its last diagnostics; None where it has not ended."""
    file = folder / "summary.json"
    summary = json.loads(file.read_text()) if file.exists() else {}
    if summary.get("normalized_score") is None:
        return None
    config = from_table(RunConfig, read_toml(folder / "config.toml"), str(folder))
    rows = read_diagnostics(folder)
    verdict = health(rows).verdict if rows else None
    if not rows:
        data = choose_data(
            config, dataset(config.data.expert), [dataset(part.dataset) for part in config.data.suboptimal]
        )
        training = prepare(config, data)
        training.load_state(checkpoint.load(folder / LATEST)[0])
        rows = [watches([training], [data])[0].look()]
    learner = config.iq_learn.policy if config.algorithm == "iq_learn" else f"bc {config.bc.imitate}"
    group = json.dumps(to_table(replace(config, seed=0)))
    about = {"group": group, "seed": config.seed, "learner": learner, "verdict": verdict}
    return about | {"score": summary["normalized_score"]} | rows[-1]


def correlations(rows: pl.DataFrame) -> pl.DataFrame:
    """Spearman's correlation with the score, signed so that 1 is what is hoped for."""
    table = []
    for name, sign in MEASURES.items():
        known = rows.filter(pl.col(name).is_not_null()) if name in rows.columns else rows.clear()
        groups = [
            sign * float(pl.DataFrame(group).select(pl.corr(name, "score", method="spearman")).item())
            for _, group in known.group_by("group")
            if len(group) >= 5 and group[name].n_unique() > 1 and group["score"].max() - group["score"].min() > 0.05  # type: ignore[operator]
        ]
        if len(known) > 2 and known[name].n_unique() > 1:
            rho = sign * known.select(pl.corr(name, "score", method="spearman")).item()
            within = sum(groups) / len(groups) if groups else None
            table.append({"measure": name, "policies": len(known), "all": rho, "groups": len(groups), "within": within})
    return pl.DataFrame(table)


def main() -> None:
    """Read, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", nargs="+", type=Path, help="folders of sweeps")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    found = []
    for sweep in arguments.sweeps:
        folders = sorted(file.parent for file in sweep.glob("runs/**/config.toml"))
        for number, folder in enumerate(folders, 1):
            print(f"\r{sweep.name}: {number} of {len(folders)}", end="", flush=True)
            try:
                row = row_of(folder)
            except UserError as error:
                print(f"\n{folder} is left out: {error}")
                continue
            if row:
                found.append({"sweep": sweep.name, "run": str(folder.relative_to(sweep))} | row)
        print()
    rows = pl.DataFrame(found, infer_schema_length=None)
    rows.write_parquet(arguments.output)
    with pl.Config(tbl_rows=-1, float_precision=2, tbl_hide_dataframe_shape=True, tbl_hide_column_data_types=True):
        for (sweep,), part in rows.group_by("sweep", maintain_order=True):
            print(f"{sweep}: {len(part)} policies, scores {part['score'].min():.2f} to {part['score'].max():.2f}")
            print(correlations(part))
            print(part.group_by("verdict").agg(pl.len(), pl.col("score").mean()))


if __name__ == "__main__":
    main()
