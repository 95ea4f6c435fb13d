"""What every command does: what was typed is read, errors are one line, and there is an exit code."""

import contextlib
import io
import os
import re
import select
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import tyro
from pydantic import ValidationError

from iq_offline.config.tables import explain
from iq_offline.errors import InterruptedCommandError, UserError, nearest
from iq_offline.files import file_errors

Arguments_ = TypeVar("Arguments_")


def run_command(
    kind: type[Arguments_], command: Callable[[Arguments_], None], name: str, arguments: Sequence[str] | None = None
) -> int:
    """A command whose arguments are the fields of a dataclass. Returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    debug, given = split_debug(arguments)
    flat = (tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes)
    return guarded(lambda: command(parse(kind, given, prog=name, description=kind.__doc__, config=flat)), bool(debug))


def split_debug(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """``--debug``, if it is there, and everything else: it may stand anywhere."""
    others = [argument for argument in arguments if argument != "--debug"]
    return ["--debug"] * (len(others) < len(arguments)), others


def guarded(command: Callable[[], None], debug: bool = False) -> int:
    """Run a command; turn what users can mend into one line on stderr and an exit code.

    Exit codes: 0 done, 2 an error of use or data, 130 interrupted, 141 nobody reads on (``| head``).
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # A terminal without a "±" is no reason to end.
    try:
        with file_errors():
            command()
            sys.stdout.flush()
    except UserError as error:
        if debug:
            raise
        _let_go_of_output()
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except InterruptedCommandError as error:
        print(f"interrupted: {error}", file=sys.stderr)
        return 130
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return 141
        if debug:
            raise
        words = " ".join(str(error).split())
        print(f"error: {type(error).__name__}: {words} (a bug; --debug shows where)", file=sys.stderr)
        return 1
    return 0


def _nobody_reads() -> bool:
    """Whether whoever read what is printed has gone."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    if not poll.poll(0):
        return False
    _let_go_of_output()
    return True


def _let_go_of_output() -> None:
    """What cannot be printed goes nowhere: else Python tries once more at its end, and complains."""
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def without_sections(arguments: Sequence[str], sections: Sequence[str]) -> list[str]:
    """``--data.frame-stack`` as ``--frame-stack``: files, notes and errors name the section, these options do not."""
    prefix = re.compile(rf"--(?:{'|'.join(sections)})\.")
    return [prefix.sub("--", word, count=1) if prefix.match(word) else word for word in arguments]


def repeated(arguments: Sequence[str]) -> list[str]:
    """The options that stand there more than once."""
    names = [_option(word) for word in arguments]
    return [name for name in dict.fromkeys(names) if name and names.count(name) > 1]


def joined(arguments: Sequence[str], option: str) -> list[str]:
    """With all values of an option, ``--set a --set b``, behind its first place: ``--set a b``."""
    groups: list[list[str]] = [[]]
    for word in arguments:
        if _option(word):
            groups.append([])
        groups[-1] += [option, *word.split("=", 1)[1:]] if _option(word) == option else [word]
    first, *others = own = [group for group in groups if group[:1] == [option]]
    if any(len(group) == 1 for group in own):  # A value is missing: that is said.
        return list(arguments)
    for group in others:
        first += group[1:]
        group.clear()
    return [word for group in groups for word in group]


def _option(word: str) -> str:
    """The name of the option that a word is; empty where it is a value."""
    return word.partition("=")[0].replace("_", "-") if word.startswith("--") else ""


def parse(kind: type[Arguments_], arguments: Sequence[str], **options: Any) -> Arguments_:
    """What tyro reads from the command line, its complaints as one line.

    Of an option that is repeated tyro takes the last values alone. Where it takes several, all of them were meant.
    """
    words = list(arguments)
    for option in repeated(words):
        with contextlib.suppress(UserError):
            _parse(kind, together := joined(words, option), options)
            words = together
    return _parse(kind, words, options)


def _parse(kind: type[Arguments_], words: list[str], options: dict[str, Any]) -> Arguments_:
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(kind, args=words, **options)
    except ValidationError as error:
        raise UserError(explain(error, kind)) from error
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        raise UserError(_in_one_line(complaint.getvalue())) from None


def _in_one_line(complaint: str) -> str:
    """The words of tyro's box, without its frame, its title and pydantic's web addresses."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", complaint)
    lines = [line.strip("│╭╮╰╯─|+ ") for line in plain.splitlines()[1:]]
    words = " ".join(line for line in lines if line.strip("-")) or " ".join(plain.split())
    words = words.replace(".constrained-float", "")
    no_command = re.search(r"Unrecognized options: (\w[^\s,]*).* Available subcommands: (.*?) For full helptext", words)
    if no_command:
        word, there = no_command.groups()
        return f"no command {word!r}{nearest(word, there.split(', '))} (there are: {there})"
    wrong_kind = re.search(r"Error parsing (\S+): no type matching (\S+) .*?instantiated from \['(.*?)'\]", words)
    if wrong_kind:
        key, kinds, value = wrong_kind.groups()
        return f"{key} {value}: must be {kinds}"
    wrong_value = re.search(r"validation errors? for \w+ ([\w.]+) (.+?) \[type=.*?input_value=(.+?), input_type", words)
    if wrong_value:
        key, problem, value = wrong_value.groups()
        return f"{key} = {value}: {problem.lower()}"
    return words
