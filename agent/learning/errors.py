"""Errors of learning."""


class NotFinite(RuntimeError):
    """Numbers of a run are not finite and skipping updates does not help: the run must go back or end."""
