"""MedKD distils reasoning out of a large teacher into a small student."""

__version__: str


def __getattr__(name: str) -> str:
    """Read the version when it is asked for; what reads it takes long to load."""
    if name != "__version__":
        raise AttributeError(name)
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("medkd")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "0+unknown"
