"""Write a model folder as one GGUF file, tokenizer and chat template inside.

In: an exported folder of a Qwen2, Qwen3 or Llama shape with a byte-level BPE tokenizer. Out: the
file, in f16, bf16, q8_0 or q4_0. Not done here: K-quants, which llama.cpp's own command makes;
proving the file (`export.proof`).
"""

import math
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

from medkd.core.errors import InputError
from medkd.models.chat_template import find_end_of_turn
from medkd.models.inspect import read_headers, read_json, read_tensor

if TYPE_CHECKING:
    import gguf
    import numpy as np
    from transformers import PreTrainedTokenizerBase

GgufType = Literal["f16", "bf16", "q8_0", "q4_0"]

_ARCHITECTURES = {"qwen2": "QWEN2", "qwen3": "QWEN3", "llama": "LLAMA"}
"""`model_type` of a config, and the name of its architecture in the package `gguf`."""
_SPLITS = {
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+": "qwen2",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+": "llama-bpe",
}
"""Pattern by which a tokenizer cuts a text before it merges bytes, and llama.cpp's name for it."""


class _Tensor(NamedTuple):
    """A tensor of the folder and how it is written."""

    name: str
    target: str
    shape: tuple[int, ...]
    kind: "gguf.GGMLQuantizationType"


def write_gguf(
    folder: Path, path: Path, kind: GgufType, tokenizer: "PreTrainedTokenizerBase"
) -> None:
    """Write the folder's model as a GGUF file, one tensor in memory at a time; raises InputError as
    `check_writable` does."""
    import gguf as library

    check_writable(folder, path, kind)
    pre = _find_split(folder)
    if pre is None:
        raise _refuse(folder, "the way its tokenizer cuts texts", path, kind)
    config = read_json(folder / "config.json") or {}
    architecture = library.MODEL_ARCH[_ARCHITECTURES[config["model_type"]]]
    tensors = _plan(folder, config, architecture, kind)
    writer: Any = library.GGUFWriter(None, library.MODEL_ARCH_NAMES[architecture])
    _add_shape(writer, config, _read_rope(config))
    writer.add_file_type(library.LlamaFileType[f"MOSTLY_{kind.upper()}"])
    writer.add_quantization_version(library.GGML_QUANT_VERSION)
    writer.add_sampling_temp(0.0)
    writer.add_sampling_penalty_repeat(1.0)
    _add_tokenizer(writer, folder, tokenizer, pre, int(config["vocab_size"]))
    for tensor in tensors:
        shape = library.quant_shape_to_byte_shape(tensor.shape, tensor.kind)
        n_bytes = _count_bytes(tensor)
        is_bytes = tensor.kind.name not in ("F32", "F16")
        writer.add_tensor_info(
            tensor.target,
            shape if is_bytes else tensor.shape,
            _dtype("uint8" if is_bytes else "float32" if tensor.kind.name == "F32" else "float16"),
            n_bytes,
            tensor.kind,
        )
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for values in _read_tensors(folder, tensors, config):
        writer.write_tensor_data(values)
    writer.close()


def check_writable(folder: Path, path: Path, kind: GgufType) -> None:
    """Raise InputError where the packages of the extra are missing, or where the model's
    architecture or positions are none that is written here."""
    if not all(map(find_spec, ("gguf", "xllamacpp"))):
        raise InputError("--gguf takes the package gguf: pip install 'medkd[gguf]'")
    config = read_json(folder / "config.json") or {}
    if str(config.get("model_type")) not in _ARCHITECTURES:
        raise _refuse(folder, f"its architecture {config.get('model_type')!r}", path, kind)
    if (rope_type := _read_rope(config).get("rope_type", "default")) != "default":
        raise _refuse(folder, f"its scaled positions ({rope_type})", path, kind)


def _read_rope(config: Mapping[str, Any]) -> dict[str, Any]:
    return config.get("rope_parameters") or config.get("rope_scaling") or {}


def _dtype(name: str) -> "np.dtype[Any]":
    import numpy as np

    return np.dtype(name)


def _refuse(folder: Path, what: str, path: Path, kind: str) -> InputError:
    outtype = "f16" if kind == "q4_0" else kind  # the script makes no q4_0
    return InputError(
        "{0}: {1} is not written here; leave --gguf out, then llama.cpp's own script does it: "
        "python convert_hf_to_gguf.py {2} --outtype {3} --outfile {2}/model-{3}.gguf",
        folder,
        what,
        path.parent,
        outtype,
    )


def _find_split(folder: Path) -> str | None:
    content = read_json(folder / "tokenizer.json") or {}
    if (content.get("model") or {}).get("type") != "BPE":
        return None
    parts = (content.get("pre_tokenizer") or {}).get("pretokenizers") or []
    patterns = [(part.get("pattern") or {}).get("Regex") for part in parts]
    return next((_SPLITS[pattern] for pattern in patterns if pattern in _SPLITS), None)


def _plan(
    folder: Path, config: Mapping[str, Any], architecture: "gguf.MODEL_ARCH", kind: GgufType
) -> list[_Tensor]:
    """Name every tensor and choose its type: vectors in f32, the embedding and the head of a q4_0
    file in q8_0, rows that no block fits in f16."""
    import gguf

    names = gguf.get_tensor_name_map(architecture, int(config["num_hidden_layers"]))
    wanted = gguf.GGMLQuantizationType[kind.upper()]
    tensors: list[_Tensor] = []
    for name, entry in read_headers(folder).items():
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise InputError("{}: its tensor {} has no place in a GGUF file", folder, name)
        if name == "lm_head.weight" and config.get("tie_word_embeddings"):
            continue
        shape = tuple(int(n) for n in entry["shape"])
        chosen = wanted
        if wanted is gguf.GGMLQuantizationType.Q4_0 and target.split(".")[0] in (
            "token_embd",
            "output",
        ):
            chosen = gguf.GGMLQuantizationType.Q8_0
        block, _ = gguf.GGML_QUANT_SIZES[chosen]
        if shape[-1] % block:
            chosen = gguf.GGMLQuantizationType.F16
        if len(shape) == 1:
            chosen = gguf.GGMLQuantizationType.F32
        tensors.append(_Tensor(name, target, shape, chosen))
    return tensors


def _count_bytes(tensor: _Tensor) -> int:
    import gguf

    block, size = gguf.GGML_QUANT_SIZES[tensor.kind]
    return math.prod(tensor.shape) // block * size


def _read_tensors(
    folder: Path, tensors: list[_Tensor], config: Mapping[str, Any]
) -> Iterator["np.ndarray[Any, Any]"]:
    """Read and quantise each tensor in turn."""
    import gguf
    import torch

    heads = int(config["num_attention_heads"])
    n_heads = {"q_proj": heads, "k_proj": int(config.get("num_key_value_heads") or heads)}
    for tensor in tensors:
        read = read_tensor(folder, tensor.name)
        if read is None:
            raise InputError("{}: its tensor {} went away while it was read", folder, tensor.name)
        values = read.to(torch.float32).numpy()
        part = tensor.name.split(".")[-2]
        if config["model_type"] == "llama" and part in n_heads:
            values = _interleave(values, n_heads[part])
        yield gguf.quantize(values, tensor.kind)


def _interleave(values: "np.ndarray[Any, Any]", n_heads: int) -> "np.ndarray[Any, Any]":
    """Bring the rows of a projection from halves to pairs: llama.cpp turns neighbouring rows
    together where transformers turns the two halves of a head."""
    shape = values.shape
    halves = values.reshape(n_heads, 2, shape[0] // n_heads // 2, *shape[1:])
    return halves.swapaxes(1, 2).reshape(shape)


def _add_shape(writer: Any, config: Mapping[str, Any], rope: Mapping[str, Any]) -> None:
    heads = int(config["num_attention_heads"])
    width = int(config.get("head_dim") or config["hidden_size"] // heads)
    writer.add_type("model")
    writer.add_context_length(int(config["max_position_embeddings"]))
    writer.add_embedding_length(int(config["hidden_size"]))
    writer.add_block_count(int(config["num_hidden_layers"]))
    writer.add_feed_forward_length(int(config["intermediate_size"]))
    writer.add_head_count(heads)
    writer.add_head_count_kv(int(config.get("num_key_value_heads") or heads))
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    theta = rope.get("rope_theta") or config.get("rope_theta") or 10_000.0
    writer.add_rope_freq_base(float(theta))
    writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
    writer.add_vocab_size(int(config["vocab_size"]))


def _add_tokenizer(
    writer: Any, folder: Path, tokenizer: "PreTrainedTokenizerBase", pre: str, n_rows: int
) -> None:
    """Add tokens, merges, stop tokens and the chat template; rows without a token are padding."""
    import gguf

    content = read_json(folder / "tokenizer.json") or {}
    texts = {at: token for token, at in content["model"]["vocab"].items()}
    added = {entry["id"]: entry for entry in content.get("added_tokens", [])}
    tokens: list[str] = []
    types: list[int] = []
    for at in range(n_rows):
        if at in added:
            tokens.append(str(added[at]["content"]))
            kind = gguf.TokenType.CONTROL if added[at]["special"] else gguf.TokenType.USER_DEFINED
        elif at in texts:
            tokens.append(texts[at])
            kind = gguf.TokenType.NORMAL
        else:
            tokens.append(f"[PAD{at}]")
            kind = gguf.TokenType.UNUSED
        types.append(int(kind))
    merges = [
        each if isinstance(each, str) else " ".join(each) for each in content["model"]["merges"]
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    end = find_end_of_turn(tokenizer)
    writer.add_eos_token_id(end)
    writer.add_eot_token_id(end)
    if isinstance(tokenizer.pad_token_id, int):
        writer.add_pad_token_id(tokenizer.pad_token_id)
    if isinstance(tokenizer.bos_token_id, int):
        writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template(cast(str, tokenizer.chat_template))
