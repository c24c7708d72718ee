"""Load a student for training: where the trainer wants it, in the number format its method asks
for.

In: a model's folder and how it is to be trained. Out: the model, on the processor until the trainer
places it.
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

ATTENTION = "sdpa_in_float32"


def load_student(
    folder: Path,
    name: str,
    method: Method,
    dtype: torch.dtype,
    device: str,
    local_rank: int = 0,
    trust_remote_code: bool = False,
) -> "PreTrainedModel":
    """Load for training; raises InputError where the method cannot be done here.

    All weights are trained in float32 and multiplied in `dtype`; frozen ones stand in `dtype`, or
    in 4 bits.
    """
    options: dict[str, Any] = {
        "trust_remote_code": trust_remote_code,
        "dtype": torch.float32 if method == "full" else dtype,
    }
    if device == "cuda" and find_spec("flash_attn") is not None and dtype == torch.bfloat16:
        options["attn_implementation"] = "flash_attention_2"
    if method == "qlora":
        options |= {
            "quantization_config": _make_four_bits(device, dtype),
            "device_map": {"": local_rank},
        }
    model = load_weights(folder, name, **options)
    config = cast(Any, model).config
    config.use_cache = False
    if device == "cpu" and config._attn_implementation == "sdpa":
        _register_attention()
        model.set_attn_implementation(ATTENTION)
    return model


def _register_attention() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(ATTENTION, _attend_in_float32)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def _attend_in_float32(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attend as transformers does with `sdpa`, but in float32: on a processor torch's kernel is
    faster in it than in bfloat16."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    with torch.autocast("cpu", enabled=False):
        attended, _ = sdpa_attention_forward(
            module, query.float(), key.float(), value.float(), attention_mask, **options
        )
    return attended.to(query.dtype), None


def _make_four_bits(device: str, dtype: torch.dtype) -> Any:
    if device != "cuda":
        raise InputError(
            "--method qlora: needs a GPU, and torch sees none here; train with --method lora"
        )
    if find_spec("bitsandbytes") is None:
        raise InputError("--method qlora: bitsandbytes is not installed; pip install bitsandbytes")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
