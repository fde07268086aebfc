"""Numbers and tokens as the page writes them: as all reports do."""

from circuitlens.report.text import about, count, percent, plain, signed, visible

__all__ = ["about", "count", "percent", "plain", "signed", "visible"]
