"""Checkpoints: one safetensors file of tensors with JSON in its header, replaced as a whole. No pickle."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from iq_offline.errors import UserError
from iq_offline.files import disk_errors, sync, write_atomically

FORMAT = "iq_offline.checkpoint/3"
HEADER = "iq_offline"
"""The key of the safetensors header that holds our JSON."""


def save(path: Path, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
    """Replace the checkpoint by this state; until the last moment the old one stays.

    Args:
        path: of the file.
        tensors: by name.
        values: anything JSON holds.

    Raises:
        UserError: no space, or no permission; the old checkpoint is still there.
    """
    own = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    about = {"format": FORMAT, "values": values, "sha256": _digest(own, values)}
    with disk_errors("writing a checkpoint", path.parent):  # One key: safetensors writes several in random order.
        write_atomically(path, safetensors.torch.save(own, {HEADER: json.dumps(about)}))


def save_all(states: Mapping[Path, tuple[dict[str, Tensor], dict[str, Any]]]) -> None:
    """Replace several checkpoints at once: whatever ends this, :func:`settle` makes it as if all or none had been.

    Args:
        states: for each path what :func:`save` takes; all of one ``step``.

    Raises:
        UserError: no space, or no permission; the old checkpoints are still there.
    """
    try:
        for path, state in states.items():
            save(_pending(path), *state)
    except BaseException:
        for path in states:
            _pending(path).unlink(missing_ok=True)
        raise
    for path in states:
        os.replace(_pending(path), path)
        sync(path.parent)


def settle(paths: Sequence[Path]) -> None:
    """End what is left of a :func:`save_all`: kept if all had been written, dropped if one is missing.

    They had been, if one was renamed already: then another path has that step. Others may be older, of runs that had
    ended before.

    Raises:
        UserError: a file is damaged.
    """
    pending = [path for path in paths if _pending(path).exists()]
    if not pending:
        return
    waiting = {path: load(_pending(path))[1]["step"] for path in pending}
    renamed = {load(path)[1]["step"] if path.exists() else 0 for path in paths if path not in pending}
    whole = len(pending) == len(paths) and len({*waiting.values()}) == 1
    for path in pending:
        if whole or waiting[path] in renamed:
            os.replace(_pending(path), path)
        else:
            _pending(path).unlink()


def _pending(path: Path) -> Path:
    return path.with_suffix(".pending")


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the values that :func:`save` wrote.

    Raises:
        UserError: the file is damaged or of another version.
    """
    advice = "delete it to begin again"
    try:
        with safetensors.safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {}).get(HEADER, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise UserError(f"cannot read the checkpoint {path} ({error}): {advice}") from error
    if header.get("format") != FORMAT:
        raise UserError(f"{path} is a checkpoint of another version ({header.get('format')}): {advice}")
    if header.get("sha256") != _digest(tensors, header.get("values")):
        raise UserError(f"the checkpoint {path} is damaged, its checksum does not fit: {advice}")
    return tensors, header["values"]


def _digest(tensors: dict[str, Tensor], values: Any) -> str:
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        digest.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()
