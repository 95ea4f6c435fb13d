"""The names of D4RL's datasets, and which Minari dataset stands in for each.

D4RL's names are those that its packages register (``gym_mujoco``, ``locomotion``, ``pointmaze``,
``hand_manipulation_suite``, ``kitchen``, ``gym_minigrid``, ``flow``, ``carla``). None of the Minari datasets is a copy
of D4RL's file: all were recorded anew or replayed, in other versions of the environments. What differs is said for
each; docs/d4rl.md names the sources.
"""

import itertools
from dataclasses import dataclass

from iq_offline.data.catalog import builtin_names
from iq_offline.errors import UserError, nearest

LOCOMOTION = {"hopper": "Hopper", "halfcheetah": "HalfCheetah", "walker2d": "Walker2d", "ant": "Ant"}
ADROIT = {"pen": "Pen", "door": "Door", "hammer": "Hammer", "relocate": "Relocate"}
MAZES = {"open": "Open", "umaze": "UMaze", "medium": "Medium", "large": "Large"}
ANTMAZES = ("umaze", "umaze-diverse", "medium-play", "medium-diverse", "large-play", "large-diverse")


@dataclass(frozen=True)
class Counterpart:
    """The Minari dataset that stands in for one of D4RL's."""

    minari_id: str
    difference: str
    """How its data differ from D4RL's, as the end of a sentence about it."""


def counterpart(name: str) -> Counterpart | None:
    """The Minari dataset for a name of D4RL's, or None for any other name.

    Raises:
        UserError: a name of D4RL's that Minari has no data for; near names that it has data for are suggested.
    """
    if name in WITHOUT:
        stem, _, version = name.rpartition("-")
        family, _, tier = stem.partition("-")
        builtin = f"{family}/{tier}"
        ours = f" (the built-in dataset {builtin} is such data)" if builtin in builtin_names() else ""
        known = [other for other in COUNTERPARTS if other.startswith(f"{family}-") and other.endswith(version)]
        raise UserError(f"Minari has no counterpart of D4RL's {name!r}: {WITHOUT[name]}{ours}{nearest(name, known)}")
    return COUNTERPARTS.get(name)


def _locomotion() -> dict[str, Counterpart]:
    found = {}
    for (agent, environment), tier, version in itertools.product(LOCOMOTION.items(), ("medium", "expert"), "012"):
        difference = (
            f"recorded in {environment}-v5 by other policies than D4RL's in {environment}-v2: "
            "returns, lengths, and how good a tier is differ"
        )
        if agent == "ant":
            difference += ", and an observation has 105 numbers for D4RL's 111"
        found[f"{agent}-{tier}-v{version}"] = Counterpart(f"mujoco/{agent}/{tier}-v0", difference)
    return found


def _mazes() -> dict[str, Counterpart]:
    found = {}
    for (maze, environment), dense in itertools.product(MAZES.items(), (False, True)):
        difference = (
            f"recorded anew in PointMaze_{environment}{'Dense' if dense else ''}-v3, and an episode is truncated where "
            "it reaches its goal: D4RL's convention drops that step and its reward (keep_timeouts=True keeps them)"
        )
        stem = f"{maze}-dense" if dense else maze
        for version in ("v0",) if maze == "open" else ("v0", "v1"):
            found[f"maze2d-{stem}-{version}"] = Counterpart(f"D4RL/pointmaze/{stem}-v2", difference)
    return found


def _antmazes() -> dict[str, Counterpart]:
    difference = (
        "recorded anew in the AntMaze-v4 environments of Gymnasium-Robotics, by another ant that goes on after it has "
        "reached its goal: lengths and rewards differ"
    )
    return {
        f"antmaze-{maze}-v{version}": Counterpart(f"D4RL/antmaze/{maze}-v1", difference)
        for maze, version in itertools.product(ANTMAZES, "012")
    }


def _adroit() -> dict[str, Counterpart]:
    found = {}
    for (task, environment), version in itertools.product(ADROIT.items(), ("v0", "v1")):
        difference = (
            f"D4RL's v1 actions replayed in AdroitHand{environment}-v1, each episode from its first state: "
            "observations and rewards were computed again"
        )
        # D4RL's longhorizon names are longer time limits on the data of the human ones.
        tiers = {"human": "human", "human-longhorizon": "human", "cloned": "cloned", "expert": "expert"}
        for tier, stored in tiers.items():
            found[f"{task}-{tier}-{version}"] = Counterpart(f"D4RL/{task}/{stored}-v2", difference)
    return found


def _kitchens() -> dict[str, Counterpart]:
    difference = (
        "the demonstrations replayed in FrankaKitchen-v1: an observation has 59 numbers (positions and velocities, "
        "no goal) for D4RL's 60 (positions and goal), and a reward counts the tasks that are done at its step"
    )
    return {
        f"kitchen-{tier}-v0": Counterpart(f"D4RL/kitchen/{tier}-v2", difference)
        for tier in ("complete", "partial", "mixed")
    }


def _minigrids() -> dict[str, Counterpart]:
    difference = "recorded anew in MiniGrid-FourRooms-v0: lengths and rewards differ"
    return {
        f"minigrid-{tier}-v0": Counterpart(f"D4RL/minigrid/{tier}-v0", difference)
        for tier in ("fourrooms", "fourrooms-random")
    }


def _without() -> dict[str, str]:
    found = {}
    replay = "it stores no replay buffers of a training"
    for agent in LOCOMOTION:
        mixture = f"it stores no mixtures; D4RL's is {agent}-medium and {agent}-expert one after the other"
        random = "it has no data of random actions"
        reasons = {"random": random, "medium-expert": mixture, "medium-replay": replay, "full-replay": replay}
        found |= {
            f"{agent}-{tier}-v{version}": why for (tier, why), version in itertools.product(reasons.items(), "012")
        }
        found[f"{agent}-mixed-v0"] = replay
    found["ant-random-expert-v0"] = "it stores no mixtures"
    evaluation = "it has no data of the evaluation mazes"
    for maze, reward in itertools.product(("umaze", "medium", "large"), ("", "-dense")):
        found[f"maze2d-eval-{maze}{reward}-v1"] = evaluation
    found |= {f"antmaze-eval-{maze}-v0": evaluation for maze in ANTMAZES}
    found |= {
        f"antmaze-ultra-{tier}-v{version}": "it has no ultra maze" for tier in ("play", "diverse") for version in "02"
    }
    traffic = ("ring", "merge"), ("random", "controller")
    found |= {f"flow-{road}-{driver}-v0": "it has no traffic data" for road, driver in itertools.product(*traffic)}
    found |= {f"carla-{task}-v0": "it has no driving data" for task in ("lane", "town", "town-full")}
    tiers = ("random", "medium", "expert", "medium-expert", "medium-replay")
    for agent, tier in itertools.product(LOCOMOTION, tiers):
        found[f"bullet-{agent}-{tier}-v0"] = "it has no PyBullet data"
    found |= {f"bullet-maze2d-{maze}-v0": "it has no PyBullet data" for maze in MAZES}
    return found


COUNTERPARTS = _locomotion() | _mazes() | _antmazes() | _adroit() | _kitchens() | _minigrids()
"""Of every name of D4RL's that Minari has data for."""

WITHOUT = _without()
"""Names of D4RL's that Minari has no data for, with the reason."""
