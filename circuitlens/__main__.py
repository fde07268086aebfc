"""`python -m circuitlens`."""

from circuitlens.cli import main

main()
