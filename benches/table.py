"""The table of results: what, ours, theirs, ratio, goal, met or not."""

from dataclasses import dataclass
from typing import Optional

from measure import Samples


@dataclass(frozen=True)
class Row:
    """One comparison, or one figure without any."""

    what: str
    ours: str
    theirs: str = ""
    ratio: str = ""
    goal: str = ""
    met: Optional[bool] = None

    @property
    def cells(self) -> "tuple[str, ...]":
        """The text of each column."""
        met = {None: "", True: "yes", False: "NO"}[self.met]
        return self.what, self.ours, self.theirs, self.ratio, self.goal, met


HEAD = ("what", "ours", "theirs", "ratio", "goal", "met")


def faster(what: str, ours: Samples, theirs: Samples, name: str, goal: "Optional[float]") -> Row:
    """Return the row of ours that is to be GOAL times as fast as theirs, if there is a goal."""
    ratio = theirs.best / ours.best
    told = f"{name}: {theirs.text()}"
    if goal is None:
        return Row(what, ours.text(), told, f"{ratio:.1f}x faster")
    met = ratio >= goal
    return Row(what, ours.text(), told, f"{ratio:.1f}x faster", f">= {goal:g}x", met)


def within(what: str, ours: Samples, theirs: Samples, name: str, goal: float) -> Row:
    """Return the row of ours that is to take at most GOAL times as long as theirs."""
    ratio = ours.best / theirs.best
    text = f"{ratio:.2f}x the time"
    return Row(what, ours.text(), f"{name}: {theirs.text()}", text, f"<= {goal:g}x", ratio <= goal)


def figure(what: str, ours: Samples, size: int = 0) -> Row:
    """Return the row of a figure without a goal; of SIZE bytes gone over, how fast."""
    return Row(what, ours.text(), ratio=f"{size / ours.best / 1e9:.1f} GB/s" if size else "")


def as_text(rows: "list[Row]") -> str:
    """Return the rows in columns that line up."""
    table = [HEAD, *(row.cells for row in rows)]
    widths = [max(len(cells[column]) for cells in table) for column in range(len(HEAD))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths)).rstrip()
        for cells in table
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def as_markdown(rows: "list[Row]") -> str:
    """Return the rows as a Markdown table."""
    table = [HEAD, tuple("---" for _ in HEAD), *(row.cells for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in table)
