"""The optional packages of sweeps over clusters."""

from importlib.util import find_spec


def check_extra(package: str) -> None:
    """Raise a one-line ValueError if a package of the extra `scale` is missing."""
    if find_spec(package) is None:
        raise ValueError(f"on: got no package {package}, expected that which `pip install {package}` installs")
