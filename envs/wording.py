"""Errors and values of other libraries, in one line."""


def one_line(said: object, width: int = 300) -> str:
    """Return the text of a value with single spaces for all white space, cut at `width` characters."""
    text = " ".join(str(said).split())
    return text if len(text) <= width else f"{text[: width - 4]} ..."


def describe_error(error: BaseException, width: int = 300) -> str:
    """Return an exception's type and text: "KeyError: 'pixels'"."""
    return one_line(f"{type(error).__name__}: {error}", width)


def quote_error(error: BaseException) -> str:
    """Return an exception's type and text for use within a sentence: "KeyError ('pixels')", or the type alone."""
    text = one_line(error)
    return f"{type(error).__name__} ({text})" if text else type(error).__name__
