"""Write the tables of docs/ from what they are of, checks and releases: `make docs`."""

import inspect
import textwrap
from collections.abc import Iterable
from pathlib import Path

from circuitlens_saelens import SAELensAdapter

from circuitlens.evaluation.checks import CHECKS

DOCS = Path(__file__).parent
END = "<!-- end -->"


def main() -> None:
    """Replace what stands between the marks of each page."""
    for name, table in TABLES.items():
        page = DOCS / f"{name}.md"
        before, rest = page.read_text().split(BEGIN[name])
        _, after = rest.split(END, 1)
        page.write_text(f"{before}{BEGIN[name]}\n{table()}\n{END}{after}")


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
    listed = SAELensAdapter.releases()
    rows = [("release", "model", "SAEs", "one takes", "loads by name"), ("---",) * 5]
    for one in listed:
        rows.append((one.name, one.model, str(one.count), one.size, f"no: it {one.refused}" if one.refused else "yes"))
    loading = sum(one.refused is None for one in listed)
    return f"{loading} of {len(listed)} load by name.\n\n{_table(rows)}"


def _table(rows: Iterable[Iterable[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


TABLES = {"evidence": checks, "releases": releases}
BEGIN = {"evidence": "<!-- checks: made by `make docs` -->", "releases": "<!-- releases: made by `make docs` -->"}


if __name__ == "__main__":
    main()
