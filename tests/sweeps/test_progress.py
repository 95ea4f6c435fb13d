"""What a sweep shows: read from its folders, drawn or printed."""

import io
import json
import os
import re
import time
from pathlib import Path

import pytest
from rich.console import Console
from rich.live import Live

from iq_offline.evaluation.rows import EPISODES, SUMMARY
from iq_offline.sweeps import progress
from iq_offline.sweeps.progress import Bars, Watch, display, in_words
from iq_offline.sweeps.work import finished, log_file, run_folder


def row(folder: Path, name: str, steps: int, rest: str = "") -> None:
    file = run_folder(folder, name) / "metrics.ndjson"
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "a") as metrics:
        metrics.write(json.dumps({"gradient_steps": steps, "time/steps_per_second": 7.5}) + "\n" + rest)
    os.utime(file, ns=(steps * 10**9, steps * 10**9))


def test_progress_is_read_from_the_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    row(tmp_path, "old", 40)
    row(tmp_path, "cut", 80)
    watch = Watch(tmp_path, dict.fromkeys(("new", "old", "cut", "never"), 100))
    assert watch.headline() == "0 of 4 runs done"
    assert watch.share() == pytest.approx(0.3)
    assert watch.seconds_left() is None
    row(tmp_path, "new", 30, '{"gradient_steps": 3')  # The last line is not whole.
    assert watch.look(hurry=True)
    assert not watch.look(), "not again at once"
    assert {name: (one.steps, one.steps_per_second) for name, one in watch.running().items()} == {"new": (30, 7.5)}
    began = watch.started
    assert began is not None
    monkeypatch.setattr(progress.time, "monotonic", lambda: began + 10)
    assert watch.seconds_left() == pytest.approx((400 - 150) * 10 / 30)
    assert watch.headline() == "0 of 4 runs done, 1 running, about 1 min left"

    (run_folder(tmp_path, "cut") / "metrics.ndjson").unlink()
    row(tmp_path, "cut", 60)  # It went back to its checkpoint,
    row(tmp_path, "cut", 70)  # and on.
    watch.look(hurry=True)
    assert watch.sights["cut"].steps == 70
    assert watch.seconds_left() == pytest.approx((400 - 140) * 10 / 30), "steps done twice are no progress"

    for file in (SUMMARY, EPISODES):
        (run_folder(tmp_path, "new") / file).write_text("{}")
    watch.look(hurry=True)
    watch.fail("never")
    assert watch.seconds_left() == pytest.approx((60 + 30) * 10 / 100)
    assert watch.headline() == "1 of 4 runs done, 1 failed, 1 running, about 9 s left"


def test_a_run_that_begins_is_seen_before_its_first_row(tmp_path: Path):
    watch = Watch(tmp_path, {"one": 100})
    log_file(tmp_path, "one").parent.mkdir()
    log_file(tmp_path, "one").write_text("--- ")
    watch.look(hurry=True)
    assert list(watch.running()) == ["one"]
    assert not finished(tmp_path, "one")


@pytest.mark.parametrize(("seconds", "words"), [(4.4, "4 s"), (29, "29 s"), (100, "2 min"), (7900, "2 h 12 min")])
def test_times_in_words(seconds: float, words: str):
    assert in_words(seconds) == words


def test_on_a_terminal_there_is_a_bar_and_a_row_for_every_running_run(tmp_path: Path):
    row(tmp_path, "done", 100)
    for file in (SUMMARY, EPISODES):
        (run_folder(tmp_path, "done") / file).write_text("{}")
    watch = Watch(tmp_path, dict.fromkeys(("done", "one", "two", "never"), 100))
    row(tmp_path, "one", 40)
    row(tmp_path, "two", 100)
    written = io.StringIO()
    screen = Console(file=written, force_terminal=True, width=100, color_system=None)
    with Live(console=screen, auto_refresh=False) as live:
        shown = Bars(watch, live)
        shown.say("[one] happened")
    lines = [line.rstrip() for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.getvalue()).splitlines()]
    assert "[one] happened" in lines
    whole, one, two = lines[-3:]
    assert re.fullmatch(r"━+ +1 of 4 runs done, 2 running, about \d+ s left", whole.replace("╸", "━").replace("╺", "━"))
    assert re.fullmatch(r"one +\S+ +40/100 +8/s", one)
    assert re.fullmatch(r"two +\S+ +100/100 +evaluating", two)


def test_without_a_terminal_there_is_a_line_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    row(tmp_path, "one", 40)
    with display(Watch(tmp_path, {"one": 100})) as shown:
        shown.refresh()
        assert capsys.readouterr().err == ""
        shown.say("one: failed")
        later = time.monotonic() + 31
        monkeypatch.setattr(progress.time, "monotonic", lambda: later)
        shown.refresh()
        shown.refresh()
    assert capsys.readouterr() == ("", "one: failed\nsweep: 0 of 1 runs done\n")
