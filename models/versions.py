"""Versions of packages, as provenance names them."""

from importlib import metadata

MISSING = "not installed"


def installed(package: str) -> str | None:
    """The installed version of a package, if there is one: this one may run from a folder."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def version_of(package: str) -> str:
    return installed(package) or MISSING
