"""The program that draws policies at work, in a process of its own: OpenGL may end the process that asks for it.

``python -m iq_offline.sweeps.film`` reads a job as JSON (``{"clips": [order, …], "folder": …}``), writes ``0.avif``,
``0.webp``, … into the folder and says how it goes in lines of JSON (:mod:`iq_offline.sweeps.video` starts it).

Clips are animated AVIF: browsers play it as an image, Pillow writes it. Eight seconds of a hopping MuJoCo robot at 25
pictures a second take 0.3 MB (animated WebP, which knows no motion, 1.1 MB); H.264 would need ffmpeg for no less.
"""

import contextlib
import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from PIL import Image

from iq_offline.data.cache import cached
from iq_offline.data.catalog import locate
from iq_offline.data.stream import open_source
from iq_offline.data.views import parsed
from iq_offline.environments.make import evaluation_environment, make, with_time_limit
from iq_offline.environments.rollout import FaultError, acting, rollout
from iq_offline.errors import UserError
from iq_offline.learning.policy import Policy

SIZE = 320, 240
"""Pixels, at most."""
SECONDS = 10
FRAMES_PER_SECOND = 25
"""At most."""
LARGEST = 500_000
"""Bytes of a clip: a longer one is cut."""
END = 1500
"""Milliseconds that the last picture stays before the clip begins again."""
MUJOCO: dict[str, Any] = {"width": SIZE[0], "height": SIZE[1], "camera_name": "track"}
"""This camera goes along with the robot where there is one; Gymnasium 1.4 lets it walk out of the picture."""
SHADOWS = 512
"""Size of MuJoCo's shadow map in place of 4096: without a graphics card pictures take a third of the time."""


class CannotDrawError(UserError):
    """The environment gives no pictures here."""


class Filmed(gymnasium.Wrapper):
    """An environment that keeps pictures of the first seconds of its episode.

    Args:
        environment: with the render mode ``rgb_array``.
        on_step: called with the share of the episode's longest length that is done.
    """

    def __init__(self, environment: gymnasium.Env, on_step: Callable[[float], None] = lambda share: None) -> None:
        super().__init__(environment)
        rate = float(self.metadata.get("render_fps") or 30)
        self.every = max(1, round(rate / FRAMES_PER_SECOND))
        self.milliseconds = 1000 * self.every / rate
        self.most = int(SECONDS * 1000 / self.milliseconds)
        self.pictures: list[Image.Image] = []
        self.steps = 0
        self.on_step = on_step
        longest = environment.spec.max_episode_steps if environment.spec else None
        self.longest = longest or self.most * self.every

    def reset(self, **options: Any) -> Any:
        """Begin the episode."""
        first = super().reset(**options)
        self._look()
        return first

    def step(self, action: Any) -> Any:
        """One step, and a picture now and then and of the end."""
        after = super().step(action)
        self.steps += 1
        if self.steps % self.every == 0 or after[2] or after[3]:
            self._look()
        self.on_step(min(1.0, self.steps / self.longest))
        return after

    @property
    def seconds(self) -> float:
        """How long the episode is."""
        return self.steps * self.milliseconds / self.every / 1000

    def _look(self) -> None:
        if len(self.pictures) < self.most:
            pixels = self.env.render()
            if not isinstance(pixels, np.ndarray):
                raise CannotDrawError("the environment gives no pictures")
            seen = Image.fromarray(pixels)
            seen.thumbnail(SIZE, Image.Resampling.LANCZOS)
            self.pictures.append(seen)


def drawable(environment: str | EnvSpec) -> gymnasium.Env:
    """An instance that gives pictures, small ones where it can be asked for them.

    Raises:
        CannotDrawError: it cannot be built so.
    """
    for wishes in (MUJOCO, {}):
        try:
            (built,) = make(environment, 1, render_mode="rgb_array", **wishes)
            break
        except UserError as error:  # It may take none of the wishes.
            problem = str(error)
    else:
        raise CannotDrawError(problem)
    quality = getattr(getattr(getattr(built.unwrapped, "model", None), "vis", None), "quality", None)
    if quality is not None:
        quality.shadowsize = SHADOWS
    return built


def film(policy: Policy, environment: gymnasium.Env, seed: int, on_step: Callable[[float], None]) -> dict[str, Any]:
    """One whole episode with the mean action: its pictures, their rate, its return and length."""
    filmed = Filmed(environment, on_step)
    with contextlib.closing(filmed):
        (episode,) = rollout([filmed], acting(policy), [seed])
    return {
        "pictures": filmed.pictures,
        "milliseconds": filmed.milliseconds,
        "return": episode.total_return,
        "seconds": filmed.seconds,
    }


def encoded(pictures: Sequence[Image.Image], milliseconds: float) -> tuple[bytes, float]:
    """An animated AVIF, and how many seconds it lasts; its end is cut off where it would be too large."""
    shown = list(pictures)
    while True:
        durations = [round(milliseconds)] * (len(shown) - 1) + [END]
        file = BytesIO()
        shown[0].save(
            file, "AVIF", save_all=True, append_images=shown[1:], duration=durations, quality=45, speed=8, max_threads=1
        )
        if file.tell() <= LARGEST or len(shown) == 1:
            return file.getvalue(), len(shown) * milliseconds / 1000
        shown = shown[: max(1, int(0.95 * len(shown) * LARGEST / file.tell()))]


def still(pictures: Sequence[Image.Image]) -> bytes:
    """The picture in the middle, as WebP: for paper, and for who wants nothing to move."""
    file = BytesIO()
    pictures[len(pictures) // 2].save(file, "WEBP", quality=75)
    return file.getvalue()


def make_clip(order: dict[str, Any], path: Path, on_step: Callable[[float], None]) -> dict[str, Any]:
    """Film one policy into ``PATH.avif``, and one picture of it into ``PATH.webp``.

    Args:
        order: ``policy`` (a file), ``dataset`` (its environment is used) and ``seed``.
        path: of the two files, without their endings.
        on_step: as of :func:`film`.

    Raises:
        UserError: the policy or the environment is not to be had.
    """
    name, _ = parsed(order["dataset"])
    folder = locate(name)
    if folder is None:
        raise UserError(f"the dataset {name}, which names the environment, is not on this machine")
    policy = Policy.load(Path(order["policy"]))
    source = open_source(folder)
    environment = drawable(with_time_limit(evaluation_environment(source), lambda: cached(source).longest()))
    found = film(policy, environment, order["seed"], on_step)
    content, shown = encoded(found["pictures"], found["milliseconds"])
    path.with_suffix(".avif").write_bytes(content)
    path.with_suffix(".webp").write_bytes(still(found["pictures"]))
    return {"return": found["return"], "seconds": found["seconds"], "shown": min(shown, found["seconds"])}


def do_order(order: dict[str, Any], path: Path, say: Callable[..., None]) -> None:
    """Film one policy, and say how it goes: ``share`` now and then, at the end ``done``, ``refused`` or ``failed``.

    What is refused would be refused again; what failed may do with another OpenGL.
    """
    say(share=0.0)
    try:
        say(done=make_clip(order, path, lambda share: say(share=share)))
    except (CannotDrawError, FaultError) as error:
        say(failed=" ".join(str(error).split()))
    except UserError as error:
        say(refused=" ".join(str(error).split()))
    except Exception as error:  # Whatever a driver raises.
        say(failed=" ".join(f"{type(error).__name__}: {error}".split()))


def main() -> None:
    """Do the job that standard input holds."""
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # Environments and drivers greet: not into our lines.
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    job = json.load(sys.stdin)
    for index, order in enumerate(job["clips"]):
        about = {"clip": index}
        do_order(order, Path(job["folder"]) / str(index), lambda **words: print(json.dumps(about | words), file=lines))  # noqa: B023


if __name__ == "__main__":
    main()
