"""Writes the report of a whole run from the files that its steps left."""

from medkd.report.run import write_run_report

__all__ = ["write_run_report"]
