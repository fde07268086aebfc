"""What pip calls this package, which is not what Python imports: the one place that knows it, and the version.

On the public index the name `circuitlens` is that of another tool, for electronics.
"""

from __future__ import annotations

DISTRIBUTION = "circuitlens-sae"
OTHER = "circuitlens"
"""The other tool's name there; it imports nothing of this name, but brings a command `circuitlens` of its own."""


def installed_version() -> str:
    """This package's version.

    Raises:
        importlib.metadata.PackageNotFoundError: it is not installed, only imported from a folder.
    """
    from importlib.metadata import version

    return version(DISTRIBUTION)


def created_by() -> str:
    """What files say that made them: "circuitlens VERSION"."""
    return f"circuitlens {installed_version()}"


def installing(extra: str) -> str:
    """The command that installs an extra, e.g. "plots"."""
    return f"pip install '{DISTRIBUTION}[{extra}]'"
