"""The options of `CounterAdapter.load`, which become flags: `circuitlens find counter "3 5" --share 0.5 …`."""

from circuitlens.options import AdapterOption

OPTIONS = (AdapterOption("share", "Share of a number that the SAE reconstructs; the rest is its error.", type=float),)
