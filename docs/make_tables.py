"""Write what docs/evidence.md says of each check from the checks themselves: `make docs`."""

import inspect
import textwrap
from pathlib import Path

from circuitlens.evaluation.checks import CHECKS

PAGE = Path(__file__).parent / "evidence.md"
BEGIN, END = "<!-- checks: made by `make docs` -->", "<!-- end -->"


def main() -> None:
    """Replace what stands between the marks."""
    before, rest = PAGE.read_text().split(BEGIN)
    _, after = rest.split(END, 1)
    PAGE.write_text(f"{before}{BEGIN}\n{checks()}\n{END}{after}")


def checks() -> str:
    """The checks as a table of their thresholds, and a list of their docstrings."""
    rows = [("check", "weak from", "passes from", "decisive", "may be left out"), ("---",) * 5]
    items = []
    for check in CHECKS:
        threshold = ("–", "–") if check.threshold is None else (f"{number:g}" for number in check.threshold)
        rows.append((check.name, *threshold, *("yes" if each else "no" for each in (check.decisive, check.optional))))
        words = f"- **{check.name}**: {inspect.getdoc(check.measure)}".split()
        items.append(textwrap.fill(" ".join(words), 120, subsequent_indent="  ", break_on_hyphens=False))
    return "\n".join(["| " + " | ".join(row) + " |" for row in rows] + ["", *items])


if __name__ == "__main__":
    main()
