"""Where things live on disk, and writing them so that a reader never sees half a file."""

import errno
import fcntl
import glob
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from iq_offline.errors import UserError

PACKAGE = Path(__file__).parent

PART = ".part"
"""How the name of a file ends that is not written to its end yet."""

ONCE_MORE = "remove it, and give the command that made the run once more: what is trained stays"
"""What to do about a damaged file of a run."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def shipped(kind: str) -> Path:
    """The folder of shipped data, ``datasets`` or ``recipes``: inside the wheel, or else in the checkout."""
    installed = PACKAGE / f"_{kind}"
    return installed if installed.is_dir() else PACKAGE.parent / kind


def as_file_name(text: str) -> str:
    """With a dash in the place of everything that is not for names of files."""
    return re.sub("[^A-Za-z0-9._-]+", "-", text).rstrip("-")


def cache_folder() -> Path:
    """The user's cache of tensors: ``IQ_OFFLINE_CACHE``, else ``XDG_CACHE_HOME/iq_offline``, else ``~/.cache``."""
    override = os.environ.get("IQ_OFFLINE_CACHE")
    if override:
        return Path(override).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "iq_offline"


@contextmanager
def disk_errors(doing: str, where: Path, full: str = "") -> Iterator[None]:
    """Turn a full or forbidden disk into one line that names the folder; ``full`` ends that of a full one."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:  # h5py gives a full disk as one of the last two.
        if getattr(error, "errno", None) in FULL or "No space left" in str(error):
            message = f"no space left while {doing} in {where}: free some space or choose another folder{full}"
        elif getattr(error, "errno", None) in FORBIDDEN:
            message = f"not allowed to write while {doing} in {where}: choose another folder"
        elif getattr(error, "errno", None) == errno.ENAMETOOLONG:
            message = f"a name is too long for a file while {doing} in {where}: choose another folder"
        elif isinstance(error, (FileExistsError, NotADirectoryError)):
            message = f"{error.filename} is a file where a folder is needed, while {doing} in {where}"
        else:
            raise
        raise UserError(message) from error


def read_json(path: Path, lines: bool = False) -> Any:
    """What a JSON file of a run holds; with ``lines`` the list of what is on each of its lines.

    Raises:
        UserError: it is cut or damaged.
    """
    try:
        text = path.read_text()
        return [json.loads(line) for line in text.splitlines()] if lines else json.loads(text)
    except ValueError as error:  # Also where it is no text at all.
        raise UserError(f"{path} is cut or damaged ({error}): {ONCE_MORE}") from error


@contextmanager
def file_errors() -> Iterator[None]:
    """The same for a whole command, wherever a file may not be read or written: one line that names the file."""
    try:
        yield
    except OSError as error:
        file = error.filename
        if error.errno in FULL:
            message = f"no space left for {file or 'what is printed'}: free some space"
        elif error.errno in FORBIDDEN and file is not None:
            message = f"not allowed to use {file}: change its permissions, or give another"
        elif error.errno == errno.ENAMETOOLONG:
            message = f"a name is too long for a file: {str(file)[:200]}…: give a shorter one"
        else:
            raise
        raise UserError(message) from error


def sync(path: Path) -> None:
    """Ask the system to put a file or a folder on the disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: bytes | str) -> None:
    """Replace ``path`` by ``content``: whoever reads sees the old file or the new one, whole.

    What a killed writer of the same file left beside it goes.
    """
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    for abandoned in path.parent.glob(f".{glob.escape(path.name)}.????????{PART}"):
        with suppress(OSError), open(abandoned, "rb") as file:  # Locked by its writer while that lives.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            abandoned.unlink()
    name, descriptor = _locked_part(path)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync(path.parent)


def _locked_part(path: Path) -> tuple[str, int]:
    """A new file beside ``path``, and its descriptor, which holds its lock where the disk has locks."""
    while True:
        name = str(path.with_name(f".{path.name}.{secrets.token_hex(4)}{PART}"))
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)  # What the user's umask leaves of it.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.path.exists(name):  # Else another took it for abandoned before it had its lock.
            return name, descriptor
        os.close(descriptor)


LOCK = "lock"


@contextmanager
def resumable_folder(path: Path) -> Iterator[Path]:
    """Fill a temporary folder beside ``path`` and rename it to ``path`` at the end.

    What a killed or interrupted process left is given to the next one to go on with. Only one process at a time works
    on it: another gets a folder of its own, as everyone does where the disk has no locks. When another was faster, its
    folder stays and this one's is dropped: all end with a whole one.

    Raises:
        UserError: the folder was removed meanwhile.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, own = path.with_name(f".{path.name}.partial"), path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with ExitStack() as stack:
        lock = held(temporary)
        goes_on = lock is not None
        if lock is None:
            temporary, lock = own, held(own)
        if lock is not None:
            stack.enter_context(lock)
        try:
            yield temporary
            for file in sorted(temporary.rglob("*")):
                sync(file)
            sync(temporary)
            if lock is not None and not _is_of(lock, temporary):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(temporary))
            try:  # With the lock in it: who would find none could make another and start anew in here.
                os.rename(temporary, path)
                (path / LOCK).unlink(missing_ok=True)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
                remove_whole(temporary)
            sync(path.parent)
        except BaseException as error:
            if isinstance(error, FileNotFoundError) and lock is not None and not _is_of(lock, temporary):
                raise UserError(f"{temporary} was removed while it was being filled: try again") from error
            if not goes_on or isinstance(error, Exception):  # Else an interruption: that is gone on with.
                remove_whole(temporary)
            raise


def held(folder: Path) -> IO[bytes] | None:
    """The folder's lock, held while this is open; None where another has it, or the disk has no locks."""
    with ExitStack() as closed_if_not_held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = closed_if_not_held.enter_context(open(folder / LOCK, "ab"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in FULL or error.errno in FORBIDDEN:
                raise
            return None
        if not _is_of(lock, folder):
            return None
        closed_if_not_held.pop_all()
        return lock


def _is_of(lock: IO[bytes], folder: Path) -> bool:
    """Whether this is the lock that lies in the folder: another process may have finished or removed it."""
    try:
        return os.path.samestat(os.fstat(lock.fileno()), os.stat(folder / LOCK))
    except FileNotFoundError:
        return False


def remove_unused(folder: Path) -> None:
    """Remove a folder that :func:`resumable_folder` made, finished or left, unless a process works on it."""
    if not (folder / LOCK).exists():
        remove_whole(folder)
    elif lock := held(folder):
        with lock:
            remove_whole(folder)


def remove_whole(folder: Path) -> None:
    """Remove a folder that others may want to use: to them it is there, with its lock, or it is gone."""
    key = folder.name.strip(".").partition(".")[0]
    doomed = folder.with_name(f".{key}.{secrets.token_hex(4)}")
    with suppress(OSError):
        os.rename(folder, doomed)
    shutil.rmtree(doomed, ignore_errors=True)
