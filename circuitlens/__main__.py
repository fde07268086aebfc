"""`python -m circuitlens`."""

from circuitlens.cli.app import main

main()
