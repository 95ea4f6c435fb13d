"""Experts of another source, as many episodes as a mixture needs: whoever imitated others' demonstrations acts.

    iq-offline train hopper_offline --expert thirdparty/hopper/cs285-2023-v0 --num-expert-trajectories 2 --algorithms bc
    python benchmarks/others.py RUN_DIR hopper

Demonstrations that others published are often of two episodes. The policy of a run on them is recorded in the
environment of the built-in datasets, 60 episodes, as ``others/NAME/expert-v0``; and with the random stretches of the
built-in ``noisy`` data as ``others/NAME/noisy-v0``.
"""

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import torch

from iq_offline.data.catalog import Card, DatasetCard, References, load_card, minari_root
from iq_offline.data.writing import install, temporary_root
from iq_offline.environments.make import built
from iq_offline.environments.record import SIDE_BY_SIDE, behaviour, write
from iq_offline.environments.rollout import Episode, rollout

EPISODES = 60
SEEDS = {"expert": 700_000, "noisy": 800_000}


def episodes_of(about: DatasetCard, card: Card) -> list[Episode]:
    """As the policy acts, for ``noisy`` with random actions now and then."""
    with built(card.environment, SIDE_BY_SIDE) as environments:
        act = behaviour(about, environments[0])
        return list(rollout(environments, act, range(about.seed, about.seed + about.episodes)))


def main() -> None:
    """Record both datasets."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, metavar="RUN_DIR")
    parser.add_argument("name", help="of the card whose environment it is: hopper, halfcheetah, walker2d")
    options = parser.parse_args()
    torch.set_num_threads(1)
    card, policy = load_card(options.name), (options.run / "policy.safetensors").absolute()
    with built(card.environment, 1) as (environment,):
        space = environment.observation_space
    tiers = {
        tier: DatasetCard(str(policy), EPISODES, seed, random_stretches=card.datasets[tier].random_stretches)
        for tier, seed in SEEDS.items()
    }
    recorded = {tier: episodes_of(about, card) for tier, about in tiers.items()}
    returns = {tier: np.array([episode.total_return for episode in recorded[tier]]) for tier in SEEDS}
    whose = f"the policy of {options.run}"
    references = References(float(returns["expert"].mean()), card.references.random_return, whose)
    root = minari_root()
    for tier, episodes in recorded.items():
        identifier = f"others/{options.name}/{tier}-v0"
        with temporary_root(root) as temporary:
            write(
                identifier,
                dataclasses.replace(card, references=references, training=None),
                tiers[tier],
                episodes,
                space,
            )
            install(identifier, temporary, root)
        print(f"{identifier}: {returns[tier].mean():.1f} ± {returns[tier].std():.1f}, lowest {returns[tier].min():.1f}")


if __name__ == "__main__":
    main()
