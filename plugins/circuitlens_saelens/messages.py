"""What other libraries' errors say, in a form that fits into a sentence."""


def first_line(error: BaseException) -> str:
    """The error's kind and the first line of its message, without a full stop."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}".rstrip(".: ")
