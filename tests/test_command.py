"""What is typed, before it means anything."""

import dataclasses

import pytest

from iq_offline.command import joined, parse, repeated
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


def test_of_an_option_with_one_value_the_last_counts() -> None:
    words = ["--seed", "1", "--set", "a", "--seed", "2", "--set", "b"]
    assert parse(Arguments, words) == Arguments(("a", "b"), seed=2)


def test_what_is_wrong_is_said_of_what_was_typed() -> None:
    with pytest.raises(UserError, match="--sede"):
        parse(Arguments, ["--set", "a", "--sede", "2", "--set", "b"])


def test_values_go_where_the_option_stood_first() -> None:
    words = ["mine.toml", "--set=a", "b", "--fast", "--set", "c", "--learning_rates=1"]
    assert repeated(words) == ["--set"]
    assert joined(words, "--set") == ["mine.toml", "--set", "a", "b", "c", "--fast", "--learning_rates=1"]
    assert joined(["--set", "a", "--set"], "--set") == ["--set", "a", "--set"], "a value is missing"
