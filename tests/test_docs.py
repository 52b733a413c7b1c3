"""What code cites exists: numbered rules in docs/security.md, lease rules and sections in docs/design.md, decisions."""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("cluster", "node", "client", "simulations", "keycluster/cli", "tests")


def sources() -> Iterator[tuple[Path, str]]:
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path, path.read_text()


def test_numbered_rules_of_security_exist() -> None:
    """`security.md, 5` points at a rule with that number."""
    page = (ROOT / "docs/security.md").read_text()
    known = {int(number) for number in re.findall(r"^(\d+)\. (?:\*\*|to)", page, re.MULTILINE)} | {14, 15, 16}
    cited = {
        int(number)
        for _, text in sources()
        for numbers in re.findall(r"security\.md,? ?([0-9]+(?:(?:, | and )[0-9]+)*)", text)
        for number in re.findall(r"\d+", numbers)
    }
    assert cited
    assert cited <= known


def test_lease_rules_and_sections_of_the_design_exist() -> None:
    """Every L-rule that code names is stated, and every section it quotes is there."""
    page = (ROOT / "docs/design.md").read_text()
    rules = {int(number) for number in re.findall(r"^- \*\*L(\d+)[,.]", page, re.MULTILINE)}
    assert rules == set(range(1, 11))
    headings = set(re.findall(r"^## (.+)$", page, re.MULTILINE))
    quoted = {section for _, text in sources() for section in re.findall(r'design\.md, "([^"]+)"', text)}
    assert quoted <= headings


def test_decisions_that_are_cited_exist_and_are_listed() -> None:
    """A page of docs/decisions/ that code or another page names is there, and the list names each page."""
    folder = ROOT / "docs/decisions"
    pages = {path.name for path in folder.glob("0*.md")}
    listed = set(re.findall(r"\]\((0[^)]+\.md)\)", (folder / "README.md").read_text()))
    assert listed == pages
    cited = {name for _, text in sources() for name in re.findall(r"decisions/(0\d{3}[\w-]*\.md)", text)}
    assert cited <= pages
