"""What is typed, before it means anything."""

import dataclasses

import pytest

from iq_offline.command import joined, parse
from iq_offline.errors import UserError


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Some options."""

    set: tuple[str, ...] = ()
    learning_rates: tuple[float, ...] = ()
    seed: int = 0
    fast: bool = False


def test_values_of_an_option_that_is_repeated_add_up() -> None:
    words = ["--set", "a=1", "--seed", "2", "--set=b=2", "--learning-rates", "-1", "--learning_rates", "3", "--fast"]
    assert parse(Arguments, [*words, "--fast"]) == Arguments(("a=1", "b=2"), (-1.0, 3.0), 2, True)


def test_an_option_with_one_value_is_given_once() -> None:
    with pytest.raises(UserError, match=r"^--seed given more than once: give it once, with all its values$"):
        parse(Arguments, ["--seed", "1", "--set", "a", "--seed", "2"])


def test_what_is_typed_once_stays_as_it_is() -> None:
    words = ["mine.toml", "--learning_rates=1", "--set", "a", "b", "--fast"]
    assert joined(words) == (words, [])
    assert joined(["mine.toml", "--set", "a", "--fast", "--set", "b"]) == (
        ["mine.toml", "--set", "a", "b", "--fast"],
        ["--set"],
    )
