"""The command line, `circuitlens`."""

from circuitlens.cli.app import main as main
