"""A model's folder, looked at before any library reads it: formats, bounds, sizes, single tensors.

In: a folder. Out: its JSON files as checked mappings, the shape of the model, tensors by name.
Raises InputError, one line each. Not done here: loading (`models.load`).
"""

import json
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, NoReturn, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medkd.core.errors import InputError
from medkd.core.jsonl import first_problem

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


_Id = Annotated[int, Field(ge=-1, lt=10_000_000)]
_Ids = _Id | list[_Id] | None
_Object = dict[str, Any] | None
_Number = int | float | None
_Names = list[str] | None


class _ModelFile(BaseModel):
    """The fields that libraries rely on, each bound far above any published model; others are left
    to them, null means unset."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)
    eos_token_id: _Ids = None
    pad_token_id: _Ids = None
    bos_token_id: _Ids = None


class _ConfigFile(_ModelFile):
    model_type: str | None = None
    architectures: _Names = None
    auto_map: _Object = None
    dtype: str | None = None
    torch_dtype: str | None = None
    tie_word_embeddings: bool | None = None
    quantization_config: _Object = None
    rope_parameters: _Object = None
    rope_scaling: _Object = None
    layer_types: _Names = None
    hidden_act: str | None = None
    rms_norm_eps: _Number = None
    vocab_size: int | None = Field(default=None, gt=0, le=10_000_000)
    hidden_size: int | None = Field(default=None, gt=0, le=1_000_000)
    intermediate_size: int | None = Field(default=None, gt=0, le=10_000_000)
    num_hidden_layers: int | None = Field(default=None, gt=0, le=2_000)
    num_attention_heads: int | None = Field(default=None, gt=0, le=10_000)
    num_key_value_heads: int | None = Field(default=None, gt=0, le=10_000)
    head_dim: int | None = Field(default=None, gt=0, le=100_000)
    max_position_embeddings: int | None = Field(default=None, gt=0, le=1 << 32)
    text_config: "_ConfigFile | None" = None


class _GenerationFile(_ModelFile):
    max_length: int | None = None
    max_new_tokens: int | None = None
    temperature: _Number = None
    top_p: _Number = None
    top_k: int | None = None
    repetition_penalty: _Number = None
    do_sample: bool | None = None


class _TokenizerConfigFile(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")
    tokenizer_class: str | None = None
    added_tokens_decoder: _Object = None
    chat_template: str | list[Any] | dict[str, Any] | None = None
    padding_side: str | None = None
    model_max_length: _Number = None
    extra_special_tokens: list[Any] | dict[str, Any] | None = None


class _TokenizerFile(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")
    model: dict[str, Any]


class _AdapterFile(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)
    peft_type: str | None = None
    base_model_name_or_path: str | None = None
    r: int | None = Field(default=None, gt=0, le=100_000)
    lora_alpha: _Number = None
    lora_dropout: _Number = None
    target_modules: str | list[str] | None = None
    modules_to_save: _Names = None
    rank_pattern: _Object = None
    alpha_pattern: _Object = None
    bias: str | None = None
    trainable_token_indices: list[Any] | dict[str, Any] | None = None


_FILES: dict[str, type[BaseModel]] = {
    "config.json": _ConfigFile,
    "adapter_config.json": _AdapterFile,
    "generation_config.json": _GenerationFile,
    "tokenizer_config.json": _TokenizerConfigFile,
    "tokenizer.json": _TokenizerFile,
    "special_tokens_map.json": BaseModel,
    "added_tokens.json": BaseModel,
}
"""What is read of a model's or an adapter's folder, and in which form."""


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON object, or None where there is no such file; raises InputError where it is
    something else, or beyond the bounds."""
    limit = MAX_TOKENIZER_BYTES if path.name == "tokenizer.json" else MAX_JSON_BYTES
    try:
        if path.exists() and not path.is_file():
            raise InputError("{}: is no regular file; fetch or make it again", path)
        if path.stat().st_size > limit:
            raise InputError("{}: is larger than {} MiB; fetch or make it again", path, limit >> 20)
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError("{}: cannot be read as JSON; fetch or make it again", path) from error
    if not isinstance(content, dict):
        raise InputError("{}: is no JSON object; fetch or make it again", path)
    return cast(dict[str, Any], content)


def read_model_file(path: Path) -> dict[str, Any] | None:
    """Read a JSON file that libraries read too, the types and sizes of its fields checked; None
    where there is none."""
    content = read_json(path)
    if content is not None:
        try:
            _FILES[path.name].model_validate(content)
        except (ValidationError, RecursionError) as error:
            says = first_problem(error) if isinstance(error, ValidationError) else error
            raise InputError(
                "{}: {}; fetch the file again or mend it", path, explain(says)
            ) from error
    return content


def check_folder_files(folder: Path) -> None:
    """Check every file of a model's or an adapter's folder that a library will read."""
    for name in _FILES:
        read_model_file(folder / name)
    templates = [folder / "chat_template.jinja", *folder.glob("additional_chat_templates/*.jinja")]
    for path in (*templates, *folder.glob("*.safetensors")):
        if path.exists() and not path.is_file():
            raise InputError("{}: is no regular file; fetch or make it again", path)
    for path in templates:
        if path.exists() and path.stat().st_size > MAX_TEMPLATE_BYTES:
            raise InputError("{}: is larger than 1 MiB; choose another model, or mend it", path)
    index = read_json(folder / "model.safetensors.index.json") or {}
    weight_map = index.get("weight_map", {})
    for holder in cast(Any, weight_map).values() if isinstance(weight_map, dict) else [None]:
        if not isinstance(holder, str) or Path(holder).name != holder:
            raise InputError(
                "{}: model.safetensors.index.json names a file outside; fetch it again", folder
            )
        if not (folder / holder).is_file():
            raise InputError("{}: {} is missing; fetch the model again", folder, explain(holder))


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
                "{}: its weights cannot be read ({}); fetch the model again", path, explain(error)
            ) from error
    return tensors


def find_number_format(folder: Path) -> str:
    """Find in which format a model is published: as its config says, or else as most of its weights
    stand."""
    config = read_model_file(folder / "config.json") or {}
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


def read_model_shape(folder: Path) -> ModelShape:
    """Build a model of a folder's config without weights, and measure it.

    Raises InputError for an unknown kind, and for a tensor that the folder lacks.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        with torch.device("meta"):
            model = cast(Any, AutoModelForCausalLM.from_config(config, trust_remote_code=False))
    except Exception as error:
        raise InputError(
            "{}: its config.json describes no model known here ({}); check config.json",
            folder,
            explain(error),
        ) from error
    _check_tensors(folder, model)
    text = model.config.get_text_config()
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
                "{}: {} has the shape {}, its config.json wants {}; fetch the model again",
                folder,
                name,
                entry.get("shape"),
                list(tensor.shape),
            )


def refuse_missing(folder: object, names: Sequence[str]) -> NoReturn:
    """Raise InputError for tensors that would be filled at random."""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    raise InputError(
        "{}: its weights lack {}{}, which would be filled at random; fetch the model again",
        folder,
        names[0],
        more,
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
            "{}: its weights cannot be read ({}); fetch the model again", folder, explain(error)
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
            "{}: its generation config cannot be read ({}); mend or remove it",
            folder,
            explain(error),
        ) from error
