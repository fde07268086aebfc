"""The options of the toy adapter."""

from circuitlens.options import AdapterOption

DTYPES = ("float32", "float64")

OPTIONS = (
    AdapterOption("cache", "The folder that the trained toy is kept in; by default one in the user's cache directory."),
    AdapterOption("dtype", "Numbers to compute in.", choices=DTYPES),
)
