"""What a result was made with: package versions and the commit of the code."""

import platform
import subprocess
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from iq_offline.files import PACKAGE

PACKAGES = ("iq-offline", "torch", "tensordict", "numpy", "gymnasium", "mujoco", "minari", "h5py", "safetensors")


@cache
def made_with() -> tuple[str | None, dict[str, str]]:
    """Commit and package versions of this process: as they were when it first asked, for what it runs is imported.

    Whatever is committed or installed while it trains is not what trains.
    """
    return git_commit(), package_versions()


def commits_in_words(commits: Sequence[str | None]) -> str | None:
    """``A``, or ``A, then B`` where a run went on with other code; None where no commit is known."""
    return ", then ".join(commit or "unknown" for commit in commits) if any(commits) else None


def package_versions() -> dict[str, str]:
    """Python's version and those of the packages a result depends on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def git_commit() -> str | None:
    """The commit of the checkout this package runs from, with ``+changes`` where files differ; None outside one."""
    root = PACKAGE.parent
    if not (root / ".git").exists():
        return None
    try:
        commit = _git("rev-parse", "HEAD")
        return commit + ("+changes" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):  # No git, a damaged checkout, or a disk that takes too long.
        return None


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(PACKAGE.parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
