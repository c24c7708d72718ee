"""Ask a model on this machine through vLLM: the same port as `completers.transformers_engine`.

In: a model's folder and prompts as text. Out: what the model wrote for each, when it is done. Stop
tokens, seeds, loops and decoding are those of `completers.transformers_engine`.
Not done here: merging an adapter, several GPUs. The engine runs in this process.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medkd.completers.transformers_engine import (
    LOOP_CHECK_INTERVAL,
    EngineUnavailableError,
    Generation,
    decode,
    draw_seed,
    make_generation,
)
from medkd.core.errors import StoppedError
from medkd.core.records import FinishReason, Sampling
from medkd.models.chat_template import encode, find_stop_ids
from medkd.models.inspect import explain

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

AT_START = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}
"""What vLLM reads from the environment when it is imported: one process, no report to its makers,
no more than errors on the screen."""
FREE_SHARE = 0.9
"""Share of the GPU memory that is free which weights and KV cache may fill together."""


def list_parameters(sampling: Sampling, seed: int, stop_ids: Sequence[int]) -> dict[str, Any]:
    """Put our sampling in the names of vLLM's `SamplingParams`: greedy unless a temperature is
    given, nothing left to its defaults."""
    drawn = (
        {"temperature": sampling.temperature, "top_p": sampling.top_p or 1.0, "seed": seed}
        if sampling.temperature
        else {"temperature": 0.0}
    )
    return {
        **drawn,
        "max_tokens": sampling.max_tokens,
        "stop_token_ids": list(stop_ids),
        "detokenize": False,
    }


class VllmEngine:
    """A model in vLLM's engine; made by `open_vllm`, closed by `close`, which frees its
    memory."""

    def __init__(
        self,
        engine: Any,
        make_parameters: Callable[..., Any],
        tokenizer: "PreTrainedTokenizerBase",
        stop_ids: Sequence[int],
        max_length: int,
        is_looping: Callable[[str], bool] | None = None,
    ) -> None:
        self.engine: Any = engine
        self.make_parameters = make_parameters
        self.tokenizer = tokenizer
        self.stop_ids = stop_ids
        self.max_length = max_length
        """Tokens of prompt and answer together."""
        self.is_looping = is_looping

    def generate(
        self, prompts: Sequence[str], sampling: Sampling, sample: int | Sequence[int] = 0
    ) -> Iterator[tuple[int, Generation]]:
        """Write on behind each prompt, as `TransformersEngine.generate` does; one that leaves no
        room for an answer is answered with nothing."""
        samples = [sample] * len(prompts) if isinstance(sample, int) else sample
        written: dict[int, list[int]] = {}
        try:
            for at, prompt in enumerate(prompts):
                ids = encode(self.tokenizer, prompt)
                if len(ids) >= self.max_length:
                    yield at, Generation("", FinishReason.LENGTH, [])
                    continue
                self._add(at, ids, sampling, draw_seed(sampling.seed or 0, samples[at], prompt))
                written[at] = []
            while written:
                for at, reason in self._step(written):
                    yield at, make_generation(self.tokenizer, written.pop(at), reason)
        finally:
            self.engine.abort_request([str(at) for at in written])

    def close(self) -> None:
        """Free the engine's memory."""
        self.engine.engine_core.shutdown()
        self.engine = None
        _free_memory()

    def _add(self, at: int, ids: list[int], sampling: Sampling, seed: int) -> None:
        parameters = self.make_parameters(**list_parameters(sampling, seed, self.stop_ids))
        [rendered] = self.engine.renderer.render_cmpl([{"prompt_token_ids": ids}])
        self.engine.add_request(str(at), rendered, parameters)

    def _step(self, written: dict[int, list[int]]) -> list[tuple[int, FinishReason]]:
        """Let the engine draw the next tokens; return the rows that ended by it, and why. A looping
        one is let go of."""
        try:
            outputs = self.engine.step()
        except Exception as error:  # whatever an engine of CUDA kernels may raise
            raise StoppedError(_explain(error)) from error
        ended: list[tuple[int, FinishReason]] = []
        for output in outputs:
            at, [completion] = int(output.request_id), output.outputs
            n_before = len(written[at])
            written[at] += completion.token_ids
            if completion.finish_reason in {"stop", "length"}:
                ended.append((at, FinishReason(completion.finish_reason)))
            elif completion.finish_reason:
                raise StoppedError(
                    "vLLM gave up on a question ({}); run the same command again, it goes on "
                    "from here",
                    completion.finish_reason,
                )
            elif self._is_looping(written[at], n_before):
                self.engine.abort_request([output.request_id])
                ended.append((at, FinishReason.LOOP))
        return ended

    def _is_looping(self, ids: list[int], n_before: int) -> bool:
        """Look for a loop wherever `TransformersEngine` would, and cut the row there."""
        n_seen = len(ids) // LOOP_CHECK_INTERVAL * LOOP_CHECK_INTERVAL
        if (
            self.is_looping is None
            or n_seen <= n_before
            or not self.is_looping(decode(self.tokenizer, ids[:n_seen]))
        ):
            return False
        del ids[n_seen:]
        return True


def open_vllm(
    folder: Path,
    tokenizer: "PreTrainedTokenizerBase",
    dtype: str,
    n_tokens: int,
    n_rows: int,
    is_looping: Callable[[str], bool] | None = None,
) -> VllmEngine:
    """Open a model's folder for prompts and answers of up to `n_tokens` together, `n_rows` at a
    time; raises EngineUnavailableError where it cannot.

    The KV cache takes what is free of the memory; room for one whole row is all that it needs. One
    token is drawn to prove it: there are models that vLLM opens, and has no kernels for.
    """
    for name, value in AT_START.items():
        os.environ.setdefault(name, value)
    try:
        max_length, stop_ids = _read_limits(folder, tokenizer, n_tokens)
        engine, make_parameters = _open_engine(folder, dtype, max_length, n_rows)
        model = VllmEngine(engine, make_parameters, tokenizer, stop_ids, max_length, is_looping)
        list(model.generate(["?"], Sampling(max_tokens=1)))
        return model
    except Exception as error:  # noqa: BLE001 - a library of many back ends raises many kinds, and transformers is there instead
        reason = _describe(error.__cause__ or error)
    # Outside of the except: what was loaded is held by the traceback until there.
    engine = model = None
    _free_memory()
    raise EngineUnavailableError(reason)


def _read_limits(
    folder: Path, tokenizer: "PreTrainedTokenizerBase", n_tokens: int
) -> tuple[int, list[int]]:
    """Read how long a row may get, within the model's context, and the stop tokens."""
    from transformers import AutoConfig, GenerationConfig

    config = AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config()
    try:
        stops: Any = GenerationConfig.from_pretrained(folder, local_files_only=True)
    except OSError:  # a folder without one: the model's own config says it
        stops = config
    longest = getattr(config, "max_position_embeddings", None) or n_tokens
    return min(n_tokens, longest), find_stop_ids(tokenizer, stops)


def _open_engine(
    folder: Path, dtype: str, max_length: int, n_rows: int
) -> tuple[Any, Callable[..., Any]]:
    import torch
    from vllm import EngineArgs, LLMEngine, SamplingParams  # pyright: ignore[reportMissingImports]
    from vllm.sampling_params import RequestOutputKind  # pyright: ignore[reportMissingImports]

    memory: dict[str, float] = {}
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        memory = {"gpu_memory_utilization": round(FREE_SHARE * free / total, 4)}
    arguments = EngineArgs(
        model=str(folder),
        dtype=dtype,
        max_model_len=max_length,
        max_num_seqs=n_rows,
        skip_tokenizer_init=True,
        generation_config="vllm",  # not the folder's: what is drawn is ours to say
        disable_log_stats=True,
        use_tqdm_on_load=False,
        **memory,
    )
    return LLMEngine.from_engine_args(arguments), partial(
        SamplingParams, output_kind=RequestOutputKind.DELTA
    )


def _free_memory() -> None:
    import gc

    gc.collect()
    try:
        from vllm.distributed import cleanup_dist_env_and_memory  # pyright: ignore[reportMissingImports]
    except Exception:  # noqa: BLE001 - a vLLM that cannot even be imported holds nothing
        return
    cleanup_dist_env_and_memory()


def _explain(error: Exception) -> str:
    kept = "what was answered is kept, and the same command goes on from there"
    if "out of memory" in str(error).lower():
        return f"out of memory in vLLM; {kept}: lower --batch-size first"
    return f"vLLM failed ({_describe(error)}); {kept}"


def _describe(error: BaseException) -> str:
    """Describe an error in one line; pydantic's first one only counts."""
    text = str(error)
    if "validation error for" in text.partition("\n")[0]:
        text = text.partition("\n")[2]
    return f"{type(error).__name__}: {explain(text.partition('. ')[0])}"
