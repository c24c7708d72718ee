"""Keeps the rationales that deserve to be learnt from."""

from medkd.verify.stage import Config, check_rationale, find_failure, run, verify

__all__ = ["Config", "check_rationale", "find_failure", "run", "verify"]
