"""Keeping the rationales that deserve to be learnt from: the checks, the two that cost money, the
stage itself."""

from medkd.verify.stage import Config, check_rationale, find_failure, run, verify

__all__ = ["Config", "check_rationale", "find_failure", "run", "verify"]
