"""The command line itself: every command is there, explains itself, and refuses what it doesn't know."""

import argparse
import json
from collections.abc import Iterator

import pytest

from keycluster.cli.main import build_parser, main
from keycluster.cli.output import CommandFailed


def commands(parser: argparse.ArgumentParser, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """All commands, with the groups they are in."""
    inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not inner:
        yield words
    for action in inner:
        for name, command in action.choices.items():
            yield from commands(command, (*words, name))


COMMANDS = sorted(commands(build_parser()))


def test_the_commands_that_are_promised() -> None:
    """By the README and docs/install.md."""
    names = {" ".join(words) for words in COMMANDS}
    assert names >= {
        "dev", "node", "init", "join", "status", "token", "remove", "transfer", "access-key create", "key create",
        "key list", "key describe", "encrypt", "decrypt", "encrypt-file", "decrypt-file", "bench", "simulate",
    }  # fmt: skip


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """--help says what it does and what every option is; --json is always one of them."""
    with pytest.raises(SystemExit) as ended:
        main([*words, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: keycluster {' '.join(words)}")
    assert "--json" in text


@pytest.mark.parametrize("words", [(), ("key",), ("alias",), ("access-key",), ("nonsense",), ("key", "list", "--what")])
@pytest.mark.parametrize("json_form", [False, True])
def test_a_wrong_command_line_is_status_2(
    words: tuple[str, ...], json_form: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line that says what is wrong and where to read more; an object where JSON was asked for."""
    with pytest.raises(SystemExit) as ended:
        main([*words, "--json"] if json_form else list(words))
    assert ended.value.code == 2
    printed, complaints = capsys.readouterr()
    assert printed == ""
    if json_form:
        assert json.loads(complaints)["error"]
    else:
        assert complaints.startswith("keycluster: ")
        assert "--help`" in complaints.splitlines()[1]


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "1e9", "soon"])
def test_a_timeout_is_a_time(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Positive, finite, and not for days."""
    with pytest.raises(SystemExit):
        main(["status", "--timeout", text])
    assert "--timeout" in capsys.readouterr().err


def test_interrupts_and_faults(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C is status 130 without a word, also out of a nursery; the system's errors are one line."""
    for error in (KeyboardInterrupt(), BaseExceptionGroup("nursery", [KeyboardInterrupt()])):
        assert run_raising(error, monkeypatch) == 130
        assert capsys.readouterr() == ("", "")
    assert run_raising(PermissionError(13, "Permission denied", "/root/x"), monkeypatch) == 1
    assert capsys.readouterr().err == "keycluster: [Errno 13] Permission denied: '/root/x'\n"


def test_where_1_is_a_result_a_failure_is_2(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that couldn't be done mustn't look like one that found something, nor the other way round."""
    for error in (CommandFailed("x"), PermissionError(13, "x")):
        assert run_raising(error, monkeypatch) == 1
        assert run_raising(error, monkeypatch, failed=2) == 2
    assert run_raising(CommandFailed("x", status=1), monkeypatch, failed=2) == 1
    for command in ("simulate", "torture --dir x"):
        assert build_parser().parse_args(command.split()).failed == 2


def run_raising(error: BaseException, monkeypatch: pytest.MonkeyPatch, *, failed: int = 1) -> int:
    """What becomes of a command that ends by `error`."""

    def fail(options: argparse.Namespace, output: object) -> None:
        raise error

    options = argparse.Namespace(run=fail, json=False, failed=failed)
    with monkeypatch.context() as patched:
        patched.setattr(argparse.ArgumentParser, "parse_args", lambda *_: options)
        patched.setattr("keycluster.cli.main._discard_output", lambda: None)
        return main([])
