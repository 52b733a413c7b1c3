"""Golden transcripts: each file in transcripts/ tells a story, and what all members do in it.

RAFT_TRANSCRIPTS=rewrite writes the files anew. A rewritten file is committed only with its difference understood.
"""

import os
from pathlib import Path

import pytest

from tests.cluster.raft.transcript import parse, rewrite, run

TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript_run_again(path: Path) -> None:
    """Members say, write and apply what the transcript says, in the same order."""
    if os.environ.get("RAFT_TRANSCRIPTS") == "rewrite":
        rewrite(path)
    text = path.read_text()
    assert run(text) == text


def test_transcripts_are_there() -> None:
    """At least twenty stories, each with a comment that tells it."""
    assert len(TRANSCRIPTS) >= 20
    for path in TRANSCRIPTS:
        blocks, _ = parse(path.read_text())
        assert blocks[0].before[0].startswith("#"), path.name
