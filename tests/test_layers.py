"""The picture of the package as tests: who may import whom, what the data folders hold, how long files are."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.data_helpers import CHECKOUT, python

PACKAGE = CHECKOUT / "iq_offline"
MODULES = sorted(PACKAGE.rglob("*.py"))

ROOMS = (
    ("errors",),
    ("files",),
    ("signals",),
    ("provenance",),
    ("config",),
    ("data",),
    ("learning",),
    ("training",),
    ("environments",),
    ("evaluation",),
    ("run",),
    ("run_table",),
    ("scoring",),
    ("experiment",),
    ("sweeps",),
    ("sweep_cli",),
    ("dataset_commands", "dataset_listing"),
    ("inspect_command",),
    ("dataset_cli",),
    ("command",),
    ("cli",),
    ("recipes", "__main__"),
)
"""From the first to the last: a module imports only from its own room and from earlier ones."""

OFFLINE = ("data", "learning", "training")
"""What a training consists of: nothing here knows an environment."""


def name_of(file: Path) -> str:
    parts = file.relative_to(CHECKOUT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def room_of(module: str) -> str:
    """The first name below the package."""
    return module.split(".")[1]


def imports(file: Path) -> Iterator[tuple[str, bool]]:
    """Modules that a file imports anywhere, and whether at its head (outside functions and TYPE_CHECKING)."""
    tree = ast.parse(file.read_text())
    late = set()
    for node in ast.walk(tree):
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        if typing_only or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            late |= {id(child) for child in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) not in late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file.name} imports relatively"
            module = str(node.module)
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                path = CHECKOUT.joinpath(*inner.split("."))
                known = path.is_dir() or path.with_suffix(".py").is_file()
                yield (inner if module.startswith("iq_offline") and known else module), id(node) not in late


def ours(file: Path) -> list[str]:
    return [module for module, _ in imports(file) if module.startswith("iq_offline.")]


def test_there_is_something_to_look_at() -> None:
    assert len(MODULES) > 25
    assert "iq_offline.data.stream" in ours(PACKAGE / "data" / "cache.py")
    assert "iq_offline.data.catalog" in ours(PACKAGE / "dataset_commands.py"), "names in from-imports are not followed"
    assert "iq_offline.experiment" in ours(PACKAGE / "cli.py"), "late imports are not followed"


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_rooms_import_from_earlier_rooms_alone(file: Path) -> None:
    if file.parent == PACKAGE and file.name == "__init__.py":
        assert ours(file) == []
        return
    order = {name: index for index, names in enumerate(ROOMS) for name in names}
    room = room_of(name_of(file))
    assert room in order, f"{room} is a new room: draw it into the picture first"
    for module in ours(file):
        other = room_of(module)
        assert other == room or order[other] < order[room], f"{name_of(file)} imports {module}"


@pytest.mark.parametrize("room", OFFLINE)
def test_training_knows_no_environment(room: str) -> None:
    """Not even indirectly, nor through Gymnasium's registry."""
    reached, waiting = set(), [file for file in MODULES if file.is_relative_to(PACKAGE / room)]
    assert waiting
    while waiting:
        file = waiting.pop()
        reached.add(file)
        for module in ours(file):
            path = CHECKOUT.joinpath(*module.split("."))
            inner = [candidate for candidate in (path.with_suffix(".py"), path / "__init__.py") if candidate.is_file()]
            waiting += [candidate for candidate in inner if candidate not in reached]
    rooms = {room_of(name_of(file)) for file in reached if file.parent != PACKAGE or file.name != "__init__.py"}
    assert rooms.isdisjoint(
        {"environments", "evaluation", "scoring", "experiment", "sweeps", "cli", "dataset_commands", "inspect_command"}
    )
    for file in reached:
        text = file.read_text()
        assert "gymnasium.make" not in text, file
        assert "recover_environment" not in text, file


def test_nobody_imports_the_command_line() -> None:
    importers = {room_of(name_of(file)) for file in MODULES if "iq_offline.cli" in ours(file)}
    assert importers <= {"recipes", "__main__"}


@pytest.mark.parametrize("folder", ["datasets", "recipes"])
def test_data_folders_hold_no_python(folder: str) -> None:
    files = [file for file in (CHECKOUT / folder).rglob("*") if file.is_file()]
    assert files
    assert {file.suffix for file in files} <= {".toml", ".safetensors", ".md"}


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_a_file_is_one_idea(file: Path) -> None:
    text = file.read_text()
    assert len(text.splitlines()) <= 400
    assert text.startswith('"""'), "a module begins by saying what it is"


def test_runnable_recipes_are_short() -> None:
    for file in (PACKAGE / "recipes").glob("*.py"):
        assert len(file.read_text().splitlines()) <= 30, file
        assert file.stem in ("__init__", "expert_count") or (CHECKOUT / "recipes" / f"{file.stem}.toml").is_file()


@pytest.mark.parametrize("what", ["iq_offline.config", "iq_offline.cli as c; c.main(['datasets', 'list'])"])
def test_what_should_take_no_time_imports_nothing_heavy(what: str) -> None:
    """A mistyped flag is answered before torch would have been imported; so is what there is to train on."""
    heavy = {"torch", "gymnasium", "minari", "tensordict", "mujoco", "matplotlib", "scipy", "h5py"}
    done = python("-c", f"import sys, iq_offline.cli, {what}; print(*{{name.split('.')[0] for name in sys.modules}})")
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "tyro" in loaded
    assert loaded.isdisjoint(heavy)


def test_training_imports_no_environment_package() -> None:
    """In a fresh process: the offline half loads without the environments, MuJoCo or the plots."""
    done = python("-c", "import sys, iq_offline.training.offline, iq_offline.training.setup; print(*sys.modules)")
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.split()
    assert "iq_offline.training.offline" in loaded
    assert not [name for name in loaded if name.startswith(("iq_offline.env", "iq_offline.eval", "iq_offline.exp"))]
    assert {"mujoco", "matplotlib", "stable_baselines3"}.isdisjoint(loaded)
