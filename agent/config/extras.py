"""The optional packages of work on several machines."""

from importlib.util import find_spec


def check_extra(package: str, option: str) -> None:
    """Raise a one-line ValueError that names the option if a package of the extra `scale` is missing."""
    if find_spec(package) is None:
        raise ValueError(f"{option}: got no package {package}, expected that which `pip install {package}` installs")
