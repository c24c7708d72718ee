"""Load the libraries below quickly, and keep them quiet: what a user should see is said here.

Not done here: anything with them. Nothing is loaded when this module is.
"""

import gc
import logging
import sys
import warnings
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def importing() -> Generator[None]:
    """Import without looking for garbage meanwhile: modules hold none, and looking through them
    takes a fifth of the time.

    What was loaded is not looked through later either.
    """
    was_enabled, n_modules = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > n_modules:
            gc.freeze()
        if was_enabled:
            gc.enable()


def load_libraries() -> None:
    """Load torch and what every model of transformers needs, and silence their progress bars and
    notes."""
    with importing():
        import transformers
        import transformers.modeling_utils  # pyright: ignore[reportUnusedImport] - with it come torch and what every model takes
        from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    for library in ("trl", "peft", "accelerate", "datasets", "huggingface_hub"):
        logging.getLogger(library).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module=transformers.__name__)
    warnings.filterwarnings(
        "ignore", message="Could not find a config file in", module="peft"
    )  # it looks for the base by its name
