"""Videos of policies: what is filmed, that a failing OpenGL is survived, and a real one of CartPole."""

import stat
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from PIL import Image

from iq_offline.learning.networks import mlp
from iq_offline.learning.policy import Policy
from iq_offline.sweeps import film, video
from iq_offline.sweeps.exhibits import clips_of
from iq_offline.sweeps.findings import findings_in
from iq_offline.sweeps.video import Order, chosen_runs, make_clips
from tests.environments.worlds import endless_dataset
from tests.helpers import point_mass_episodes, write_dataset
from tests.sweeps.frames import make_runs
from tests.sweeps.html_check import Page
from tests.sweeps.run_folders import config_of, write_run

CELL = ["algorithm", "data.expert", "data.num_expert_trajectories"]


class Toy(gymnasium.Env):
    """Ten pictures a second for ``length`` steps; the picture shows the step."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = Box(-1, 1, (2,))
    action_space = Box(-1, 1, (1,))
    render_mode = "rgb_array"

    def __init__(self, length: int) -> None:
        self.length = length

    def reset(self, **options: Any) -> tuple[np.ndarray, dict]:
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps += 1
        return np.zeros(2, np.float32), 1.0, self.steps == self.length, False, {}

    def render(self) -> Any:
        return np.full((480, 480, 3), self.steps, np.uint8)


def toy_policy() -> Policy:
    return Policy(mlp(2, 2), Toy.observation_space, Toy.action_space)


@pytest.mark.parametrize(("length", "pictures"), [(1, 2), (30, 31), (500, 100)])
def test_the_first_seconds_of_a_whole_episode_are_filmed(length: int, pictures: int) -> None:
    shares: list[float] = []
    found = film.film(toy_policy(), Toy(length), 0, shares.append)
    assert len(found["pictures"]) == pictures
    assert found["return"] == length
    assert found["seconds"] == pytest.approx(length / 10)
    assert found["pictures"][0].size == (240, 240)
    assert found["pictures"][1].getpixel((0, 0)) == (1, 1, 1)
    assert shares == sorted(shares)


def test_an_environment_without_a_time_limit_is_filmed_for_a_recorded_episode_s_length(
    own_folders: None, tmp_path: Path
) -> None:
    endless_dataset("test/swing-v0")
    policy = Policy(mlp(3, 1), Box(-np.inf, np.inf, (3,)), Box(-2, 2, (1,)))
    policy.save(tmp_path / "policy.safetensors")
    order = {"policy": str(tmp_path / "policy.safetensors"), "dataset": "test/swing-v0", "seed": 0}
    found = film.make_clip(order, tmp_path / "clip", lambda share: None)
    assert found["seconds"] == pytest.approx(1.0), "30 steps at 30 pictures a second"
    assert (tmp_path / "clip.avif").stat().st_size > 0


def test_fast_environments_are_not_filmed_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(Toy.metadata, "render_fps", 125)
    found = film.film(toy_policy(), Toy(12), 0, lambda share: None)
    assert [picture.getpixel((0, 0))[0] for picture in found["pictures"]] == [0, 5, 10, 12]
    assert found["milliseconds"] == 40


def noise(count: int) -> list[Image.Image]:
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 255, (60, 80, 3), np.uint8)) for _ in range(count)]


def test_clips_are_moving_pictures_that_end_with_a_pause() -> None:
    content, seconds = film.encoded(noise(10), 40.0)
    clip: Any = Image.open(BytesIO(content))
    assert (clip.format, clip.n_frames, clip.size) == ("AVIF", 10, (80, 60))
    assert seconds == pytest.approx(0.4)
    assert Image.open(BytesIO(film.still(noise(3)))).format == "WEBP"


def test_clips_that_are_too_large_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = film.encoded(noise(20), 40.0)
    monkeypatch.setattr(film, "LARGEST", len(whole) // 2)
    content, seconds = film.encoded(noise(20), 40.0)
    assert len(content) <= len(whole) // 2
    assert 0.1 < seconds < 0.5


def test_environments_without_pictures_are_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Toy, "render", lambda self: None)
    with pytest.raises(film.CannotDrawError, match="no pictures"):
        film.film(toy_policy(), Toy(3), 0, lambda share: None)
    with pytest.raises(film.CannotDrawError, match="cannot build the environment NoSuchThing-v0"):
        film.drawable("NoSuchThing-v0")


def test_the_lowest_seed_of_each_cell_is_shown_whatever_its_return() -> None:
    runs = make_runs(seeds=3, counts=(1, 3), score=lambda row: float(row["seed"]))
    chosen = chosen_runs(runs.filter((runs["seed"] > 0) | (runs["algorithm"] == "bc")), CELL)
    assert chosen.select("algorithm", "seed").rows() == [("bc", 0), ("bc", 0), ("iq_learn", 1), ("iq_learn", 1)]


def test_with_many_cells_fewer_numbers_of_trajectories_are_shown() -> None:
    counts = (1, 2, 3, 5, 7, 10, 15, 20, 25, 50)
    chosen = chosen_runs(make_runs(seeds=2, counts=counts), CELL)
    assert chosen.height == 16
    assert chosen["data.num_expert_trajectories"].min() == 1
    assert chosen["data.num_expert_trajectories"].max() == 50
    assert chosen.group_by("algorithm").len()["len"].to_list() == [8, 8]
    experts = [f"robot{index}/expert" for index in range(20)]
    many = chosen_runs(make_runs(("bc",), seeds=1, counts=(1, 3), experts=experts), CELL)
    assert many.height == 16
    assert set(many["data.num_expert_trajectories"]) == {3}


def child(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    """A program in place of the one that draws."""
    file = folder / "child"
    file.write_text(script)
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(video.sys, "executable", str(file))


ORDERS = [Order(Path("policy"), "a/b-v0", 0)] * 3


@pytest.fixture
def no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user has not said what MuJoCo draws with, and there is no screen."""
    for name in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(video.platform, "system", lambda: "Linux")


@pytest.mark.usefixtures("no_choice")
def test_what_mujoco_draws_with_is_tried_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    assert video.backends() == ("egl", "osmesa")
    monkeypatch.setenv("DISPLAY", ":0")
    assert video.backends() == ("egl", "osmesa", "glfw")
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    assert video.backends() == (None,)


@pytest.mark.usefixtures("no_choice")
def test_a_child_that_dies_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child(monkeypatch, tmp_path, '#!/bin/sh\necho "noise" >&2\necho "$MUJOCO_GL aborted" >&2\nexit 134\n')
    films = make_clips(ORDERS)
    assert films.clips == films.refused == {}
    assert films.failed == dict.fromkeys(range(3), "egl aborted")
    child(monkeypatch, tmp_path, "#!/bin/sh\nexit 3\n")
    assert make_clips(ORDERS).failed[0] == "drawing ended with the exit code 3"


@pytest.mark.usefixtures("no_choice")
def test_a_child_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child(monkeypatch, tmp_path, "#!/bin/sh\nexec sleep 60\n")
    assert make_clips(ORDERS, silence=0.2).failed[2] == "drawing did not go on for 0 s"


CLEVER = f"""#!{sys.executable}
import json, os, sys
job = json.load(sys.stdin)
assert len(job["clips"]) == (3 if os.environ["MUJOCO_GL"] == "egl" else 2)
print(json.dumps({{"clip": 0, "share": 0.5}}))
print(json.dumps({{"clip": 0, "refused": "no"}} if len(job["clips"]) == 3 else {{"clip": 0, "failed": "again"}}))
if os.environ["MUJOCO_GL"] == "egl":
    print(json.dumps({{"clip": 1, "failed": "first"}}), flush=True)
    os.abort()
for ending in ("avif", "webp"):
    open(os.path.join(job["folder"], "1." + ending), "w").write(ending)
print(json.dumps({{"clip": 1, "done": {{"return": 5.0, "seconds": 2.0, "shown": 1.0}}}}))
"""


@pytest.mark.usefixtures("no_choice")
def test_what_one_opengl_cannot_another_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child(monkeypatch, tmp_path, CLEVER)
    seen: list[int] = []
    films = make_clips(ORDERS, lambda done, total: seen.append(done))
    assert films.refused == {0: "no"}
    assert films.failed == {1: "first"}
    assert films.clips == {2: video.Clip(b"avif", b"webp", 5.0, 2.0, 1.0)}
    assert seen[-1] == 100


def cartpole_policy(path: Path) -> None:
    """Pushes towards where the pole falls."""
    network = mlp(4, 2)
    space = gymnasium.spec("CartPole-v1").make().observation_space
    with torch.no_grad():
        weights = torch.tensor([[0.0, 0.0, -1.0, -1.0], [0.0, 0.0, 1.0, 1.0]])
        torch.nn.init.zeros_(network[0].bias)  # type: ignore[arg-type]
        network[0].weight.copy_(weights)  # type: ignore[operator]
    Policy(network, space, Discrete(2)).save(path)


@pytest.mark.slow
def test_a_real_cartpole_is_filmed_and_a_broken_opengl_is_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    episodes = point_mass_episodes(2, 5, seed=0)
    write_dataset("test/cartpole-v0", episodes, env_spec_id="CartPole-v1")
    write_dataset("test/hopper-v0", episodes, env_spec_id="Hopper-v5")
    for name in ("cartpole", "hopper"):
        folder = write_run(tmp_path / "runs" / name, config_of(data__expert=f"test/{name}-v0"))
        cartpole_policy(folder / "policy.safetensors")
    write_run(tmp_path / "runs" / "gone", config_of(data__expert="test/gone-v0"))
    page = Page("<main>" + clips_of(findings_in(tmp_path / "runs")) + "</main>")
    assert page.wrong == []
    (image,) = [found for name, found in page.tags if name == "img"]
    (moving,) = [found for name, found in page.tags if name == "source"]
    assert (image["src"] or "").startswith("data:image/webp;base64,")
    assert (moving["srcset"] or "").startswith("data:image/avif;base64,")
    assert moving["type"] == "image/avif"
    assert "prefers-reduced-motion" in (moving["media"] or "")
    assert image["alt"] == "Video of the policy of BC, test/cartpole-v0, 1 trajectory, seed 0"
    assert "BC, test/cartpole-v0, 1 trajectory, seed 0 : return " in page.text
    assert "No video of BC, test/hopper-v0, 1 trajectory, seed 0, because it could not be drawn" in page.text
    assert "invalid value for environment variable MUJOCO_GL: nonsense. MuJoCo draws with OpenGL" in page.text
    assert "No video of BC, test/gone-v0, 1 trajectory, seed 0: the dataset test/gone-v0" in page.text
