"""The command line as a user meets it: real processes, exit codes, and nothing but sentences on stderr."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import circuitlens
from circuitlens.circuit import Circuit
from circuitlens.distribution import DISTRIBUTION
from tests.cli.running import Here

COMMAND = [sys.executable, "-m", "circuitlens"]


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **environment},
    )


@contextmanager
def serving(*words: str) -> Iterator[tuple[str, list[str], subprocess.Popen[str]]]:
    """A command that serves the viewer: its address, what it printed before that, and the process."""
    process = subprocess.Popen(
        [*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "DISPLAY": ""}
    )
    watchdog = threading.Timer(90, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        printed = []
        for line in process.stdout:
            printed.append(line)
            if found := re.match(r"Viewing (http://127\.0\.0\.1:\d+/\?token=\S+)", line):
                yield found[1], printed, process
                break
        else:
            pytest.fail(f"it never served: {''.join(printed)} {process.communicate()[1]}")
    finally:
        watchdog.cancel()
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture(scope="module", autouse=True)
def _trained(toy: object) -> None:
    """The toy is in the session's cache before the first process starts."""


@pytest.fixture(scope="module")
def saved(cats: Circuit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("circuits") / "cats.json"
    cats.save(path)
    return path


def test_help_names_the_commands() -> None:
    done = run("--help")
    assert done.returncode == 0
    for command in ("demo", "adapters", "find", "view"):
        assert f"\n  {command}" in done.stdout


def test_version() -> None:
    assert run("--version").stdout.strip() == circuitlens.__version__


def test_adapters() -> None:
    lines = [line.split() for line in run("adapters").stdout.splitlines()]
    assert ["toy", DISTRIBUTION, circuitlens.__version__] in lines


def test_find_writes_a_circuit_that_opens(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    done = run("find", "toy", "The cats", "--answer", "run", "--distractor", "runs", "-o", str(path))
    assert done.returncode == 0, done.stderr
    circuit = circuitlens.open(path)
    assert circuit.conservation_residual < 1e-5 * circuit.metric.value
    assert circuit.strongest_path().nodes[-1].label == "run"
    for part in (str(circuit.strongest_path()), f"{circuit.metric.value:+.3f}", "conservation", str(path)):
        assert part in done.stdout
    with serving("view", str(path), "--no-browser", "--port", "0") as (url, _, _process):
        assert "CircuitLens" in urllib.request.urlopen(url).read().decode()


def test_a_terminal_of_few_letters_gets_its_file(tmp_path: Path) -> None:
    words = ("find", "toy", "The cats", "--answer", "run", "-o", str(tmp_path / "c.json"))
    done = run(*words, PYTHONIOENCODING="cp1252")
    assert done.returncode == 0, done.stderr
    assert re.search(r"plural \? .* \? run", done.stdout)
    assert (tmp_path / "c.json").exists()


def test_find_with_a_corrupted_prompt_measures_from_it(here: Here) -> None:
    words = ("find", "toy", "The cats", "--answer", "run", "--distractor", "runs", "--corrupted", "The cat")
    assert "path: change on one way for all sites from 'The cat'" in here(*words)[1]
    assert "contrastive: change from 'The cat'" in here(*words, "--method", "contrastive")[1]
    assert "gradient: change from zero" in here(*words, "--method", "gradient")[1]


def test_find_measures_as_many_edges_as_it_is_told(here: Here, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    words = ("find", "toy", "The cats", "--answer", "run", "--corrupted", "The cat", "-o", str(path))
    for count in (0, 3):
        printed = here(*words, "--measured-edges", str(count))[1]
        assert sum(edge.measured for edge in circuitlens.open(path).edges) == count
        assert ("(3 measured)" in printed) == (count == 3)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("find", "toy", "The cats"), "--answer.*give at least one"),
        (("find", "toyz", "The cats", "--answer", "run"), "there is no 'toyz'; installed: .*toy"),
        (("find", "toy", "The cats", "--answer", "run", "--method", "lime"), "--method"),
        (("view",), "Missing argument"),
        (("view", "c.json", "--port", "70000"), "less than or equal to 65535"),
        (("view", "c.json", "--port", "x"), "valid integer"),
        (("dance",), "No such command 'dance'"),
        (("prompts", "ioi", "-o", "p", "--count", "9" * 20), "less than or equal to 100000"),
        (("prompts", "ioi", "-o", "p", "--seed", "-1"), "greater than or equal to 0"),
        (("verify", "c.json", "--seed", "9" * 30), "less than or equal to"),
        (("verify", "c.json", "--draws", "9" * 30), "less than or equal to"),
        (("find", "toy", "The cats", "--answer", "run", "--max-nodes", "9" * 30), "less than or equal to"),
    ],
)
def test_usage_errors_are_two(words: tuple[str, ...], why: str, here: Here) -> None:
    code, _, errors = here(*words)
    assert code == 2
    assert re.search(why, errors)
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("find", "toy", "Colourless green", "--answer", "run"), "'colourless' is not a determiner"),
        (("find", "toy", "", "--answer", "run"), "no sentence of two or three words"),
        (("find", "toy", "The cats", "--answer", "jumps"), "can't answer 'jumps'"),
        (("find", "toy", "The cats", "--answer", "run", "--distractor", "run"), "is the answer itself"),
        (("find", "toy", "The cats", "--answer", "run", "--method", "contrastive"), "give one, or use 'gradient'"),
        (("find", "toy", "The cats", "--answer", "run", "-o", "/no folder/c.json"), "Can't write"),
        (("view", "/no folder/c.json"), "Can't read"),
        (("view", __file__), "is not JSON"),
    ],
)
def test_failures_are_one_and_a_sentence(words: tuple[str, ...], why: str, here: Here) -> None:
    code, _, errors = here(*words)
    assert code == 1
    assert errors.startswith("Error: ")
    assert why in errors
    assert errors.count("\n") == 1


def test_nothing_and_a_traceback_free_failure_in_a_real_process() -> None:
    bare = run()
    assert bare.returncode == 2
    assert (bare.stdout + bare.stderr).startswith("Usage:")
    done = run("find", "toy", "Colourless green", "--answer", "run")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: 'Colourless green'")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full is Linux's")
def test_what_can_not_be_printed_is_a_sentence() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*COMMAND, "adapters"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("Error: ")
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as Linux does")
def test_too_little_memory_is_a_sentence() -> None:
    words = [*COMMAND, "find", "toy", "The cats", "--answer", "run"]
    done = subprocess.run(
        ["sh", "-c", 'ulimit -v 300000; exec "$@"', "sh", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("Error: There is not enough memory")


def test_a_port_in_use_is_a_sentence(saved: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run("view", str(saved), "--no-browser", "--port", port)
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: Can't serve on port {port} (Address already in use)")


def test_a_plugin_that_cannot_be_imported_is_a_sentence(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, points in {
        "broken": "broken = no_such_module:Adapter\nwrong = json:loads\ntwice = json:loads\n",
        "rival": "twice = json:dumps\n",
    }.items():
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[circuitlens.adapters]\n{points}")
    monkeypatch.syspath_prepend(str(tmp_path))
    listed = here("adapters")[1]
    assert listed.count("twice") == 2  # a clash of two is no reason to do without the rest
    assert "toy" in listed
    code, _, errors = here("find", "twice", "x", "--answer", "y")
    assert code == 1
    assert "broken and rival declare it" in errors
    code, _, errors = here("find", "broken", "The cats", "--answer", "run")
    assert code == 1
    assert "adapter 'broken' of broken 1.0 can't be loaded (ModuleNotFoundError" in errors
    assert "not a subclass" in here("find", "wrong", "The cats", "--answer", "run")[2]


def test_control_characters_reach_no_terminal(saved: Path, tmp_path: Path) -> None:
    hostile = tmp_path / "hostile.json"
    hostile.write_text(saved.read_text().replace('"format"', '"\\u001b[31mred"', 1))
    done = run("view", str(hostile))
    assert done.returncode == 1
    assert "\x1b" not in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent as a POSIX signal")
def test_demo_prints_paths_and_evidence_serves_and_ends_on_ctrl_c() -> None:
    with serving("demo", "--no-browser", "--port", "0") as (url, printed, process):
        text = "".join(printed)
        assert re.search(r"strongest path  singular → H\d → F\d → runs", text)
        assert re.search(r"strongest path  plural → H\d → F\d → run ", text)
        assert "SAE explained variance" in text
        for feature, predicted, measured in re.findall(r"^  (F\d)\s+([+-][\d.]+)\s+([+-][\d.]+)", text, re.MULTILINE):
            assert float(predicted) == pytest.approx(float(measured), abs=2e-4), feature
        assert text.count("\n  F") == 2
        assert re.search(r"^meaning +H\d: '\w+'.* \(contexts\)$", text, re.MULTILINE)
        assert urllib.request.urlopen(url).status == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent as a POSIX signal")
def test_a_script_shows_its_circuit_until_ctrl_c(saved: Path) -> None:
    code = f"import circuitlens; circuitlens.open({str(saved)!r}).view(); print('closed')"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "DISPLAY": ""},
    )
    assert process.stderr is not None
    line = process.stderr.readline()
    found = re.match(r"Viewing (http://\S+)", line)
    assert found, line + process.stderr.read()
    assert urllib.request.urlopen(found[1]).status == 200
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=20)
    assert (printed, errors, process.returncode) == ("closed\n", "", 0)
