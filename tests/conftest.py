"""For every test: shapes enforced, one thread, and folders of its own for datasets and caches."""

from pathlib import Path

import jaxtyping
import pytest
from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
"""Enforces annotations; an int will do for a float."""

jaxtyping.install_import_hook("iq_offline", f"{__name__}.checked")  # Before anything of the package is imported.

import torch  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Minari's root and the cache of tensors, under the test's temporary folder."""
    for variable, name in (("MINARI_DATASETS_PATH", "minari"), ("IQ_OFFLINE_CACHE", "cache")):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.setenv(variable, str(folder))
