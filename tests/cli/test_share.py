"""`circuitlens share`: the page is written beside the file, or where it is said."""

from __future__ import annotations

from pathlib import Path

from circuitlens.circuit import Circuit
from tests.cli.running import Here


def test_it_writes_the_page(here: Here, cats: Circuit, tmp_path: Path) -> None:
    cats.save(tmp_path / "cats.json")
    before = (tmp_path / "cats.json").read_bytes()
    code, printed, errors = here("share", str(tmp_path / "cats.json"))
    assert (code, errors) == (0, "")
    assert printed.startswith(f"{tmp_path / 'cats.html'}: ")
    assert here("share", str(tmp_path / "cats.json"), "-o", str(tmp_path / "other.html"))[0] == 0
    assert (tmp_path / "cats.html").read_bytes() == (tmp_path / "other.html").read_bytes()
    assert (tmp_path / "cats.json").read_bytes() == before


def test_what_it_can_not_do_is_a_sentence(here: Here, cats: Circuit, tmp_path: Path) -> None:
    file = tmp_path / "cats.html"  # a circuit's file may have any name
    cats.save(file)
    code, _, errors = here("share", str(file))
    assert code == 2
    assert "is there twice" in errors
    code, _, errors = here("share", str(tmp_path / "none.json"))
    assert (code, errors[:7]) == (1, "Error: ")
    code, _, errors = here("share", str(file), "-o", str(tmp_path / "no/page.html"))
    assert code == 1
    assert errors.startswith("Error: Can't write")
    assert [path.name for path in tmp_path.iterdir()] == ["cats.html"]
