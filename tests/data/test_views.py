"""Views under a name: what stands in the brackets, and what is trained on."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import minari
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iq_offline.cli import main
from iq_offline.config import DataConfig, RunConfig, Suboptimal, TrainingConfig
from iq_offline.data.d4rl import qlearning_dataset
from iq_offline.data.views import name_of, parsed, short
from iq_offline.errors import UserError
from iq_offline.experiment import Options, obtain, run
from iq_offline.files import as_file_name
from tests.data_helpers import counting_episodes
from tests.helpers import write_dataset


def view_with(ids: list[int], total: int) -> Any:
    """As much of a Minari view as its name needs."""
    storage, spec = SimpleNamespace(total_episodes=total), SimpleNamespace(dataset_id="test/viewed-v0")
    return SimpleNamespace(episode_indices=np.array(ids), storage=storage, spec=spec)


@settings(deadline=None)
@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=60, unique=True))
def test_a_name_gives_back_the_episodes_in_their_order(ids: list[int]) -> None:
    name = name_of(view_with(ids, 10**6 + 1))
    assert parsed(name) == ("test/viewed-v0", tuple(ids))
    assert len(as_file_name(short(name))) < 80


def test_ranges_and_single_episodes() -> None:
    assert name_of(view_with([0, 1, 2, 3, 7, 9, 8], 20)) == "test/viewed-v0[0-3,7,9,8]"
    assert name_of(view_with([0, 1, 2], 3)) == "test/viewed-v0", "all of them are the dataset"
    assert name_of(view_with([2, 0, 1], 3)) == "test/viewed-v0[2,0-1]"
    assert parsed("hopper/expert") == ("hopper/expert", None)
    assert parsed("hopper/expert[ 3, 5 - 7 ]") == ("hopper/expert", (3, 5, 6, 7))


@settings(deadline=None)
@given(st.lists(st.integers(0, 10**4), min_size=20, max_size=40, unique=True))
def test_short_names_keep_long_views_apart(ids: list[int]) -> None:
    long, other = (f"a/b-v0[{','.join(map(str, some))}]" for some in (ids, [*ids[:-1], 10**4 + 1]))
    assert short(long) != short(other)
    assert len(short(long)) < 60
    assert short(short(long)) == short(long)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hopper/expert[]", "hopper/expert[]: '' is neither the id of an episode nor a range of ids"),
        ("hopper/expert[3-1]", "hopper/expert[3-1]: '3-1' is neither the id"),
        ("hopper/expert[-1]", "hopper/expert[-1]: '-1' is neither the id"),
        ("hopper/expert[1,two]", "hopper/expert[1,two]: 'two' is neither the id"),
        ("hopper/expert[0-99999999999]", "hopper/expert[0-99999999999]: '0-99999999999' is neither"),
        ("hopper/expert[1,0-3]", "hopper/expert[1,0-3] names episode 1 twice"),
    ],
)
def test_what_is_no_view(name: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        parsed(name)


def test_episodes_that_are_not_there() -> None:
    write_dataset("test/viewed-v0", counting_episodes([2, 3, 4]))
    with pytest.raises(UserError, match=r"test/viewed-v0 holds the episodes 0 to 2: there is no 5$"):
        obtain("test/viewed-v0[0-1,5,7]")


def test_a_run_learns_from_a_view_and_says_which(tmp_path: Path) -> None:
    """The labelled, held-out and suboptimal episodes are the views' own, by their ids in the storage."""
    write_dataset("test/viewed-v0", counting_episodes([2, 3, 4, 5, 6, 7, 8, 9]))
    dataset = minari.load_dataset("test/viewed-v0")
    best, rest = (
        name_of(dataset.filter_episodes(lambda episode, good=good: (episode.id >= 5) == good)) for good in (True, False)
    )
    assert (best, rest) == ("test/viewed-v0[5-7]", "test/viewed-v0[0-4]")
    data = DataConfig(best, 2, 1, (Suboptimal(rest),), held_out_trajectories=1)
    training = TrainingConfig(gradient_steps=3, hidden_sizes=(4,), batch_size=4)
    config = RunConfig(algorithm="bc", data=data, training=training)
    run(config, tmp_path / "run", Options(say=lambda text: None))
    manifest = json.loads((tmp_path / "run" / "data.json").read_text())
    stored = {part["kind"]: set(part["first_trajectories"]) for part in manifest}
    assert stored["expert"] | stored["held_out"] == {5, 6, 7}
    assert len(stored["expert"]) == 2
    assert stored["suboptimal"] == {0, 1, 2, 3, 4}


def test_a_view_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Quoted as every shell wants it; the folder's name has no brackets."""
    monkeypatch.chdir(tmp_path)
    write_dataset("test/viewed-v0", counting_episodes([4, 5, 6, 7]))
    options = ["--gradient-steps", "2", "--hidden-sizes", "4", "--batch-size", "4", "--algorithms", "bc"]
    parts = ["--expert", "test/viewed-v0[2-3]", "--suboptimal", "test/viewed-v0[0,1]:1"]
    assert main(["train", "hopper_offline", *parts, *options]) == 0
    (folder,) = (tmp_path / "runs" / "hopper_offline").iterdir()
    assert folder.name == "test-viewed-v0-2-3-n1-k1-seed0-test-viewed-v0-0-11"
    capsys.readouterr()
    assert main(["datasets", "check", "test/viewed-v0[1-2]"]) == 0
    assert "test/viewed-v0: 2 episodes, 11 steps" in capsys.readouterr().out
    assert main(["train", "hopper_offline", "--expert", "test/viewed-v0[9]", *options]) == 2
    assert capsys.readouterr().err == "error: test/viewed-v0 holds the episodes 0 to 3: there is no 9\n"


def test_code_written_for_d4rl_reads_views_too() -> None:
    write_dataset("test/viewed-v0", counting_episodes([2, 3, 4]))
    arrays = cast(dict[str, np.ndarray], qlearning_dataset("test/viewed-v0[2,0]"))
    assert arrays["observations"][:, 0].tolist() == [2, 2, 2, 2, 0], (
        "one terminated, of one the truncated step left out"
    )


def test_a_duplicate_far_out_is_found_at_once() -> None:
    with pytest.raises(UserError, match="names episode 2000000 twice"):
        parsed("a/b-v0[0-2000000,2000000]")
