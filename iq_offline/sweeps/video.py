"""Short videos of the final policies, drawn by a child process: whatever OpenGL does there, the report goes on.

The child is :mod:`iq_offline.sweeps.film`, started once for each OpenGL that MuJoCo could use until one works. Nothing
here imports torch.
"""

import json
import os
import platform
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from iq_offline.sweeps.results import COUNT

MOST = 16
"""Clips on a page."""
SILENCE = 120.0
"""Seconds without a word after which the child is given up: importing torch on a busy machine takes a while."""
REMEDY = (
    "MuJoCo draws with OpenGL: without a screen it needs EGL (Debian and Ubuntu: apt-get install libegl1 "
    "libgl1-mesa-dri); then give the same command again, or name what is there with MUJOCO_GL=osmesa or glfw"
)


@dataclass(frozen=True)
class Order:
    """A policy to be filmed in its dataset's environment."""

    policy: Path
    dataset: str
    seed: int
    """Of the episode."""


@dataclass(frozen=True)
class Clip:
    """A filmed episode."""

    moving: bytes
    """Animated AVIF."""
    still: bytes
    """WebP."""
    episode_return: float
    seconds: float
    """Of the episode, to its end."""
    shown: float
    """Seconds that the clip shows of it."""


@dataclass
class Films:
    """What came out: clips by the position of their order, and why others are missing."""

    clips: dict[int, Clip] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    """There is no policy or no environment."""
    failed: dict[int, str] = field(default_factory=dict)
    """The environment could not be drawn."""


def chosen_runs(runs: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    """The runs to show: of each cell the one with the lowest seed, never one chosen by its return.

    Where that would be more than :data:`MOST` there are fewer numbers of trajectories, the smallest and the largest
    first.

    Args:
        runs: one row a run.
        by: keys that tell cells apart.
    """
    keys = list(dict.fromkeys([*by, COUNT]))
    first = runs.sort(*keys, "seed").unique(keys, keep="first", maintain_order=True)
    counts = first[COUNT].unique().sort().to_numpy()
    room = max(1, MOST * len(counts) // max(1, first.height))
    if room < len(counts):
        places = np.linspace(0, len(counts) - 1, room).round().astype(int) if room > 1 else [len(counts) - 1]
        first = first.filter(pl.col(COUNT).is_in(counts[places].tolist()))
    return first.head(MOST)


def backends() -> tuple[str | None, ...]:
    """What MuJoCo may draw with here, as values of ``MUJOCO_GL``: the user's choice alone where there is one."""
    if os.environ.get("MUJOCO_GL") or platform.system() != "Linux":
        return (None,)
    screen = bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return ("egl", "osmesa", *["glfw"] * screen)


def make_clips(
    orders: Sequence[Order],
    progress: Callable[[int, int], None] = lambda done, total: None,
    silence: float = SILENCE,
) -> Films:
    """Film every policy that can be filmed here. Never raises for one that cannot.

    Args:
        orders: what to film.
        progress: called with the per cent that are done, and 100.
        silence: seconds without a word after which the child is given up.
    """
    films = Films()
    for backend in backends():
        left = [index for index in range(len(orders)) if index not in films.clips and index not in films.refused]
        if not left:
            break
        earlier = films.failed
        films.failed = {}
        done = len(orders) - len(left)
        for place, kind, said in _answers([orders[index] for index in left], backend, silence):
            index = left[place]
            if kind == "done":
                films.clips[index] = said
            elif kind == "refused":
                films.refused[index] = said
            elif kind == "failed":  # The first OpenGL's complaint says the most: the later ones are guesses.
                films.failed[index] = earlier.get(index) or said
            done += kind != "share"
            progress(int(100 * (done + (said if kind == "share" else 0)) / len(orders)), 100)
    return films


def _answers(orders: Sequence[Order], backend: str | None, silence: float) -> Iterator[tuple[int, str, Any]]:
    """What the child says of each order: its position, the kind of word, and what goes with it.

    Kinds: ``share`` that is done; then ``done`` with the clip, or ``refused`` or ``failed`` with the reason, also for
    those that it did not come to.
    """
    environment = {**os.environ}
    if backend:
        environment["MUJOCO_GL"] = backend
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryFile() as complaints:
        clips = [{"policy": str(order.policy), "dataset": order.dataset, "seed": order.seed} for order in orders]
        command = [sys.executable, "-m", "iq_offline.sweeps.film"]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints, env=environment
        ) as child:
            answered, why = set(), ""
            try:
                assert child.stdin is not None
                child.stdin.write(json.dumps({"clips": clips, "folder": name}).encode())
                child.stdin.close()
                for word in map(json.loads, _lines(child, silence)):
                    place = word.pop("clip")
                    ((kind, said),) = word.items()
                    if kind != "share":
                        answered.add(place)
                    yield place, kind, _clip(Path(name) / str(place), said) if kind == "done" else said
            except TimeoutError:
                why = f"drawing did not go on for {silence:.0f} s"
            except BrokenPipeError:  # It died before it read its job.
                pass
            finally:
                child.kill()
        complaints.seek(0)
        said = complaints.read().decode(errors="replace").strip().splitlines()
        why = why or (said[-1] if said else f"drawing ended with the exit code {child.returncode}")
        yield from ((place, "failed", why) for place in range(len(orders)) if place not in answered)


def _lines(child: subprocess.Popen, silence: float) -> Iterator[bytes]:
    """Lines of its output.

    Raises:
        TimeoutError: it says nothing for too long.
    """
    assert child.stdout is not None
    rest = b""
    while True:
        if not select.select([child.stdout], [], [], silence)[0]:
            raise TimeoutError
        some = os.read(child.stdout.fileno(), 65_536)
        if not some:
            return
        *lines, rest = (rest + some).split(b"\n")
        yield from lines


def _clip(path: Path, about: dict[str, float]) -> Clip:
    moving, still = path.with_suffix(".avif").read_bytes(), path.with_suffix(".webp").read_bytes()
    return Clip(moving, still, about["return"], about["seconds"], about["shown"])
