"""Whether an optional package is here, in the version that is needed."""

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec


def check_installed(package: str, option: str, requirement: str | None = None) -> None:
    """Raise a one-line ValueError that names the option and says what to install if a package is missing.

    requirement: what pip is given instead of the package's name, quoted for the shell where that is needed.
    """
    if find_spec(package) is None:
        install = f"pip install {requirement or package}"
        raise ValueError(f"{option}: got no package {package}, expected that which `{install}` installs")


def check_version(name: str, oldest: tuple[int, int]) -> None:
    """Raise a one-line ValueError that says what to install if a package is missing or older than `oldest`."""
    install = f"pip install '{name}>={oldest[0]}.{oldest[1]}'"
    try:
        found = version(name)
    except PackageNotFoundError:
        raise ValueError(f"{name}: got no package, expected the version that `{install}` installs") from None
    if tuple(int(part) for part in found.split(".")[:2]) < oldest:
        raise ValueError(f"{name}: got version {found}, expected the one that `{install}` installs")
