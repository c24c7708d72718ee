"""Ask a small model on this machine's processor through CTranslate2: the same port as
`completers.transformers_engine`, greedy only, in float32.

In: a loaded model and prompts as text. Out: what the model wrote for each, as soon as its batch is
done, in any order.
Not done here: drawing at a temperature (its generator has one seed for all rows, so that a draw
would depend on the company), models above `MOST_PARAMETERS`, what to do where CTranslate2 cannot
open the model (`EngineUnavailableError` says why).

A step of a small model takes transformers longer to arrange than to compute; an engine without
Python in between has none of that to pay. Stop tokens, the look for loops and the decoding are the
very ones of `completers.transformers_engine`; only the tokens come from elsewhere.
"""

import importlib.util
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medkd.completers.transformers_engine import (
    LOOP_CHECK_INTERVAL,
    EngineUnavailableError,
    Generation,
    TransformersEngine,
    decode,
    make_generation,
)
from medkd.core.completer import Sampling
from medkd.core.records import FinishReason
from medkd.models.chat_template import encode, find_stop_ids, repair_pad_token
from medkd.models.load import Dtype, LoadedModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST_PARAMETERS = 4_000_000
"""Above this a step is arithmetic, and transformers does that in bfloat16 where the processor can
(`bench/engines.py`)."""
MOST_ROWS = 8
"""Rows that one thread writes together at most: more of them wait for each other longer than they
save."""
PROOF = Sampling(max_tokens=16)
"""How much is written to see whether a converted model is the same."""


class CTranslate2Model:
    """A model in CTranslate2's engine; made by `open_ctranslate2`."""

    def __init__(
        self,
        engine: Any,
        tokenizer: "PreTrainedTokenizerBase",
        stop_ids: Sequence[int],
        batch_size: int,
        n_threads: int,
        is_looping: Callable[[str], bool] | None = None,
    ) -> None:
        self.engine: Any = engine
        self.tokenizer = tokenizer
        self.stop_ids = stop_ids
        self.n_rows = min(batch_size // n_threads, MOST_ROWS)
        """Of each thread's batch."""
        self.n_threads = n_threads
        self.is_looping = is_looping

    def generate(
        self, prompts: Sequence[str], sampling: Sampling, sample: int | Sequence[int] = 0
    ) -> Iterator[tuple[int, Generation]]:
        """Write on behind each prompt, as `TransformersEngine.generate` does; raises ValueError where a
        temperature is given."""
        if sampling.temperature:
            raise ValueError("CTranslate2 writes greedily here")
        encoded = [encode(self.tokenizer, prompt) for prompt in prompts]
        by_length = sorted(range(len(prompts)), key=lambda i: len(encoded[i]), reverse=True)
        batches = deque(
            by_length[start : start + self.n_rows]
            for start in range(0, len(by_length), self.n_rows)
        )
        under_way: deque[_Batch] = deque()
        try:
            while batches or under_way:
                while (
                    batches and len(under_way) < 2 * self.n_threads
                ):  # as many wait as are written, so that no thread does
                    under_way.append(self._submit(batches.popleft(), encoded, sampling.max_tokens))
                yield from under_way[0].finish()
                under_way.popleft()
        finally:
            for batch in under_way:
                batch.stop()

    def _submit(
        self, indices: list[int], encoded: Sequence[list[int]], max_tokens: int
    ) -> "_Batch":
        batch = _Batch(self.tokenizer, indices, self.stop_ids, self.is_looping)
        batch.results = self.engine.generate_batch(
            [self.tokenizer.convert_ids_to_tokens(encoded[i]) for i in indices],
            max_length=max_tokens,
            end_token=list(self.stop_ids),
            return_end_token=True,
            include_prompt_in_result=False,
            callback=batch.take,
            asynchronous=True,
        )
        return batch


class _Batch:
    """Rows that are written together: what was written of each so far, and which of them were
    stopped."""

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        indices: list[int],
        stop_ids: Sequence[int],
        is_looping: Callable[[str], bool] | None,
    ) -> None:
        self.results: list[Any] = []
        self._tokenizer = tokenizer
        self._indices = indices
        self._stop_ids = stop_ids
        self._is_looping = is_looping
        self._written: list[list[int]] = [[] for _ in indices]
        self._looped: set[int] = set()
        self._is_stopped = False

    def take(self, step: Any) -> bool:
        """Take in one token of one row, on the engine's thread; tells whether the row ends here."""
        row, written = step.batch_id, self._written[step.batch_id]
        written.append(step.token_id)
        if (
            self._is_looping is not None
            and len(written) % LOOP_CHECK_INTERVAL == 0
            and not step.is_last
            and self._is_looping(decode(self._tokenizer, written))
        ):
            self._looped.add(row)
        return self._is_stopped or row in self._looped

    def stop(self) -> None:
        """Let every row end with its next token, and wait until it has."""
        self._is_stopped = True
        for result in self.results:
            result.result()

    def finish(self) -> Iterator[tuple[int, Generation]]:
        """Wait for the rows; gives each and what was written."""
        for row, result in enumerate(self.results):
            [ids] = result.result().sequences_ids
            reason = FinishReason.STOP if ids[-1] in self._stop_ids else FinishReason.LENGTH
            yield (
                self._indices[row],
                make_generation(
                    self._tokenizer, ids, FinishReason.LOOP if row in self._looped else reason
                ),
            )


def is_usable(device: str, dtype: Dtype, temperature: float) -> bool:
    """Tell whether CTranslate2 is to generate if the model is small: greedily, on a processor, not
    in bfloat16, where it is installed."""
    return (
        device == "cpu"
        and dtype != "bfloat16"
        and not temperature
        and importlib.util.find_spec("ctranslate2") is not None
    )


def open_ctranslate2(
    loaded: LoadedModel, batch_size: int, is_looping: Callable[[str], bool] | None = None
) -> CTranslate2Model:
    """Open a loaded model for `batch_size` rows at a time on the threads that torch would take;
    raises EngineUnavailableError where it cannot.

    A few tokens are written to prove it: a converter may know a model's name and not all that its
    config says.
    """
    import ctranslate2
    import torch
    from ctranslate2.converters import TransformersConverter

    model, tokenizer = loaded
    if model.num_parameters() > MOST_PARAMETERS:
        raise EngineUnavailableError(f"it has more than {MOST_PARAMETERS:,} parameters")
    if not type(model).__module__.startswith("transformers.models."):
        raise EngineUnavailableError("it runs code of its own")
    repair_pad_token(tokenizer)
    n_all = torch.get_num_threads()
    n_threads = min(n_all, batch_size)
    with tempfile.TemporaryDirectory() as place:
        folder, converted = Path(place, "model"), Path(place, "converted")
        model.float().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        try:
            TransformersConverter(str(folder)).convert(str(converted))
            engine = ctranslate2.Generator(
                str(converted),
                device="cpu",
                compute_type="float32",
                inter_threads=n_threads,
                intra_threads=1,
            )
        except (
            ValueError,
            RuntimeError,
            AttributeError,
            KeyError,
        ) as error:  # a shape it does not know
            raise EngineUnavailableError(
                str(error).splitlines()[0] if str(error) else type(error).__name__
            ) from error
        finally:
            torch.set_num_threads(
                n_all
            )  # the two share a runtime, and CTranslate2 has set one thread in it
    opened = CTranslate2Model(
        engine,
        tokenizer,
        find_stop_ids(tokenizer, model.generation_config),
        batch_size,
        n_threads,
        is_looping,
    )
    if list(opened.generate(["?"], PROOF)) != list(
        TransformersEngine(loaded).generate(["?"], PROOF)
    ):
        raise EngineUnavailableError("it writes otherwise than in transformers")
    return opened
