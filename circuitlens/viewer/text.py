"""Numbers and tokens as the page writes them: as all reports do."""

from circuitlens.report.text import count, percent, plain, signed, visible

__all__ = ["count", "percent", "plain", "signed", "visible"]
