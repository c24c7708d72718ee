"""Writes the report of a whole run from the files that its steps left."""

from medkd.report.run import write_report

__all__ = ["write_report"]
