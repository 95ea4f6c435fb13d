"""Some episodes of a dataset under a name of their own, which may stand wherever a dataset's name does.

``company/driving-v0[0-99,120]`` are the episodes with the ids 0 to 99 and 120, in this order.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from iq_offline.errors import UserError

if TYPE_CHECKING:
    from minari import MinariDataset

MOST = 10_000_000
"""Episodes that no range holds: one beyond is a slip of the keyboard."""
LONGEST_SHOWN = 40
"""Characters between the brackets that tables show whole."""


def name_of(view: "MinariDataset") -> str:
    """The name of a filtered or split view, such as ``dataset.filter_episodes(…)`` or ``minari.split_dataset(…)`` give.

    Args:
        view: of a dataset in the local Minari root. Of a whole dataset the name is its id.

    Raises:
        UserError: it holds no episodes.
    """
    ids = [int(index) for index in view.episode_indices]
    identifier = str(view.spec.dataset_id)
    if not ids:
        raise UserError(f"the view of {identifier} is empty: it holds no episodes")
    return identifier if ids == list(range(view.storage.total_episodes)) else f"{identifier}[{_in_ranges(ids)}]"


def parsed(name: str) -> tuple[str, tuple[int, ...] | None]:
    """A dataset's name without its brackets, and the ids of the episodes in them; None where it has no brackets.

    Raises:
        UserError: what is in the brackets are no ids, or one is there twice.
    """
    words = re.fullmatch(r"(?P<dataset>[^\[\]]*)\[(?P<ids>.*)\]", name, re.DOTALL)
    if words is None:
        return name, None
    ids: list[int] = []
    for part in words["ids"].split(","):
        first, last = _range_of(part, name)
        ids += range(first, last + 1)
    if len(set(ids)) < len(ids):
        twice = next(index for index, times in Counter(ids).items() if times > 1)
        raise UserError(f"{short(name)} names episode {twice} twice")
    return words["dataset"], tuple(ids)


def _range_of(part: str, name: str) -> tuple[int, int]:
    ends = re.fullmatch(r"\s*(\d{1,18})\s*(?:-\s*(\d{1,18})\s*)?", part)
    first, last = (int(ends[1]), int(ends[2] or ends[1])) if ends else (0, -1)
    if last < first or last - first >= MOST:
        raise UserError(
            f"{short(name)}: {part.strip()!r} is neither the id of an episode nor a range of ids: "
            "NAME[0-99,120] are the episodes 0 to 99 and 120"
        )
    return first, last


def short(name: str) -> str:
    """A name for people to read: of a long view where it begins and a digest, which keeps it apart."""
    dataset, bracket, inside = name.partition("[")
    if len(inside) <= LONGEST_SHOWN:
        return name
    digest = hashlib.sha256(inside.encode()).hexdigest()[:6]
    return f"{dataset}{bracket}{inside[:10]}…{digest}]"


def _in_ranges(ids: Iterable[int]) -> str:
    """``0-3,7,9`` of 0, 1, 2, 3, 7, 9, in the order given."""
    runs: list[list[int]] = []
    for index in ids:
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ",".join(f"{first}-{last}" if last > first else str(first) for first, last in runs)
