"""Write the tables of docs/ from what they are of, checks and releases: `make docs`."""

import inspect
import textwrap
from collections.abc import Iterable
from pathlib import Path

from circuitlens.evaluation.checks import CHECKS

DOCS = Path(__file__).parent
BEGIN, END = "<!-- made by `make docs` -->", "<!-- end -->"


def main() -> None:
    """Replace what stands between the marks of each page."""
    for name, table in TABLES.items():
        page = DOCS / f"{name}.md"
        before, rest = page.read_text().split(BEGIN)
        _, after = rest.split(END, 1)
        page.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}")


def checks() -> str:
    """The checks as a table of their thresholds, and a list of their docstrings."""
    rows = [("check", "weak from", "passes from", "decisive", "may be left out"), ("---",) * 5]
    items = []
    for check in CHECKS:
        threshold = ("–", "–") if check.threshold is None else (f"{number:g}" for number in check.threshold)
        rows.append((check.name, *threshold, *("yes" if each else "no" for each in (check.decisive, check.optional))))
        words = f"- **{check.name}**: {inspect.getdoc(check.measure)}".split()
        items.append(textwrap.fill(" ".join(words), 120, subsequent_indent="  ", break_on_hyphens=False))
    return "\n".join([_table(rows), "", *items])


def releases() -> str:
    """How many releases load, and all of them as a table."""
    from circuitlens_saelens import SAELensAdapter  # takes seconds

    listed = SAELensAdapter.releases()
    head = [("release", "model", "SAEs", "one takes", "loads by name"), ("---",) * 5]
    rows = [(r.name, r.model, str(r.count), r.size, f"no: it {r.refused}" if r.refused else "yes") for r in listed]
    loading = sum(one.refused is None for one in listed)
    return f"{loading} of {len(listed)} load by name.\n\n{_table([*head, *rows])}"


def _table(rows: Iterable[Iterable[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


TABLES = {"evidence": checks, "releases": releases}


if __name__ == "__main__":
    main()
