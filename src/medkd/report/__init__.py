"""The report of a run or of one step, from the files that its steps left."""

from medkd.report.run import write_report, write_run_report

__all__ = ["write_report", "write_run_report"]
