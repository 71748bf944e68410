"""Errors and values of other libraries and processes, in one line."""

import signal


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


def describe_exit(status: int, errors: str) -> str:
    """Return why a process failed: its signal, or the last line of `errors`, what it wrote to standard error.

    `status` is that of `subprocess`, negative for a signal.
    """
    if status < 0:
        return signal.Signals(-status).name
    lines = [line for line in errors.splitlines() if line.strip()]
    return one_line(lines[-1]) if lines else f"exit status {status}"
