"""MedKD distils clinical reasoning out of a large teacher into a small student."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("medkd")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"
