"""`circuitlens doctor`: what is installed, what it can use, and what is missing for what, as a table.

It exits with 1 if something is wrong; what is only not there for a feature is not.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution, entry_points, requires, version
from pathlib import Path

import typer

from circuitlens.cli.output import print_table
from circuitlens.distribution import DISTRIBUTION, OTHER, installed_version, installing

SHOWN = ("torch", "transformers", "transformer-lens", "sae-lens", "dash", "dash-cytoscape", "huggingface-hub")
"""Packages that are listed; another one only where it is missing or of a version that was not tried."""
ENTRIES = 200_000
"""Entries of a cache that are counted: a second or so, even where it has millions."""


@dataclass(frozen=True)
class Finding:
    """A row: what was looked at, what was found, and what to do; a `fault` keeps something from working."""

    what: str
    found: str
    advice: str = ""
    fault: bool = False


def doctor() -> None:
    """Say what is installed, which devices and caches there are, and what is missing for what."""
    findings = [finding for part in PARTS for finding in _safely(part)]
    told = [(f.what, f.found, f"{'wrong: ' if f.fault else ''}{f.advice}" if f.advice else "") for f in findings]
    print_table([("What", "Found", "To do"), *told])
    if any(finding.fault for finding in findings):
        raise typer.Exit(1)


def _safely(part: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """The findings of a part; what goes wrong in it, which is other people's code, is one of them."""
    try:
        yield from part()
    except Exception as error:
        what = part.__name__.removeprefix("_").replace("_", " ")
        yield Finding(what, f"{type(error).__name__}: {error}", "it could not be looked at", fault=True)


def _packages() -> Iterator[Finding]:
    """Ourselves, Python, and what we need."""
    try:
        yield Finding("circuitlens", f"{installed_version()} in {Path(__file__).parents[1]}")
    except PackageNotFoundError:
        yield Finding(
            "circuitlens", f"only its folder, {Path(__file__).parents[1]}", f"pip install {DISTRIBUTION}", fault=True
        )
        return
    yield Finding("Python", f"{platform.python_version()}, {platform.system()} {platform.machine()}")
    from packaging.requirements import Requirement

    for words in requires(DISTRIBUTION) or ():
        wanted = Requirement(words)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        found = _version_of(wanted.name)
        if not found:
            yield Finding(wanted.name, "missing", f"pip install '{wanted.name}{wanted.specifier}'", fault=True)
        elif not wanted.specifier.contains(found, prereleases=True):
            yield Finding(wanted.name, found, f"pip install '{wanted.name}{wanted.specifier}'", fault=True)
        elif wanted.name in SHOWN:
            yield Finding(wanted.name, found)


def _devices() -> Iterator[Finding]:
    """What models are computed on."""
    import psutil

    from circuitlens.files import format_bytes

    memory = psutil.virtual_memory()
    free = f"{format_bytes(memory.available)} of {format_bytes(memory.total)} free"
    try:
        import torch
    except Exception as error:  # a library that it needs may be missing, in whatever way
        yield Finding("CPU", f"{os.cpu_count()} cores, {free}")
        advice = "install torch again (constraints.txt has the version that was tried)"
        yield Finding("torch", f"{type(error).__name__}: {error}", advice, fault=True)
        return
    yield Finding("CPU", f"{os.cpu_count()} cores ({torch.get_num_threads()} used), {free}")
    for number in range(torch.cuda.device_count()):
        left, whole = torch.cuda.mem_get_info(number)
        told = f"{torch.cuda.get_device_name(number)}, {format_bytes(left)} of {format_bytes(whole)} free"
        yield Finding(f"cuda:{number}", told)
    if torch.backends.mps.is_available():
        yield Finding("mps", "Apple's GPU, in the memory of the CPU")
    if not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        yield Finding("GPU", "none that torch can use", "nothing needs one")


def _caches() -> Iterator[Finding]:
    """What is kept on this disk, and how much of it there is."""
    from circuitlens.files import cache_folder

    yield Finding("cache of circuitlens", _size(cache_folder()))
    from huggingface_hub import constants

    offline = " (HF_HUB_OFFLINE is set: nothing is downloaded)" if constants.HF_HUB_OFFLINE else ""
    yield Finding("cache of Hugging Face", _size(Path(constants.HF_HUB_CACHE)) + offline)


def _size(folder: Path) -> str:
    """The bytes in a folder without those that links lead to, and how much room is left beside them."""
    from circuitlens.files import format_bytes

    if not folder.is_dir():
        return f"{folder}: not there yet"
    whole = entries = 0
    waiting = [str(folder)]
    while waiting and entries < ENTRIES:
        try:
            with os.scandir(waiting.pop()) as found:
                for entry in found:
                    entries += 1
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        whole += entry.stat(follow_symlinks=False).st_size
        except OSError:  # of another user, or gone meanwhile
            continue
    least = "at least " if waiting else ""
    return f"{folder}: {least}{format_bytes(whole)}, {format_bytes(shutil.disk_usage(folder).free)} free there"


def _features() -> Iterator[Finding]:
    """What needs more than is always installed."""
    kaleido = _version_of("kaleido")
    yield Finding("pictures of evidence", f"kaleido {kaleido}" if kaleido else "no kaleido", _extra("plots", kaleido))
    browser = _browser() if kaleido else ""
    if kaleido:
        told = "install Chrome or Chromium, or name one in BROWSER_PATH; pages (.html) need none"
        yield Finding("browser for pictures", browser or "none", "" if browser else told)
    ray = _version_of("ray")
    yield Finding("workers of Ray", f"ray {ray}" if ray else "no ray", _extra("ray", ray))
    datasets = _version_of("datasets")
    told = "" if datasets else "pip install datasets; texts in files need none"
    yield Finding("texts of datasets", f"datasets {datasets}" if datasets else "no datasets", told)
    jinja = _version_of("jinja2")  # that it is of the right version is told with the packages
    yield Finding("chat templates", f"jinja2 {jinja}" if jinja else "no jinja2")


def _extra(name: str, found: str) -> str:
    return "" if found else f"{installing(name)}, if you want it"


def _browser() -> str:
    """The browser that kaleido takes, "" where there is none."""
    try:
        chromium = import_module("choreographer.browsers.chromium")
        found = chromium.Chromium.find_browser(skip_local=False)
    except Exception:
        return ""
    return found if found and Path(found).exists() else ""


def _conflicts() -> Iterator[Finding]:
    """What else has our names."""
    if other := _version_of(OTHER):
        ours = (distribution(OTHER).metadata["Summary"] or "").startswith("Finds, checks and shows feature circuits")
        told = "what this package was called before" if ours else "another tool, with a command of the same name"
        advice = f"pip uninstall {OTHER} {DISTRIBUTION}, then install {DISTRIBUTION} again"
        yield Finding(f"the distribution {OTHER!r}", f"{other}, {told}", advice, fault=True)
    for entry in entry_points(group="console_scripts", name="circuitlens"):
        if entry.dist is not None and entry.dist.name not in (DISTRIBUTION, OTHER):
            advice = f"call `{Path(sys.executable).name} -m circuitlens`, or uninstall it"
            yield Finding("the command `circuitlens`", f"{entry.dist.name} has one, too", advice, fault=True)
    from circuitlens.registry import installed_adapters

    adapters = installed_adapters()
    names = [adapter.name for adapter in adapters]
    yield Finding("adapters", ", ".join(sorted(set(names))) or "none", "" if names else "install this package again")
    for name in sorted({name for name in names if names.count(name) > 1}):
        owners = " and ".join(adapter.package for adapter in adapters if adapter.name == name)
        yield Finding(f"the adapter {name!r}", f"{owners} declare it", "uninstall all but one", fault=True)


def _version_of(package: str) -> str:
    """The installed version of a package, "" where there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


PARTS = (_packages, _devices, _caches, _features, _conflicts)
