"""Which datasets there are: the built-in ones, each described by a card, and those of the local Minari root."""

import difflib
import os
import re
from collections.abc import Iterator
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from iq_offline.config import STRICT, Positive, from_table, read_toml
from iq_offline.errors import UserError, nearest
from iq_offline.files import shipped

NAMESPACE = "iq-offline"
RANDOM = "random"
"""The policy of a tier that draws its actions uniformly from the action space."""
WAYPOINTS = "waypoints"
"""The policy of a maze's expert: a controller that knows the map."""


@dataclass(frozen=True, config=STRICT)
class ExpertTraining:
    """How the policies of a card were trained: an algorithm of stable-baselines3 or sb3-contrib and its arguments."""

    algorithm: str = "TD3"
    steps: Positive = 1_000_000
    seed: int = 0
    hidden_sizes: tuple[int, ...] = (256, 256)
    action_noise: tuple[tuple[int, float], ...] = ()
    """Noise on actions: pairs of (from this step on, standard deviation as a fraction of half the action box). TD3
    explores with it; the others do not know of it, and learn what does not need perfect actions."""
    environments: Positive = 1
    """Environments side by side."""
    normalize: bool = False
    """Normalise observations and rewards by their running statistics."""
    normalize_epsilon: float = 1e-8
    """Added to the variances, so that parts that are nearly always zero (contact forces) are not blown up."""
    evaluate_every: Positive = 10_000
    save_every: Positive = 50_000
    arguments: dict[str, Any] = field(default_factory=dict)
    """Arguments of the algorithm's class."""
    later_arguments: tuple[tuple[int, dict[str, Any]], ...] = ()
    """Others from a step on: pairs of (from this step on, arguments), in order. Larger batches late, say."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of the packages that the shipped policies were trained with."""


@dataclass(frozen=True, config=STRICT)
class References:
    """What normalised scores are measured against: score = (return - random) / (expert - random)."""

    expert_return: float
    random_return: float
    source: str
    """How the two were measured."""


@dataclass(frozen=True, config=STRICT)
class RandomStretches:
    """Random actions in the middle of an episode, so that good and bad share it."""

    every: Positive = 100
    """Mean steps of the policy between two stretches."""
    shortest: Positive = 5
    longest: Positive = 30


@dataclass(frozen=True, config=STRICT)
class DatasetCard:
    """One dataset as it is recorded: who acts, how long, from which seed, and what came out."""

    policy: str
    """A file in ``datasets/policies``, ``random``, or ``waypoints``."""
    episodes: Positive
    seed: int
    action_noise: Annotated[float, Field(ge=0)] = 0.0
    """Of Gaussian noise on the actions, as a fraction of half the action box; or the share of random actions."""
    random_stretches: RandomStretches | None = None
    """In which a random policy acts in the place of this one."""
    training_steps: Annotated[int, Field(ge=0)] = 0
    """Environment steps of training behind the policy."""
    return_mean: float | None = None
    return_std: float | None = None
    length_mean: float | None = None
    content_hash: str = ""
    """SHA-256 of all recorded arrays on the machine and versions that the card was written with."""


@dataclass(frozen=True, config=STRICT)
class Card:
    """An environment's built-in datasets, from ``datasets/NAME.toml``."""

    environment: str
    references: References
    datasets: dict[str, DatasetCard]
    training: ExpertTraining | None = None
    """Of the policies in the card; none where they are controllers."""
    recorded_with: dict[str, str] = field(default_factory=dict)
    """Versions of the packages that the content hashes belong to."""


def card_names() -> list[str]:
    """Names of the cards, such as hopper."""
    return sorted(file.stem for file in shipped("datasets").glob("*.toml"))


def load_card(name: str) -> Card:
    """The card of that name.

    Raises:
        UserError: there is none (near names suggested), or it is malformed.
    """
    path = shipped("datasets") / f"{name}.toml"
    if name not in card_names():
        raise UserError(f"no dataset card {name!r}{nearest(name, card_names())} (there are: {', '.join(card_names())})")
    return from_table(Card, read_toml(path), str(path))


def builtin_names() -> list[str]:
    """Names of the built-in datasets, such as hopper/expert."""
    return [f"{name}/{tier}" for name in card_names() for tier in load_card(name).datasets]


def minari_id(name: str) -> str:
    """The Minari id behind a built-in dataset's name; any other name is an id already."""
    return name if name.startswith(f"{NAMESPACE}/") or not builtin_of(name) else f"{NAMESPACE}/{name}-v0"


def builtin_of(identifier: str) -> tuple[Card, str] | None:
    """The card and the tier behind a built-in dataset's name or id, or None for any other dataset."""
    inside = re.fullmatch(rf"{NAMESPACE}/(.+)-v0", identifier)
    name, _, tier = (inside[1] if inside else identifier).partition("/")
    if name not in card_names():
        return None
    card = load_card(name)
    return (card, tier) if tier in card.datasets else None


def known_references(identifier: str, metadata: dict[str, Any]) -> References | None:
    """Reference scores that need no measurement: the card's, else the metadata's."""
    builtin = builtin_of(identifier)
    if builtin:
        return builtin[0].references
    try:
        low, high = (float(metadata[name]) for name in ("ref_min_score", "ref_max_score"))
    except (KeyError, TypeError, ValueError):  # None, or no numbers.
        return None
    return References(high, low, "reference scores in the dataset's metadata")


def minari_root() -> Path:
    """Minari's own folder of datasets: ``MINARI_DATASETS_PATH``, else ``~/.minari/datasets``."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets")


def local_ids() -> list[str]:
    """Ids of the datasets in the local Minari root."""
    root = minari_root()
    return sorted(folder.relative_to(root).as_posix() for folder in _datasets_in(root, ()))


def _datasets_in(folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    """As Minari looks for them: behind links as well, but not round in a circle."""
    place = folder.resolve()
    if place in above or not os.access(folder, os.R_OK | os.X_OK) or (folder / "metadata.json").is_file():
        return
    if (folder / "data" / "metadata.json").is_file():
        yield folder
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.name.startswith("."):
            yield from _datasets_in(entry, (*above, place))


def locate(name: str) -> Path | None:
    """The data folder of a dataset in the local Minari root, or None when it is not there.

    Raises:
        UserError: the name is not a dataset id, or would leave the root.
    """
    identifier = re.sub(r"^\w+://\w[^/]*/", "", minari_id(name))
    if not re.fullmatch(r"(?!.*\.\.)[\w.][\w\-./]*-v\d+", identifier):
        raise UserError(
            f"{name!r} is neither a built-in dataset nor a Minari id (namespace/name-vN)" + _suggestion(name)
        )
    folder = minari_root() / identifier / "data"
    return folder if folder.is_dir() else None


def not_found(name: str, how: str = "--download") -> UserError:
    """The error for a dataset that is not on this machine, with the nearest names and what to do.

    Args:
        name: as the user wrote it.
        how: what makes the caller download it.
    """
    return UserError(
        f"no dataset {name!r} in {minari_root()}{_suggestion(name)}; "
        f"{how} fetches it from the Minari server (needs a network)"
    )


def _suggestion(name: str) -> str:
    known = [*builtin_names(), *local_ids()]
    stem = re.sub(r"-v\d+$", "", name)
    near = nearest(name, known)
    if near:
        return near
    by_stem = [item for item in known if difflib.SequenceMatcher(None, stem, item).ratio() > 0.4]
    return f" (here: {', '.join((by_stem or known)[:5])})" if known else ""


def download(identifier: str) -> Path:
    """Fetch a dataset from the Minari server, or from ``hf://`` and ``gcp://`` remotes, into the local root.

    Minari 0.5 looks for a prefixed id in the wrong place after downloading it, so the prefix is taken off here.

    Raises:
        UserError: the server cannot be reached, has no such dataset, or a package is missing that speaks to it.
    """
    import minari

    try:
        minari.download_dataset(identifier)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        hint = "" if isinstance(error, ImportError) else " (is there a network?)"
        raise UserError(f"could not download {identifier!r}: {reason}{hint}") from error
    folder = locate(identifier)
    if folder is None:
        raise UserError(f"{identifier!r} was downloaded but is not in {minari_root()}: its id on the server may differ")
    return folder
