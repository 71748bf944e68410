"""What can go wrong in learning."""


class NotFinite(RuntimeError):
    """Numbers of a run are not finite and skipping updates does not help: it has to go back, or to end."""
