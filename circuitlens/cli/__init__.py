"""The command line, `circuitlens`: `app` puts it together, and each command has a module of its own."""

from circuitlens.cli.app import main as main
