"""Whether an optional package is here, in the version that is needed."""

from importlib.metadata import PackageNotFoundError, version


def check_package(name: str, oldest: tuple[int, int]) -> None:
    """Raise a one-line ValueError that says what to install if a package is missing or older than `oldest`."""
    install = f"pip install '{name}>={oldest[0]}.{oldest[1]}'"
    try:
        found = version(name)
    except PackageNotFoundError:
        raise ValueError(f"{name}: got no package, expected the version that `{install}` installs") from None
    if tuple(int(part) for part in found.split(".")[:2]) < oldest:
        raise ValueError(f"{name}: got version {found}, expected the one that `{install}` installs")
