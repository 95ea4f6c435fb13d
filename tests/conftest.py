"""For every test: shapes enforced, one thread, Ctrl-C heard, and folders of its own for datasets and caches."""

import signal
from pathlib import Path

import jaxtyping
import pytest
from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
"""Enforces annotations; an int will do for a float."""

jaxtyping.install_import_hook("iq_offline", f"{__name__}.checked")  # Before anything of the package is imported.

import torch  # noqa: E402

torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # So a shell starts its background jobs; tests press Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Minari's root and the cache of tensors, under the test's temporary folder."""
    for variable, name in (("MINARI_DATASETS_PATH", "minari"), ("IQ_OFFLINE_CACHE", "cache")):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.setenv(variable, str(folder))
