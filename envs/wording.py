"""What others say, in one line: an error message of ours is never longer."""


def one_line(said: object, width: int = 300) -> str:
    """The text of a value with single spaces for all white space, cut at `width` characters."""
    text = " ".join(str(said).split())
    return text if len(text) <= width else f"{text[: width - 4]} ..."


def told(error: BaseException, width: int = 300) -> str:
    """An exception by its type and text: "KeyError: 'pixels'"."""
    return one_line(f"{type(error).__name__}: {error}", width)


def raised(error: BaseException) -> str:
    """The same within a sentence: "KeyError ('pixels')"; the type alone where there is no text."""
    text = one_line(error)
    return f"{type(error).__name__} ({text})" if text else type(error).__name__
