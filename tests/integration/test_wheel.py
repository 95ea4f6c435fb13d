"""The wheel as users install it: what is in it, and that it works without the checkout."""

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.data_helpers import CHECKOUT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel, built from the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, "-w", str(folder), str(CHECKOUT)], check=True)
    (file,) = folder.glob("*.whl")
    return file


def test_what_is_in_the_wheel(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    version = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["version"]
    assert {name.split("/")[0] for name in names} == {"iq_offline", f"iq_offline-{version}.dist-info"}
    for folder in ("datasets", "recipes"):
        files = [file for file in (CHECKOUT / folder).rglob("*") if file.is_file()]
        here = {file.relative_to(CHECKOUT / folder).as_posix() for file in files}
        start = f"iq_offline/_{folder}/"
        assert {name.removeprefix(start) for name in names if name.startswith(start)} == here
        assert here
    assert "iq_offline/_datasets/hopper.toml" in names
    assert "iq_offline/_recipes/hopper_offline.toml" in names
    assert [name for name in names if name.startswith("iq_offline/_datasets/policies/")]
    modules = {file.relative_to(CHECKOUT).as_posix() for file in (CHECKOUT / "iq_offline").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == modules
    assert not [name for name in names if name.endswith((".pyc", ".ndjson"))]


def test_the_installed_wheel_needs_no_checkout(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    options = ["--no-deps", "--quiet", "--disable-pip-version-check", "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(wheel)], check=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def run(*arguments: str) -> str:
        environment = os.environ | {"PYTHONPATH": str(target)}
        command = [sys.executable, *arguments]
        done = subprocess.run(command, check=False, cwd=elsewhere, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = run("-c", "import iq_offline.files as f; print(f.__file__, f.shipped('datasets'), f.shipped('recipes'))")
    assert where.split() == [str(target / "iq_offline" / name) for name in ("files.py", "_datasets", "_recipes")]
    printed = run("-m", "iq_offline", "train", "hopper_offline", "--help")
    assert "--gradient-steps" in printed
    assert "Recipe hopper_offline" in printed
    listed = run("-m", "iq_offline", "datasets", "list")
    assert "hopper/expert" in listed
    policy = "from iq_offline.data.catalog import load_card; from iq_offline.learning.policy import Policy"
    load = "Policy.load(shipped('datasets') / 'policies' / load_card('hopper').datasets['expert'].policy)"
    printed = run("-c", f"from iq_offline.files import shipped; {policy}; print({load}.action_space.shape)")
    assert printed.strip() == "(3,)"
