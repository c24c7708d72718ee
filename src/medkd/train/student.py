"""Load a student for training: where the trainer wants it, in the number format its method asks for.

In: a model's folder and how it is to be trained. Out: the model, on the processor until the trainer places it.
Not done here: loading for asking (`models.load`). Imports torch: import it inside functions only.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from medkd.core.errors import InputError
from medkd.models.load import load_weights
from medkd.train.plan import Method

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_student(
    folder: Path, name: str, method: Method, dtype: torch.dtype, device: str, local_rank: int = 0, trust_remote_code: bool = False
) -> "PreTrainedModel":
    """Load for training; raises InputError where the method cannot be done here.

    All weights are trained in float32 and multiplied in `dtype`; frozen ones stand in `dtype`, or in 4 bits.
    """
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, "dtype": torch.float32 if method == "full" else dtype}
    if device == "cuda" and find_spec("flash_attn") is not None and dtype == torch.bfloat16:
        options["attn_implementation"] = "flash_attention_2"
    if method == "qlora":
        options |= {"quantization_config": _make_four_bits(device, dtype), "device_map": {"": local_rank}}
    model = load_weights(folder, name, **options)
    cast(Any, model).config.use_cache = False
    return model


def _make_four_bits(device: str, dtype: torch.dtype) -> Any:
    if device != "cuda":
        raise InputError("--method qlora: needs a GPU, and torch sees none here; train with --method lora")
    if find_spec("bitsandbytes") is None:
        raise InputError("--method qlora: bitsandbytes is not installed; pip install bitsandbytes")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype)
