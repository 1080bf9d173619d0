"""The page that lists which videos are tested: its tables, to be compared with what the tests run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "videos.md"


def table(heading: str) -> list[str]:
    """The lines of the table under a heading, without its two head lines."""
    section = PAGE.read_text(encoding="utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return [line for line in section.splitlines() if line.startswith("|")][2:]


def require(heading: str, rows: Iterable[Sequence[str]]) -> None:
    """Fail unless the table under the heading has exactly these rows; the message is what it should have."""
    wanted = [f"| {' | '.join(cells)} |" for cells in rows]
    assert table(heading) == wanted, f"{PAGE.name}, {heading}:\n" + "\n".join(wanted)
