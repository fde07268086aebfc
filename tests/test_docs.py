"""What README.md, docs/ and the notebooks say is so: code and commands run, output is as shown, links lead somewhere.

The blocks of a page are run in their order, in one empty folder and one namespace, as a reader would type them. A
notebook is a page whose blocks are its cells.
"""

from __future__ import annotations

import io
import json
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import get_args

import pytest

import circuitlens
from circuitlens.adapter import Adapter
from circuitlens.circuit import VERSION
from circuitlens.cli.app import main
from circuitlens.cli.output import print_path_effects, print_summary
from circuitlens.cli.view import sample_corpus
from circuitlens.evaluation.intervention import Ablation
from circuitlens.literals import MethodName, MetricName, PositionGrouping
from circuitlens.prompts.tasks import TASKS
from circuitlens.registry import declared_options
from circuitlens.viewer import server
from tests.printed import assert_alike, numbers, words

ROOT = Path(__file__).parent.parent
PLUGIN = ROOT / "examples/plugin"
MAGIC = re.compile(r"(?<=^    )%.*", re.MULTILINE)
NOTEBOOKS = sorted(ROOT.glob("examples/*.ipynb"))


def text_of(path: Path) -> str:
    """A page as Markdown. In a notebook, what is for Colab alone (`%pip`) is left out."""
    if path.suffix != ".ipynb":
        return path.read_text()
    parts = []
    for cell in json.loads(path.read_text())["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "code":
            text = f"```python\n{MAGIC.sub('pass', text)}\n```"
        parts.append(text)
    return "\n\n".join(parts)


PAGES = {
    str(path.relative_to(ROOT)): text_of(path)
    for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *NOTEBOOKS]
}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)

Run = Callable[[str], tuple[dict[str, object], str]]
"""Runs a page: the names that its Python defines, and all that is printed."""

pytestmark = pytest.mark.filterwarnings(r"ignore:\nThis SAE has non-empty model_from_pretrained_kwargs:UserWarning")


def blocks(page: str, *languages: str) -> list[str]:
    return [text for language, text in BLOCK.findall(PAGES[page]) if language in languages]


RUNNABLE = [page for page in PAGES if blocks(page, "python") or "\ncircuitlens " in "".join(blocks(page, ""))]


@pytest.fixture(scope="module")
def run_page(toy: Adapter, gpt2_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    site = tmp_path_factory.mktemp("site")  # the example plugin, as if it were installed
    info = site / "circuitlens_counter-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: circuitlens-counter\nVersion: 0.1\n")
    groups = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]["entry-points"].items()
    points = [
        f"[{group}]\n" + "\n".join(f"{name} = {target}" for name, target in each.items()) for group, each in groups
    ]
    (info / "entry_points.txt").write_text("\n".join(points))

    @cache
    def run(page: str) -> tuple[dict[str, object], str]:
        names: dict[str, object] = {}
        printed = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
            patch.chdir(tmp_path_factory.mktemp("page"))
            patch.syspath_prepend(site)
            patch.syspath_prepend(PLUGIN)
            patch.setattr(sys, "ps1", ">>> ", raising=False)
            patch.setattr(server, "open_page", lambda url: None)
            patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(gpt2_cache / "hub"))
            for language, text in BLOCK.findall(PAGES[page]):
                if language == "python":
                    exec(compile(text, page, "exec"), names)
                elif not language:
                    for command in re.findall(r"^circuitlens .*", text, re.MULTILINE):
                        run_command(command, patch)
        for value in names.values():
            if isinstance(value, server.Viewer) and value._thread.is_alive():
                value.close()
        return names, printed.getvalue()

    return run


def run_command(command: str, patch: pytest.MonkeyPatch) -> None:
    words = shlex.split(command, comments=True)
    if words[1] == "view":
        for file in words[2:]:
            circuitlens.open(file)
        return
    patch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as stop:
        main()
    # The language models of the tests have random weights: no circuit of theirs need be supported.
    assert (stop.value.code or 0) in ({0, 3} if "exit code 3" in command else {0}), command


@pytest.mark.parametrize("page", RUNNABLE)
def test_what_a_page_shows_runs_and_prints_what_it_says(page: str, run_page: Run) -> None:
    _, printed = run_page(page)
    lines = printed.splitlines()
    for text in blocks(page, "python"):
        for shown in re.findall(r"^ *print\(.*\)  # (.+)$", text, re.MULTILINE):
            alike = [numbers(line) for line in lines if words(line) == words(shown)]
            assert any(numbers(shown) == pytest.approx(each, rel=0.05) for each in alike), f"{shown!r} is not printed"


def test_the_readmes_examples(run_page: Run) -> None:
    names, printed = run_page("README.md")
    result = names["result"]
    assert isinstance(result, Ablation)
    assert result.measured == pytest.approx(result.predicted, rel=1e-4)
    assert isinstance(names["viewer"], server.Viewer)
    circuit = names["circuit"]  # of the notebook
    assert isinstance(circuit, circuitlens.Circuit)
    assert circuit.adapter != "toy"
    assert circuit.conservation_residual < 1e-4
    assert "https://www.neuronpedia.org/gpt2-small/" in printed


def test_the_demos_output_is_what_is_printed(
    toy: Adapter, cats: circuitlens.Circuit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_summary(circuitlens.label(cats, toy, corpus=sample_corpus(toy, tmp_path)))
    print_path_effects(toy, cats)
    (shown,) = blocks("docs/demo.md", "")
    shown, printed = (re.sub(r"residual .*", "", text.strip()) for text in (shown, capsys.readouterr().out))
    assert len(numbers(shown)) == 11
    assert_alike(shown, printed, rel=0.05)


def test_prompts_are_read_as_they_are_shown(tmp_path: Path) -> None:
    (rows,) = blocks("docs/many-prompts.md", "jsonl")
    (tmp_path / "rows.jsonl").write_text(rows)
    pairs, skipped = circuitlens.read_pairs(tmp_path / "rows.jsonl")
    assert (len(pairs), skipped) == (3, [])


def test_the_plugin_that_is_shown_is_the_example() -> None:
    (entry_points,) = blocks("docs/adapters.md", "toml")
    assert entry_points in (PLUGIN / "pyproject.toml").read_text()
    options = next(text for text in blocks("docs/adapters.md", "python") if "OPTIONS" in text)
    assert options in (PLUGIN / "circuitlens_counter/options.py").read_text()


def test_the_readme_is_short() -> None:
    assert len(PAGES["README.md"].splitlines()) <= 150


def test_every_name_is_explained() -> None:
    explained = {
        "docs/python.md": [f"circuitlens.{name}" for name in (*circuitlens.__all__, "open")],
        "docs/methods.md": [f"`{name}`" for name in (*get_args(MethodName), *get_args(MetricName))],
        "docs/many-prompts.md": [f"`{name}`" for name in (*TASKS, *get_args(PositionGrouping))],
        "docs/command-line.md": [option.flag for options in declared_options().values() for option in options],
        "docs/files.md": [f"The format is {VERSION}."],
    }
    for page, names in explained.items():
        assert [name for name in names if not names_whole(name, PAGES[page])] == [], page


def names_whole(name: str, text: str) -> bool:
    """Whether a text has this name, and not only as a part of a longer one."""
    return re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", text) is not None


def test_a_name_within_a_longer_one_is_not_explained() -> None:
    assert names_whole("circuitlens.Circuit", "a `circuitlens.Circuit`.")
    assert not names_whole("circuitlens.Circuit", "a `circuitlens.CircuitPath`")
    assert not names_whole("--sae", "`--saes FOLDER`")
    assert not names_whole("--nodes", "`--max-nodes`, `--nodes-only`")


def test_the_list_of_commands_is_current() -> None:
    maker = runpy.run_path(str(ROOT / "docs/make_tables.py"))
    shown = PAGES["docs/command-line.md"].split(maker["BEGIN"])[1].split(maker["END"])[0].strip()
    assert shown == maker["commands"](), "run `make docs`"
    assert "### circuitlens corpus show" in shown


def test_the_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for document in (PAGES["README.md"], (ROOT / "CONTRIBUTING.md").read_text()):
        for target in re.findall(r"^make (\S+)", document, re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md"])
def test_what_a_page_points_at_is_there(page: str) -> None:
    text = BLOCK.sub("", text_of(ROOT / page))
    for target in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", text):
        target = "".join(target)
        if target.startswith("https://"):
            continue
        file, _, heading = target.partition("#")
        path = ((ROOT / page).parent / file) if file else ROOT / page
        assert path.exists(), target
        assert not heading or heading in headings(path), target


def headings(path: Path) -> set[str]:
    """The anchors that a page's headings have on GitHub."""
    titles = re.findall(r"^#+ (.+)$", BLOCK.sub("", text_of(path)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_opens_in_colab_and_is_kept_without_outputs(path: Path) -> None:
    notebook = json.loads(path.read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    (repository,) = re.findall(
        rf"https://colab\.research\.google\.com/github/(\S+?)/blob/main/examples/{path.name}\)",
        PAGES[str(path.relative_to(ROOT))],
    )
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert f"%pip install -q git+https://github.com/{repository}" in "".join(code[0]["source"])
    assert [(cell["outputs"], cell["execution_count"]) for cell in code] == [([], None)] * len(code)
    assert path.stat().st_size < 20_000


def test_every_page_is_reached_from_the_readme() -> None:
    for page in PAGES:
        assert page == "README.md" or f"({page})" in PAGES["README.md"], page


def test_the_files_that_contributing_names_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for path in re.findall(r"`((?:circuitlens|plugins|tests|docs|examples)/[^`*\s]*)`", text):
        assert (ROOT / path).exists(), path


def test_the_example_runs(toy: Adapter, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "examples/toy.py"))
    printed = capsys.readouterr().out
    rows = re.findall(r"^(F\d|error)\s+([+-][\d.]+)\s+([+-][\d.]+)$", printed, re.MULTILINE)
    assert len(rows) >= 4
    for label, predicted, measured in rows:
        assert float(predicted) == pytest.approx(float(measured), abs=2e-4), label
