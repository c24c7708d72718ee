"""Find a model by name and load it: safetensors only, and never its own code.

In: the name of a shipped student, a folder or a hub's name, and an adapter. Out: a model and its
tokenizer. Not done here: training, quantised weights, generation.
"""

import gc
import logging
import os
import re
import sys
import warnings
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

from medkd.core.errors import InputError
from medkd.core.jsonl import hash_path
from medkd.core.records import Language
from medkd.models.chat_template import find_templates
from medkd.models.inspect import (
    check_folder_files,
    explain,
    read_headers,
    read_json,
    read_model_file,
    refuse_missing,
)

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SHIPPED_STUDENTS: dict[Language, str] = {"zh": "medkd:tiny", "en": "medkd:tiny-en"}
"""The student that reads each language."""
TINY = SHIPPED_STUDENTS["zh"]
Hub = Literal["huggingface", "modelscope"]
Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]

WHOLE_MODEL = "model"
"""Where `train` leaves a model all of whose weights it trained; an adapter stands in `adapter`."""
_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_WANTED_FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "LICENSE*", "README.md"]


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


class LoadedModel(NamedTuple):
    """A model ready for use, with the tokenizer and chat template that belong to it."""

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"


def shipped_dir(name: str = TINY) -> Path:
    """Return the folder of a shipped student."""
    return Path(__file__).parent / name.removeprefix("medkd:")


def is_shipped(name: str) -> bool:
    """Tell whether a name is that of a shipped student."""
    return name in SHIPPED_STUDENTS.values()


def find_local(name: str) -> Path:
    """Return the folder that a name means on this machine, whether it is there or not."""
    return shipped_dir(name) if is_shipped(name) else Path(name).expanduser()


def resolve_model(name: str, hub: Hub = "huggingface") -> Path:
    """Find the folder of a model, downloading it where it is only named; raises InputError where it
    cannot be used.

    For a directory of `train` that holds a whole model, that model is meant.
    """
    if is_shipped(name):
        return _check_folder(shipped_dir(name), name)
    if not name.isprintable():
        raise InputError("{!a}: no name of a model; it must be printable UTF-8 text", name)
    path = Path(name).expanduser()
    if path.is_dir():
        is_run = (
            not (path / "config.json").exists() and (path / WHOLE_MODEL / "config.json").exists()
        )
        return _check_folder(path / WHOLE_MODEL if is_run else path, name)
    if path.exists():
        raise InputError("{}: is a file; --model takes a model's folder or its name on a hub", name)
    if not _HUB_NAME.fullmatch(name):
        raise InputError(
            "{}: no such folder, and no name of the form owner/model; check --model", name
        )
    return _check_folder(_download(name, hub), name)


def _check_folder(path: Path, name: str) -> Path:
    config = read_model_file(path / "config.json")
    if config is None:
        what = (
            "holds an adapter, no whole model; give it as --adapter"
            if (path / "adapter_config.json").exists()
            else "no config.json; is it a model?"
        )
        raise InputError("{}: {}", name, what)
    check_folder_files(path)
    if not any(path.glob("*.safetensors")):
        pickled = [*path.glob("*.bin"), *path.glob("*.pt"), *path.glob("*.pth")]
        found = (
            f"its weights are pickled ({pickled[0].name}), which can run code"
            if pickled
            else "it holds no weights"
        )
        raise InputError("{}: {}; convert it to safetensors or choose another", name, found)
    if "auto_map" in config and not _is_known(config):
        raise InputError(
            "{}: needs code of its own (auto_map in config.json), which is never run; "
            "choose a model that transformers knows",
            name,
        )
    return path


def _is_known(config: dict[str, Any]) -> bool:
    """Tell whether transformers has code of its own for a model."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES  # pyright: ignore[reportPrivateImportUsage]

    return config.get("model_type") in CONFIG_MAPPING_NAMES


def _download(name: str, hub: Hub) -> Path:
    if hub == "modelscope":
        return _download_from_modelscope(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        return Path(snapshot_download(name, allow_patterns=_WANTED_FILES))
    except GatedRepoError as error:
        raise InputError(
            "{}: its owner asks for consent first; accept the terms on its page and set HF_TOKEN",
            name,
        ) from error
    except RepositoryNotFoundError as error:
        raise InputError(
            "{}: the hub knows no such model; check the name, or try --hub modelscope", name
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise InputError(
            "{}: cannot be fetched ({}); check the network or HF_ENDPOINT, or give a local folder",
            name,
            explain(error),
        ) from error


def _download_from_modelscope(name: str) -> Path:
    try:
        from modelscope import snapshot_download  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(
            "{}: the modelscope package is missing; pip install modelscope", name
        ) from error
    try:
        return Path(str(snapshot_download(name, allow_patterns=_WANTED_FILES)))
    except Exception as error:  # its client raises many kinds, without a common one of its own
        raise InputError(
            "{}: cannot be fetched from ModelScope ({}); check the name and the network",
            name,
            explain(error),
        ) from error


def choose_device(device: Device = "auto") -> str:
    """Choose where to compute; raises InputError for a GPU that is not there."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "--device cuda: torch sees no GPU here; use --device cpu, or install a CUDA "
            "build of torch"
        )
    return device


def choose_dtype(dtype: Dtype, device: str) -> "torch.dtype":
    """Choose the number format; `auto` takes bfloat16 only where the processor computes in it,
    elsewhere it is many times slower."""
    import torch

    if dtype != "auto":
        return cast(torch.dtype, getattr(torch, dtype))
    if device == "cuda":
        return (
            torch.bfloat16
            if torch.cuda.is_bf16_supported(including_emulation=False)
            else torch.float32
        )
    return torch.bfloat16 if has_bfloat16() else torch.float32


def has_bfloat16() -> bool:
    """Tell whether this machine's processor computes in bfloat16."""
    with suppress(OSError):
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split()
        return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags)
    return False


def load_model(
    name: str,
    adapter: Path | None = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    hub: Hub = "huggingface",
) -> LoadedModel:
    """Load a model, merging an adapter into it; tokenizer and template saved beside the adapter
    win.

    Raises InputError where the model or the adapter cannot be used, or do not belong together.
    """
    folder = resolve_model(name, hub)
    if adapter is not None:
        check_base(adapter, name)
    place = choose_device(device)
    model = load_weights(
        folder,
        name,
        dtype=choose_dtype(dtype, place),
    )
    if adapter is not None:
        model = _merge_adapter(model, adapter, name)
    placed = cast("PreTrainedModel", cast(Any, model).to(place).eval())
    return LoadedModel(placed, load_tokenizer(folder, adapter))


def load_weights(folder: Path, name: str, **options: Any) -> "PreTrainedModel":
    """Load a folder's weights with options of `from_pretrained`; raises InputError where they
    cannot be read."""
    load_libraries()
    from transformers import AutoModelForCausalLM

    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
    except Exception as error:
        if "out of memory" in str(error) or "allocate memory" in str(error):
            raise InputError(
                "{}: does not fit into memory; choose a smaller model, or train with "
                "--method qlora",
                name,
            ) from error
        raise InputError(
            "{}: cannot be loaded ({}); is the folder complete?", name, explain(error)
        ) from error
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        refuse_missing(name, missing)
    _drop_sampling(model)
    return model


def _drop_sampling(model: Any) -> None:
    """Leave only the special tokens in a model's generation config: how tokens are drawn is said
    by whoever asks, and a student is served as it was measured, greedily and without a penalty."""
    from transformers import GenerationConfig

    own = model.generation_config
    ids = {key: getattr(own, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config = GenerationConfig(do_sample=False, **ids)


def load_tokenizer(folder: Path, adapter: Path | None = None) -> "PreTrainedTokenizerBase":
    """Load the tokenizer beside the adapter, or else the model's own.

    An adapter saved without its chat template is served under the one it was trained for. Raises
    InputError where a token has no row in the embedding, or where the adapter's are other tokens.
    """
    has_own = adapter is not None and (adapter / "tokenizer_config.json").exists()
    source = adapter if adapter is not None and has_own else folder
    tokenizer = _read_tokenizer(source)
    _check_vocabulary(tokenizer, folder, source)
    if adapter is None:
        return tokenizer
    if has_own:
        base = _read_tokenizer(folder).get_vocab()
        ids = tokenizer.get_vocab()
        strange = next((token for token, at in base.items() if ids.get(token) != at), None)
        if strange is not None:
            raise InputError(
                "{}: has another vocabulary than {} (at {}); give the model it was trained on",
                adapter,
                folder,
                explain(strange),
            )
    if not has_own or not tokenizer.chat_template:
        lineage = read_json(adapter / "lineage.json") or {}
        templates = find_templates(tokenizer)
        is_plain = lineage.get("target") == "answers"
        tokenizer.chat_template = templates.plain if is_plain else templates.thinking
    return tokenizer


def _read_tokenizer(source: Path) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:
        raise InputError(
            "{}: its tokenizer cannot be loaded ({}); is the folder complete?",
            source,
            explain(error),
        ) from error
    return cast("PreTrainedTokenizerBase", tokenizer)


def _check_vocabulary(tokenizer: "PreTrainedTokenizerBase", folder: Path, source: Path) -> None:
    """Raise InputError for a token whose id lies past the embedding."""
    config = read_model_file(folder / "config.json") or {}
    n_rows = config.get("vocab_size") or (config.get("text_config") or {}).get("vocab_size")
    vocabulary = tokenizer.get_vocab()
    if not n_rows or not vocabulary:
        return
    token = max(vocabulary, key=lambda each: vocabulary[each])
    if vocabulary[token] >= n_rows:
        raise InputError(
            "{}: its token {} has the id {}, the embedding has {} rows; take the "
            "tokenizer that belongs to the model",
            source,
            explain(token),
            vocabulary[token],
            n_rows,
        )


def resolve_adapter(path: Path) -> Path:
    """Find the adapter folder in a directory of `train`, or take the folder itself; raises
    InputError where it holds none."""
    adapter = path / "adapter" if (path / "adapter" / "adapter_config.json").exists() else path
    find_base(adapter)
    return adapter


def open_to_readers(folder: Path) -> None:
    """Set weight files to the mode of new files here; safetensors lets their owner alone read
    them."""
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.glob("*.safetensors"):
        path.chmod(0o666 & ~mask)


def find_base(adapter: Path) -> str:
    """Read which model an adapter was trained on; raises InputError where the folder holds no
    adapter."""
    config = read_model_file(adapter / "adapter_config.json")
    if config is None:
        raise InputError(
            '{}: no adapter_config.json; give the adapter folder that "medkd train" wrote', adapter
        )
    if not (adapter / "adapter_model.safetensors").exists():
        raise InputError(
            "{}: no adapter_model.safetensors; train again, or convert its weights", adapter
        )
    check_folder_files(adapter)
    return str(config.get("base_model_name_or_path") or "")


def check_base(adapter: Path, name: str) -> None:
    """Raise InputError where an adapter surely was trained on another model than the one of this
    name."""
    base = find_base(adapter)
    if base and is_different_model(base, name):
        raise InputError(
            "{0}: was trained on {1}, not on {2}; give --model {1}", adapter, base, name
        )


def is_different_model(base: str, name: str) -> bool:
    """Tell whether two names surely mean two models; a folder that was moved or fetched since
    leaves it open. Nothing is fetched."""
    if base == name:
        return False
    folders = [Path(each).expanduser() for each in (base, name)]
    if any(folder.is_dir() for folder in folders):
        folders = [find_local(each) for each in (base, name)]
        return all(folder.is_dir() for folder in folders) and not _has_same_weights(*folders)
    return not folders[0].is_absolute()


def _has_same_weights(one: Path, other: Path) -> bool:
    """Tell whether two folders are one, or one a copy of the other."""
    if one.resolve() == other.resolve():
        return True
    hashes = [
        [hash_path(path) for path in sorted(folder.glob("*.safetensors"))]
        for folder in (one, other)
    ]
    return bool(hashes[0]) and hashes[0] == hashes[1]


def _merge_adapter(model: "PreTrainedModel", adapter: Path, name: str) -> "PreTrainedModel":
    """Merge an adapter; one that changes the head or the embedding of a tied pair unties them, or
    the change of the one would be a change of the other."""
    from peft import PeftModel, get_peft_model_state_dict

    held = set(read_headers(adapter))
    _untie_where_changed(model, held, adapter)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters of it is refused below
            tuned = PeftModel.from_pretrained(model, str(adapter))
            wanted = set(get_peft_model_state_dict(tuned, save_embedding_layers=False))
            merged: Any = cast(Any, tuned).merge_and_unload()
    except Exception as error:
        raise InputError(
            "{}: does not fit {} ({}); give the model it was trained on ({})",
            adapter,
            name,
            explain(error),
            find_base(adapter) or "unknown",
        ) from error
    if lacking := sorted(wanted - held):
        refuse_missing(adapter, lacking)
    if strange := sorted(key for key in held - wanted if ".lora_" in key):
        raise InputError(
            "{}: {} has no place for {}; give the model it was trained on ({})",
            adapter,
            name,
            explain(strange[0]),
            find_base(adapter) or "unknown",
        )
    return cast("PreTrainedModel", merged)


def _untie_where_changed(model: "PreTrainedModel", keys: set[str], adapter: Path) -> None:
    import torch

    head: Any = model.get_output_embeddings()
    embedding: Any = model.get_input_embeddings()
    if head is None or head.weight is not embedding.weight:
        return
    names = [f".{name}." for name, module in model.named_modules() if module in (head, embedding)]
    touching = [key for key in keys if any(name in key for name in names)]
    changed = [key for key in touching if "token_adapter" not in key]
    if not changed:
        return
    if len(changed) < len(touching):
        raise InputError(
            "{}: changes {} and single tokens of a tied embedding, which cannot be "
            "merged; train again with one of the two",
            adapter,
            explain(changed[0]),
        )
    head.weight = torch.nn.Parameter(embedding.weight.detach().clone())
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False
    model.all_tied_weights_keys = {}
