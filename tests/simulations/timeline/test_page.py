"""The time line as a page: whole in itself, valid, and not too large for a browser."""

import re
from html.parser import HTMLParser

from keycluster.cluster.types import MILLISECOND, SECOND
from keycluster.simulations.runs import Failure, RunSpec, SeedReport, Simulator
from keycluster.simulations.timeline.model import make_timeline
from keycluster.simulations.timeline.page import ELEMENTS_MAX, draw_page
from keycluster.simulations.trace import Detail, Record, What

SPEC = RunSpec(Simulator.REGION, 7, 60 * SECOND)
VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Checks that elements are closed in order, and keeps what there is."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)

    def classes(self) -> list[str]:
        return [attributes.get("class") or "" for _, attributes in self.elements]


def page_of(
    *records: tuple[int, str, str, tuple[Detail, ...]], failures: list[Failure] | None = None
) -> tuple[Page, str]:
    kept = [Record(at * MILLISECOND, lane, what, detail) for at, lane, what, detail in records]
    text = draw_page(make_timeline(SeedReport(SPEC, "ab", 60 * SECOND, failures=failures or []), kept))
    return Page(text), text


def test_lanes_and_what_is_in_them() -> None:
    """Terms have colours, what lasts has its details, offending calls stand out, cut links darken the nodes."""
    page, text = page_of(
        (0, "n1", What.STARTS, ()),
        (1_000, "n1", What.LEADS, (5,)),
        (1_000, "n1", What.SERVES, ()),
        (2_000, "network", What.CUT, ("n1 from n2",)),
        (3_000, "n1", What.PAUSES, ()),
        (4_000, "c1", What.CALL, (3, "Encrypt", "k")),
        (5_000, "c1", What.RETURNS, (3, "ok", "n1")),
        (6_000, "nemesis", What.OFFENCE, ("currency", "call 3", 3)),
    )
    classes = page.classes()
    for css in ("leads t5", "serves", "paused", "cut", "shade", "call ok offends", "offence", "up"):
        assert css in classes
    names = [attributes for _, attributes in page.elements if (attributes.get("class") or "").startswith("name")]
    assert len(names) == 3  # The nemesis has done nothing but to be where the finding was recorded.
    [lead] = [attributes for _, attributes in page.elements if attributes.get("class") == "leads t5"]
    assert lead["x"] == "1.6667%"
    assert "n1: leads in term 5\n1.0000 s to 60.0000 s (59.00 s)" in text


def test_it_needs_nothing_from_elsewhere() -> None:
    """No address but SVG's own name, no file, no import: it is opened on machines without a network."""
    _, text = page_of((0, "n1", What.STARTS, ()))
    assert re.findall(r"https?://[^\s\"']+", text) == ["http://www.w3.org/2000/svg"]
    assert not re.search(r"<link|\bsrc=|@import|url\((?!#)|fetch\(|XMLHttp", text)


def test_what_a_trace_says_is_text() -> None:
    """Names and messages come from clients, and from whoever writes to them: they are shown, not run."""
    nasty = "</title></script><script>alert(1)</script>\"'&"
    page, text = page_of(
        (0, nasty, What.STARTS, (nasty,)),
        (1, nasty, nasty, (nasty,)),
        (2, "c1", What.CALL, (3, nasty, nasty)),
        (3, "c1", What.RETURNS, (3, nasty)),
        (4, "network", What.CUT, (nasty,)),
        (5, "nemesis", What.FAULT, (nasty, nasty, 60 * SECOND)),
        (6, "nemesis", What.OFFENCE, (nasty, nasty)),
        failures=[Failure(nasty, nasty)],
    )
    assert text.count("<script") == text.count("</script") == 1
    assert [tag for tag, _ in page.elements].count("script") == 1
    assert any(nasty in data for data in page.texts["title"])


def test_fifty_thousand_records_are_thinned() -> None:
    """What is merged is counted; what was found, and what stands around it, is not merged."""
    calls = 24_000
    records: list[tuple[int, str, str, tuple[Detail, ...]]] = [
        (0, f"n{number}", What.STARTS, ()) for number in range(1, 6)
    ]
    for number in range(calls):
        client, at = f"c{number % 30}", number * 60_000 // calls
        records += [
            (at, client, What.CALL, (number, "Encrypt", "k")),
            (at + 1, client, What.RETURNS, (number, "ok", "n1")),
        ]
    records.append((30_000, "nemesis", What.OFFENCE, ("currency", "found", 12_000, 3, 33)))  # The last two in one lane.
    page, text = page_of(*sorted(records, key=lambda record: record[0]))
    drawn = page.classes()
    assert len(page.elements) < ELEMENTS_MAX * 3
    assert len(text) < 4_000_000
    assert drawn.count("call ok offends") == 3
    assert drawn.count("call ok") < ELEMENTS_MAX
    assert "7 others" in text
    assert "more</title>" in text


def test_calls_of_any_finding_stay_apart() -> None:
    """Also of the tenth, near which the drawing is as coarse as elsewhere."""
    records: list[tuple[int, str, str, tuple[Detail, ...]]] = [
        (at, f"c{at % 9}", what, detail)
        for at in range(30_000)
        for what, detail in ((What.CALL, (at, "Encrypt", "k")), (What.RETURNS, (at, "ok", "n1")))
    ]
    records += [(number * 100, "nemesis", What.OFFENCE, ("currency", "found", number)) for number in range(9)]
    records.append((29_999, "nemesis", What.OFFENCE, ("currency", "found", 20_000, 20_009, 20_018)))
    page, _ = page_of(*sorted(records, key=lambda record: record[0]))
    assert page.classes().count("call ok offends") == 12


def test_a_run_without_records_is_a_page_too() -> None:
    """One that died at once."""
    page, _ = page_of(failures=[Failure("exception", "at once")])
    assert any("at once" in data for data in page.texts["li"])
