"""Ask a GGUF file on this machine through llama.cpp: the same port as
`completers.transformers_engine`.

In: a file and prompts as text. Out: what the model wrote for each. Tokens and chat template are the
file's own. Not done here: writing such files (`export.gguf`).
"""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medkd.completers.transformers_engine import Generation, draw_seed
from medkd.core.errors import InputError, StoppedError, from_os_error
from medkd.core.records import FinishReason, Sampling
from medkd.models.chat_template import encode, find_end_of_turn
from medkd.models.inspect import explain

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SUFFIX = ".gguf"
MAGIC = b"GGUF"
NOT_INSTALLED = "{}: a GGUF file takes llama.cpp: pip install 'medkd[gguf]'"
MAX_SLOTS = 8
"""Questions that llama.cpp answers at a time."""


def check_file(path: Path) -> Path:
    """Raise InputError where there is no GGUF file of this name."""
    try:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) == MAGIC:
                return path
    except OSError as error:
        raise from_os_error(error, path) from error
    raise InputError("{}: is no GGUF file; check --model", path)


def read_tokenizer(path: Path) -> "PreTrainedTokenizerBase":
    """Read tokens and chat template out of the file; raises InputError where they cannot be."""
    from transformers import AutoTokenizer

    try:
        read: Any = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        return _restore_ids(read, path)
    except ImportError as error:
        raise InputError(NOT_INSTALLED, path) from error
    except Exception as error:  # the readers of many architectures raise many kinds
        raise InputError(
            "{}: its tokenizer cannot be read ({}); is the file complete, and of a Qwen or Llama "
            "family?",
            path,
            explain(error),
        ) from error


def _restore_ids(read: Any, path: Path) -> "PreTrainedTokenizerBase":
    """Give control tokens the ids that they have in the file: transformers reads one that is not
    ASCII, such as DeepSeek's, as bytes, and adds it once more behind the last id or not at all."""
    from gguf import GGUFReader, TokenType
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    fields = GGUFReader(path).fields
    tokens, types = (
        fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "token_type")
    )
    special = {
        number: tokens[number]
        for number, kind in enumerate(types)
        if kind in (TokenType.CONTROL, TokenType.USER_DEFINED)
    }
    added: dict[int, Any] = read.added_tokens_decoder
    if all(number in added and added[number].content == special[number] for number in special):
        return read
    state = json.loads(read.backend_tokenizer.to_str())
    if state["model"]["type"] != "BPE":
        return read
    vocabulary: dict[str, int] = state["model"]["vocab"]
    names = {number: token for token, number in vocabulary.items() if number < len(tokens)}
    state["model"]["vocab"] = {token: number for number, token in (names | special).items()}
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    state["added_tokens"] = [
        {"id": number, "content": token, "special": types[number] == TokenType.CONTROL, **plain}
        for number, token in special.items()
    ]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        chat_template=read.chat_template,
        **read.special_tokens_map,
    )


class LlamaCppEngine:
    """A GGUF file in llama.cpp, in this process; `max_length` tokens of prompt and answer
    together."""

    def __init__(
        self,
        path: Path,
        max_length: int,
        n_slots: int = MAX_SLOTS,
        is_looping: Callable[[str], bool] | None = None,
    ) -> None:
        try:
            llama_cpp: Any = import_module("xllamacpp")
        except ImportError as error:
            raise InputError(NOT_INSTALLED, path) from error
        self.tokenizer = read_tokenizer(path)
        self.end_id = find_end_of_turn(self.tokenizer)
        self.n_slots = max(1, min(n_slots, MAX_SLOTS))
        self.max_length = max_length
        self.is_looping = is_looping
        parameters: Any = llama_cpp.CommonParams()
        parameters.model.path = str(path)
        parameters.n_parallel = self.n_slots
        parameters.n_ctx = self.n_slots * max_length
        parameters.verbosity = 0
        parameters.endpoint_metrics = True
        try:
            self.server: Any = llama_cpp.Server(parameters)
            # Its answer tells that the loop runs: a server freed before that never ends.
            self.server.handle_metrics()
        except RuntimeError as error:
            raise InputError(
                "{}: llama.cpp cannot load it ({}); is the file complete?", path, explain(error)
            ) from error

    def generate(
        self, prompts: Sequence[str], sampling: Sampling, sample: int | Sequence[int] = 0
    ) -> Iterator[tuple[int, Generation]]:
        """Write on behind each prompt, as `TransformersEngine.generate` does; one that leaves no
        room for an answer is answered with nothing."""
        samples = [sample] * len(prompts) if isinstance(sample, int) else sample
        with ThreadPoolExecutor(self.n_slots) as pool:
            jobs = {
                pool.submit(
                    self._answer,
                    encode(self.tokenizer, prompt),
                    sampling,
                    draw_seed(sampling.seed or 0, samples[at], prompt),
                ): at
                for at, prompt in enumerate(prompts)
            }
            for job in as_completed(jobs):
                yield jobs[job], job.result()

    def stream(
        self, prompt: str, sampling: Sampling, on_text: Callable[[str], bool]
    ) -> FinishReason:
        """Write on behind one prompt and hand on each piece as it comes, until one is answered with
        True; returns why it ended."""
        ids = encode(self.tokenizer, prompt)
        reason = FinishReason.LENGTH
        interrupts: list[KeyboardInterrupt] = []

        def take(reply: dict[str, Any]) -> bool:
            nonlocal reason
            if reply["choices"][0]["finish_reason"] == "stop":
                reason = FinishReason.STOP
            try:
                if not on_text(str(reply["choices"][0]["text"])):
                    return False
                reason = FinishReason.LOOP
            except KeyboardInterrupt as interrupt:  # llama.cpp lets no exception through
                interrupts.append(interrupt)
            return True

        if len(ids) < self.max_length:
            request = self._make_request(ids, sampling, sampling.seed or 0)
            self.server.handle_completions(request | {"stream": True}, take)
        if interrupts:
            raise interrupts[0]
        return reason

    def _make_request(self, ids: list[int], sampling: Sampling, seed: int) -> dict[str, Any]:
        return {
            "prompt": ids,
            "max_tokens": min(sampling.max_tokens, self.max_length - len(ids)),
            "seed": seed % 2**32,
            "top_k": 0,
            "min_p": 0.0,
            "repeat_penalty": 1.0,
            "temperature": sampling.temperature or 0.0,
            "top_p": sampling.top_p or 1.0,
        }

    def _answer(self, ids: list[int], sampling: Sampling, seed: int) -> Generation:
        if len(ids) >= self.max_length:
            return Generation("", FinishReason.LENGTH, [])
        try:
            reply: dict[str, Any] = self.server.handle_completions(
                self._make_request(ids, sampling, seed)
            )
            choice = reply["choices"][0]
        except (RuntimeError, KeyError) as error:
            raise StoppedError(
                "llama.cpp gave up on a question ({}); run the same command again, it "
                "goes on from here",
                explain(error),
            ) from error
        text = str(choice["text"])
        reason = FinishReason.STOP if choice["finish_reason"] == "stop" else FinishReason.LENGTH
        if reason is FinishReason.LENGTH and self.is_looping and self.is_looping(text):
            reason = FinishReason.LOOP
        ids = encode(self.tokenizer, text)
        return Generation(text, reason, ids + [self.end_id] * (reason is FinishReason.STOP))
