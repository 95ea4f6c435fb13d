"""For every test: shapes enforced, one thread, Ctrl-C heard, and folders of its own for datasets and caches.

Where a folder in memory has room, temporary folders are there: waiting for a disk is a fifth of what tests take on a
slow one. ``PYTEST_DEBUG_TEMPROOT=/tmp make test`` has them on a disk.
"""

import os
import shutil
import signal
from pathlib import Path

import jaxtyping
import pytest
from beartype import BeartypeConf, beartype
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensordict import TensorDict

IN_MEMORY = Path("/dev/shm")
ROOM = 4_000_000_000
"""Bytes. The whole suite leaves a tenth of that at a time."""
ENFORCED_UPDATES = 20

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
"""Enforces annotations; an int will do for a float."""

jaxtyping.install_import_hook("iq_offline", f"{__name__}.checked")  # Before anything of the package is imported.

import torch  # noqa: E402

torch.set_num_threads(1)
if IN_MEMORY.is_dir() and shutil.disk_usage(IN_MEMORY).free > ROOM:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(IN_MEMORY))
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # So a shell starts its background jobs; tests press Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@settings(max_examples=3, deadline=None, database=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.integers(), min_size=300, max_size=300))
def draw_much(numbers: list[int]) -> None:
    """One draw in twenty is of a constant that stands in our modules: Hypothesis reads them when it first needs one."""


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Those are read before a test of drawn values: within it they would count as slow draws, in a fresh checkout."""
    if item.get_closest_marker("hypothesis"):
        draw_much()


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Minari's root and the cache of tensors, under the test's temporary folder."""
    for variable, name in (("MINARI_DATASETS_PATH", "minari"), ("IQ_OFFLINE_CACHE", "cache")):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.setenv(variable, str(folder))


@pytest.fixture(autouse=True)
def shapes_of_first_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a test's first updates shapes are taken for what they were: to look at them takes as long as the update."""
    from iq_offline.learning.learner import Learner  # Not before this module is there, which the hook imports.

    updates, update = 0, Learner.update

    def counting(self: Learner, batch: TensorDict, noise: TensorDict) -> dict[str, torch.Tensor]:
        nonlocal updates
        updates += 1
        if updates > ENFORCED_UPDATES:
            monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        return update(self, batch, noise)

    monkeypatch.setattr(Learner, "update", counting)
