"""Keep the rationales that deserve to be learnt from: the stage, its core, the checks by a model."""

from medkd.verify.stage import Config, check_rationale, find_failure, run, verify

__all__ = ["Config", "check_rationale", "find_failure", "run", "verify"]
