"""What commands print: tables, results and errors, for people and for machines."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keycluster.cli.output import CommandFailed, Output, printable, when
from keycluster.cluster.wire.operations import EncryptResponse


def test_a_table_is_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    """Columns as wide as their longest cell, also where characters are two columns wide; nothing at a line's end."""
    Output(json=False).table(["KEY", "VALUE"], [["鍵", "one"], ["abc", ""]], value=None)
    assert capsys.readouterr().out == "KEY  VALUE\n鍵   one\nabc\n"


def test_a_long_cell_is_not_folded(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the terminal's width: an ARN must be copied in one piece."""
    monkeypatch.setenv("COLUMNS", "10")
    Output(json=False).table(["ARN"], [["x" * 500]], value=None)
    assert capsys.readouterr().out.splitlines() == ["ARN", "x" * 500]


def test_a_table_without_titles_has_no_first_line(capsys: pytest.CaptureFixture[str]) -> None:
    """As `key describe` prints it."""
    Output(json=False).table(["", ""], [["id", "1"]], value=None)
    assert capsys.readouterr().out == "id  1\n"


@given(st.text())
def test_no_text_commands_the_terminal(text: str) -> None:
    """Control characters, line ends and bidirectional overrides are shown as escapes."""
    assert printable(text).isprintable()


def test_answers_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    """By AWS's member names, bytes as Base64, what is absent left out; also inside lists and maps."""
    answer = EncryptResponse(ciphertext_blob=b"\xff\x00", key_id="k", encryption_algorithm="SYMMETRIC_DEFAULT")
    Output(json=True).result({"Answers": [answer]}, lines=["not this"])
    assert json.loads(capsys.readouterr().out) == {
        "Answers": [{"CiphertextBlob": "/wA=", "KeyId": "k", "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}]
    }


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        (CommandFailed("why\nso"), "keycluster: why so\n"),
        (CommandFailed("why", hint="do this"), "keycluster: why\n  hint: do this\n"),
        (CommandFailed("why", code="TagException"), "keycluster: TagException: why\n"),
        (CommandFailed("", code="InvalidCiphertextException"), "keycluster: InvalidCiphertextException\n"),
        (CommandFailed("a\x1b[2Jb"), "keycluster: a\\x1b[2Jb\n"),
    ],
)
def test_errors_are_one_line(capsys: pytest.CaptureFixture[str], failure: CommandFailed, text: str) -> None:
    """And perhaps a hint in a second one; a refusal without a message, as AWS sends some, is its code alone."""
    Output(json=False).error(failure)
    assert capsys.readouterr() == ("", text)


def test_errors_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    """One object in one line."""
    Output(json=True).error(CommandFailed("why", code="TagException"))
    assert json.loads(capsys.readouterr().err) == {"error": "why", "code": "TagException"}


def test_times_are_utc() -> None:
    """And say so."""
    assert when(0.5) == "1970-01-01 00:00:00 UTC"
    assert when(None) == "-"
