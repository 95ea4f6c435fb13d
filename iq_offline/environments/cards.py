"""From a finished expert training to a dataset card: choosing the tiers, measuring them, writing them down."""

import dataclasses
import math
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from iq_offline.config import to_table
from iq_offline.data.catalog import RANDOM, Card, ExpertTraining, References
from iq_offline.data.writing import datasets_in
from iq_offline.environments.experts import policy_file
from iq_offline.environments.record import Recording, record, versions
from iq_offline.errors import UserError
from iq_offline.files import shipped, write_atomically

TARGETS = {"medium": 0.5, "simple": 0.2}
"""Normalised scores that the lesser tiers are chosen nearest to."""


def tiers_from(rows: list[dict[str, Any]], random_return: float, training: ExpertTraining) -> dict[str, dict[str, Any]]:
    """The evaluations that become tiers.

    ``expert`` is looked for under the last noise of the training's schedule: a policy that was never disturbed can
    often be followed by a perfect copy of it alone, and teaches nothing about learners. There, of the evaluations
    whose mean return less its standard deviation is at least 97% of the best such figure (normalised), it has the
    highest return with disturbed actions. ``medium`` and ``simple`` are the earlier evaluations whose episodes are
    nearest to half and to a fifth of its normalised score (in root mean square: a policy that is good in some episodes
    and fails in the others is neither).
    """
    settled = training.action_noise[-1][0] if training.action_noise else 0
    candidates = [row for row in rows if row["steps"] > settled]
    if not candidates:
        raise UserError(f"the training has no evaluation after step {settled:,} yet: nothing to choose tiers from")
    lower_ends = [row["return_mean"] - row["return_std"] for row in candidates]
    allowed = max(lower_ends) - 0.03 * (max(lower_ends) - random_return)
    good = [row for row, lower_end in zip(candidates, lower_ends, strict=True) if lower_end >= allowed]
    expert = max(good, key=lambda row: row["disturbed_mean"])
    earlier = [row for row in rows if row["steps"] < expert["steps"]]
    tiers = {"expert": expert}
    for tier, target in TARGETS.items():
        wanted = random_return + target * (expert["return_mean"] - random_return)
        if earlier:
            tiers[tier] = min(
                earlier, key=lambda row, wanted=wanted: math.hypot(row["return_mean"] - wanted, row["return_std"])
            )
    return tiers


def write_card(name: str, card: Card, folder: Path, rows: list[dict[str, Any]]) -> Path:
    """Put the tiers' weights and what they achieve into the ``datasets`` folder of the checkout.

    Of the tiers only those that the card has. Every dataset is recorded once in a temporary Minari root, for its
    content hash and returns; the references are the mean returns of the recorded ``expert`` and ``random`` datasets.
    """
    datasets = shipped("datasets")
    measured = {tier: _record_once(name, tier, card) for tier, about in card.datasets.items() if about.policy == RANDOM}
    random_return = float(measured["random"].returns.mean())
    tiers = tiers_from(rows, random_return, card.training) if card.training else {}
    steps = {about.policy: tiers[tier]["steps"] for tier, about in card.datasets.items() if tier in tiers}
    for policy, step in steps.items():
        target = datasets / "policies" / policy
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(policy_file(folder, step), target)
        target.chmod(0o644)
    measured |= {tier: _record_once(name, tier, card) for tier in card.datasets if tier not in measured}
    described = {
        tier: dataclasses.replace(
            about,
            training_steps=steps.get(about.policy, 0),
            return_mean=round(float(measured[tier].returns.mean()), 2),
            return_std=round(float(measured[tier].returns.std()), 2),
            length_mean=round(float(measured[tier].lengths.mean()), 2),
            content_hash=measured[tier].content_hash,
        )
        for tier, about in card.datasets.items()
    }
    references = References(
        expert_return=round(float(np.mean(measured["expert"].returns)), 2),
        random_return=round(float(np.mean(measured["random"].returns)), 2),
        source=f"mean returns of iq-offline/{name}/expert-v0 and iq-offline/{name}/random-v0 in {card.environment}",
    )
    trained_with = versions() | {name: version(name) for name in ("stable_baselines3", "sb3_contrib")}
    card = dataclasses.replace(
        card,
        references=references,
        datasets=described,
        training=card.training and dataclasses.replace(card.training, versions=trained_with),
        recorded_with=versions(),
    )
    path = datasets / f"{name}.toml"
    head = f"# Dataset card, written by: iq-offline datasets train-expert {name} --write-card\n\n"
    write_atomically(path, head + tomli_w.dumps(to_table(card)))
    return path


def _record_once(name: str, tier: str, card: Card) -> Recording:
    with tempfile.TemporaryDirectory() as root, datasets_in(Path(root)):
        return record(name, tier, card)
