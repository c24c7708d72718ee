"""Open a model of this machine for everything that one evaluation asks.

vLLM generates where it is there with a GPU, CTranslate2 where a small model answers greedily on a
processor, else transformers.

In: the stage's config, its directory, and the questions. Out: an asker; which engine generates
stands in the manifest.
Not done here: asking (`evaluate.asking`), the engines (`completers.transformers_engine`,
`completers.ctranslate2_engine`, `completers.vllm_engine`).
"""

import shutil
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from medkd.completers import ctranslate2_engine, vllm_engine
from medkd.completers.ctranslate2_engine import CTranslate2Model, open_ctranslate2
from medkd.completers.transformers_engine import EngineUnavailableError, TransformersEngine
from medkd.completers.vllm_engine import VllmEngine, open_vllm
from medkd.core.stage_output import StageOutput
from medkd.evaluate.tasks import LocalAsker, Task
from medkd.grading.loops import is_looping
from medkd.models.chat_template import encode, find_plain_template, render, repair_pad_token
from medkd.models.load import (
    LoadedModel,
    choose_device,
    choose_dtype,
    load_model,
    load_tokenizer,
    resolve_adapter,
    resolve_model,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from medkd.evaluate.stage import Config

MERGED = "merged-for-vllm"


def open_local(
    config: "Config", space: StageOutput, servers: ExitStack, tasks: Sequence[Task]
) -> LocalAsker:
    """Open the model, its adapter merged into it."""
    adapter = resolve_adapter(config.adapter) if config.adapter else None
    device = choose_device(config.device)
    if vllm_engine.is_usable(device):
        try:
            model = _open_in_vllm(
                config,
                space,
                adapter,
                str(choose_dtype(config.dtype, device)).removeprefix("torch."),
                tasks,
            )
        except EngineUnavailableError as error:
            print(
                f"note: vLLM cannot open this model here ({error}); going on without it",
                file=sys.stderr,
            )
        else:
            servers.callback(model.close)
            space.manifest.facts |= {"generator": "vllm", "device": device}
            return LocalAsker(model)
    loaded = load_model(
        config.model, adapter, config.device, config.dtype, config.hub, config.trust_remote_code
    )
    model = _open_loaded(config, loaded)
    space.manifest.facts |= {
        "generator": "ctranslate2" if isinstance(model, CTranslate2Model) else "transformers",
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "device": device,
    }
    return LocalAsker(model)


def _open_loaded(config: "Config", loaded: LoadedModel) -> TransformersEngine | CTranslate2Model:
    """Choose between the two engines that take a loaded model."""
    if ctranslate2_engine.is_usable(loaded.model.device.type, config.dtype, config.temperature):
        try:
            return open_ctranslate2(loaded, config.batch_size, is_looping)
        except EngineUnavailableError:
            pass  # a large model or a rare shape: nothing is lost but speed
    return TransformersEngine(loaded, config.batch_size, is_looping)


def _open_in_vllm(
    config: "Config", space: StageOutput, adapter: Path | None, dtype: str, tasks: Sequence[Task]
) -> VllmEngine:
    """Open the folder, or for the time of opening a merged copy of it.

    vLLM's own adapters know low-rank weights only, and leave out the rows of the embedding that
    `train` may have trained beside them.
    """
    folder = resolve_model(config.model, config.hub, config.trust_remote_code)
    tokenizer = load_tokenizer(folder, adapter, config.trust_remote_code)
    repair_pad_token(tokenizer)
    n_tokens = find_longest(tokenizer, tasks) + config.max_tokens
    space.manifest.facts["dtype"] = dtype
    if adapter is None:
        return open_vllm(folder, tokenizer, dtype, n_tokens, config.batch_size, is_looping)
    merged = space.path(MERGED)
    shutil.rmtree(merged, ignore_errors=True)
    try:
        whole = load_model(
            config.model, adapter, "cpu", cast(Any, dtype), config.hub, config.trust_remote_code
        ).model
        whole.save_pretrained(merged)
        del whole
        return open_vllm(merged, tokenizer, dtype, n_tokens, config.batch_size, is_looping)
    finally:
        shutil.rmtree(merged, ignore_errors=True)


def find_longest(tokenizer: "PreTrainedTokenizerBase", tasks: Sequence[Task]) -> int:
    """Count the tokens of the longest prompt that these tasks make, under either template."""
    templates = dict.fromkeys([None, find_plain_template(tokenizer)])
    return max(
        (
            len(encode(tokenizer, render(tokenizer, task.messages, template)))
            for task in tasks
            for template in templates
        ),
        default=0,
    )
