"""A model's folder, looked at before any library reads it: formats, bounds, sizes, single tensors.

In: a folder. Out: its JSON files as checked mappings, the shape of the model, tensors by name.
Raises InputError, one line each. Not done here: loading (`models.load`).
"""

import json
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, cast

from medkd.core.errors import InputError

if TYPE_CHECKING:
    import torch
    from transformers import GenerationConfig

MAX_JSON_BYTES = 64 << 20
"""Of any JSON file of a model but its tokenizer."""
MAX_TOKENIZER_BYTES = 512 << 20
MAX_TEMPLATE_BYTES = 1 << 20
MAX_HEADER_BYTES = 100 << 20
"""The limit that safetensors itself sets."""
NUMBER_FORMATS = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}
"""Names in safetensors and in torch."""
_MAX_SIZES = {
    "vocab_size": 10_000_000,
    "hidden_size": 1_000_000,
    "intermediate_size": 10_000_000,
    "num_hidden_layers": 2_000,
    "num_attention_heads": 10_000,
    "num_key_value_heads": 10_000,
    "head_dim": 100_000,
    "max_position_embeddings": 1 << 32,
}
"""Sizes that a config may give, each far above any published model."""

_Check = Callable[[Any], bool]


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(_is_text(each) for each in cast(list[Any], value))


def _are_ids(value: Any) -> bool:
    ids = cast(list[Any], value) if isinstance(value, list) else [value]
    return all(_is_int(each) and -1 <= each < _MAX_SIZES["vocab_size"] for each in ids)


_IDS: dict[str, _Check] = dict.fromkeys(("eos_token_id", "pad_token_id", "bos_token_id"), _are_ids)
_CONFIG: dict[str, _Check] = {
    **_IDS,
    "model_type": _is_text,
    "architectures": _are_texts,
    "auto_map": _is_object,
    "dtype": _is_text,
    "torch_dtype": _is_text,
    "tie_word_embeddings": _is_bool,
    "text_config": _is_object,
    "rope_parameters": _is_object,
    "rope_scaling": _is_object,
    "rms_norm_eps": _is_number,
    "layer_norm_eps": _is_number,
    "rope_theta": _is_number,
    "layer_types": _are_texts,
    "hidden_act": _is_text,
    "quantization_config": _is_object,
}
_GENERATION: dict[str, _Check] = {
    **_IDS,
    "max_length": _is_int,
    "max_new_tokens": _is_int,
    "temperature": _is_number,
    "top_p": _is_number,
    "top_k": _is_int,
    "repetition_penalty": _is_number,
    "do_sample": _is_bool,
}
_TOKENIZER: dict[str, _Check] = {
    "tokenizer_class": _is_text,
    "added_tokens_decoder": _is_object,
    "chat_template": lambda value: _is_text(value) or isinstance(value, list | dict),
    "padding_side": _is_text,
    "model_max_length": lambda value: isinstance(value, int | float),
    "extra_special_tokens": lambda value: isinstance(value, list | dict),
}
_ADAPTER: dict[str, _Check] = {
    "peft_type": _is_text,
    "base_model_name_or_path": _is_text,
    "r": lambda value: _is_int(value) and 0 < value <= 100_000,
    "lora_alpha": _is_number,
    "lora_dropout": _is_number,
    "target_modules": lambda value: _is_text(value) or _are_texts(value),
    "modules_to_save": _are_texts,
    "rank_pattern": _is_object,
    "alpha_pattern": _is_object,
    "bias": _is_text,
    "trainable_token_indices": lambda value: isinstance(value, list | dict),
}


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON object, or None where there is no such file; raises InputError where it is
    something else, or beyond the bounds."""
    limit = MAX_TOKENIZER_BYTES if path.name == "tokenizer.json" else MAX_JSON_BYTES
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: is no regular file; fetch or make it again")
        if path.stat().st_size > limit:
            raise InputError(f"{path}: is larger than {limit >> 20} MiB; fetch or make it again")
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON; fetch or make it again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: is no JSON object; fetch or make it again")
    return cast(dict[str, Any], content)


def check_fields(path: Path, content: Mapping[str, Any], checks: Mapping[str, _Check]) -> None:
    """Raise InputError for the first field of another type than it must have; null means unset."""
    for name, check in checks.items():
        value = content.get(name)
        if value is not None and not check(value):
            shown = explain(repr(value))[:60]
            raise InputError(f"{path}: {name} cannot be {shown}; fetch the file again or mend it")


def read_config(folder: Path) -> dict[str, Any] | None:
    """Read a model's config.json with its types and sizes checked; None where there is none."""
    path = folder / "config.json"
    config = read_json(path)
    if config is None:
        return None
    check_fields(path, config, _CONFIG)
    text = cast(dict[str, Any], config.get("text_config") or {})
    for part in (config, text):
        check_fields(path, part, _CONFIG)
        for name, most in _MAX_SIZES.items():
            value = part.get(name)
            if value is not None and not (_is_int(value) and 0 < value <= most):
                raise InputError(
                    f"{path}: {name} cannot be {explain(repr(value))[:60]}; fetch the file again or mend it"
                )
    return config


def read_adapter_config(adapter: Path) -> dict[str, Any] | None:
    """Read an adapter's config with its types checked; None where there is none."""
    path = adapter / "adapter_config.json"
    config = read_json(path)
    if config is not None:
        check_fields(path, config, _ADAPTER)
    return config


def check_folder_files(folder: Path) -> None:
    """Check every other file of a model or adapter folder that a library will read."""
    for name, checks in (
        ("generation_config.json", _GENERATION),
        ("tokenizer_config.json", _TOKENIZER),
        ("tokenizer.json", {"model": _is_object}),
        ("special_tokens_map.json", {}),
        ("added_tokens.json", {}),
    ):
        content = read_json(folder / name)
        if content is not None:
            check_fields(folder / name, content, checks)
    templates = [folder / "chat_template.jinja", *folder.glob("additional_chat_templates/*.jinja")]
    for path in (*templates, *folder.glob("*.safetensors")):
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: is no regular file; fetch or make it again")
    for path in templates:
        if path.exists() and path.stat().st_size > MAX_TEMPLATE_BYTES:
            raise InputError(f"{path}: is larger than 1 MiB; choose another model, or mend it")
    index = read_json(folder / "model.safetensors.index.json")
    for holder in (index or {}).get("weight_map", {}).values() if index else ():
        if not isinstance(holder, str) or Path(holder).name != holder:
            raise InputError(
                f"{folder}: model.safetensors.index.json names a file outside; fetch it again"
            )
        if not (folder / holder).is_file():
            raise InputError(f"{folder}: {explain(holder)} is missing; fetch the model again")


def read_headers(folder: Path) -> dict[str, dict[str, Any]]:
    """Read the dtype and shape of every tensor in a folder's safetensors files."""
    tensors: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                if length > min(MAX_HEADER_BYTES, path.stat().st_size):
                    raise ValueError("its header is longer than the file")
                header: dict[str, Any] = json.loads(file.read(length))
            header.pop("__metadata__", None)
            if not all(
                isinstance(each["shape"], list) and each["dtype"] for each in header.values()
            ):
                raise ValueError("a tensor without a dtype or a shape")
            tensors |= header
        except Exception as error:
            raise InputError(
                f"{path}: its weights cannot be read ({explain(error)}); fetch the model again"
            ) from error
    return tensors


def find_number_format(folder: Path) -> str:
    """Find in which format a model is published: as its config says, or else as most of its weights
    stand."""
    config = read_config(folder) or {}
    text = cast(dict[str, Any], config.get("text_config") or {})
    for part in (config, text):
        said = str(part.get("dtype") or part.get("torch_dtype") or "").removeprefix("torch.")
        if said in NUMBER_FORMATS.values():
            return said
    sizes: dict[str, int] = {}
    for entry in read_headers(folder).values():
        begin, end = entry.get("data_offsets", (0, 0))
        kind = str(entry.get("dtype"))
        sizes[kind] = sizes.get(kind, 0) + end - begin
    return NUMBER_FORMATS.get(max(sizes, key=lambda kind: sizes[kind], default="F32"), "float32")


def explain(error: object) -> str:
    r"""Shorten an error, or any text, to one printable line.

    >>> explain(ValueError("a\x1b[31m\nb"))
    'a [31m'
    """
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else type(error).__name__
    return "".join(c if c.isprintable() else " " for c in text)[:160]


class ModelShape(NamedTuple):
    """Sizes of a model: what memory and time follow from."""

    n_parameters: int
    """Tied embeddings counted once."""
    linears: list[tuple[int, int]]
    """Inputs and outputs of every linear layer but the head: what LoRA is put on."""
    n_layers: int
    hidden_size: int
    vocabulary: int
    input_name: str
    """Of the embeddings in the weights."""
    output_name: str
    """Of the head in the weights; the same where the two are tied."""

    @property
    def n_linear(self) -> int:
        return sum(inputs * outputs for inputs, outputs in self.linears)

    def count_lora(self, rank: int) -> int:
        """Count the parameters of an adapter on all linear layers."""
        return sum(rank * (inputs + outputs) for inputs, outputs in self.linears)


def read_model_shape(folder: Path, trust_remote_code: bool = False) -> ModelShape:
    """Build a model of a folder's config without weights, and measure it.

    Raises InputError for an unknown kind, and for a tensor that the folder lacks.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(
            folder, trust_remote_code=trust_remote_code, local_files_only=True
        )
        with torch.device("meta"):
            model = cast(
                Any, AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
            )
    except Exception as error:
        raise InputError(
            f"{folder}: its config.json describes no model known here ({explain(error)}); check config.json"
        ) from error
    _check_tensors(folder, model)
    text = config.get_text_config()
    head = model.get_output_embeddings()
    linears = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    names = {id(tensor): name for name, tensor in model.named_parameters(remove_duplicate=False)}
    input_name = next(
        name
        for name, tensor in model.named_parameters()
        if tensor is model.get_input_embeddings().weight
    )
    return ModelShape(
        n_parameters=sum(tensor.numel() for tensor in model.parameters()),
        linears=[(m.in_features, m.out_features) for m in linears],
        n_layers=int(text.num_hidden_layers),
        hidden_size=int(text.hidden_size),
        vocabulary=int(text.vocab_size),
        input_name=input_name,
        output_name=input_name
        if head is None or text.tie_word_embeddings
        else names[id(head.weight)],
    )


def _check_tensors(folder: Path, model: Any) -> None:
    """Raise InputError for a tensor that no file holds, or holds in another shape.

    Families whose tensors are renamed or fused in loading are checked when they are loaded.
    """
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    if get_checkpoint_conversion_mapping(model.config.model_type):
        return
    headers = read_headers(folder)
    prefix = f"{model.base_model_prefix}."
    tied = set(model.all_tied_weights_keys)
    ignored = model._keys_to_ignore_on_load_missing or ()
    for name, tensor in model.state_dict().items():
        entry = headers.get(name) or headers.get(name.removeprefix(prefix))
        if entry is None:
            if name in tied or any(re.search(pattern, name) for pattern in ignored):
                continue
            refuse_missing(folder, [name])
        elif list(entry.get("shape", ())) != list(tensor.shape):
            raise InputError(
                f"{folder}: {name} has the shape {entry.get('shape')}, its config.json wants "
                f"{list(tensor.shape)}; fetch the model again"
            )


def refuse_missing(folder: object, names: Sequence[str]) -> NoReturn:
    """Raise InputError for tensors that would be filled at random."""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    raise InputError(
        f"{folder}: its weights lack {names[0]}{more}, which would be filled at random; fetch the model again"
    )


def read_tensor(folder: Path, name: str) -> "torch.Tensor | None":
    """Read one tensor of a model's weights; None where no file of the folder holds it."""
    from safetensors import SafetensorError, safe_open

    index = read_json(folder / "model.safetensors.index.json")
    files = sorted(folder.glob("*.safetensors"))
    if index is not None:
        holder = cast(dict[str, str], index.get("weight_map", {})).get(name)
        files = [folder / holder] if holder else []
    try:
        for path in files:
            with safe_open(path, framework="pt") as weights:
                if name in weights.keys():  # noqa: SIM118 - it is no mapping
                    return weights.get_tensor(name)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(
            f"{folder}: its weights cannot be read ({explain(error)}); fetch the model again"
        ) from error
    return None


def read_generation_config(folder: Path) -> "GenerationConfig":
    """Read how a model says its generation ends; where it has no such file, its config says."""
    from transformers import AutoConfig, GenerationConfig

    try:
        if (folder / "generation_config.json").exists():
            return GenerationConfig.from_pretrained(folder, local_files_only=True)
        return GenerationConfig.from_model_config(
            AutoConfig.from_pretrained(folder, local_files_only=True)
        )
    except Exception as error:
        raise InputError(
            f"{folder}: its generation config cannot be read ({explain(error)}); mend or remove it"
        ) from error
