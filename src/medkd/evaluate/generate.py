"""Put questions to a model of this machine or behind an endpoint, and keep what it answers.

In: examples, a model. Out: predictions, on the disk as they come, so that a killed run goes on.
Not done here: scores (`grading.scores`), engines and the ledger (`completers`).
"""

import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple, Protocol, cast

from pydantic import Field

from medkd.completers import llamacpp_engine
from medkd.completers.client import LedgerClient, open_client
from medkd.completers.ledger import FILE_NAME as LEDGER
from medkd.completers.providers import find_target_of
from medkd.completers.transformers_engine import (
    EngineUnavailableError,
    Generation,
    TransformersEngine,
)
from medkd.completers.vllm_engine import VllmEngine, open_vllm
from medkd.core import thinking
from medkd.core.config import RUNTIME, SENDS_KEY, AcceptIdentified, Seed, StageConfig
from medkd.core.errors import InputError
from medkd.core.i18n import tell
from medkd.core.jsonl import RecordAppender, RecordReader
from medkd.core.progress import Bar
from medkd.core.records import Completion, FinishReason, Prediction, Request, Sampling
from medkd.core.stage_output import StageOutput
from medkd.core.task import TaskFile
from medkd.evaluate.questions import Prompt
from medkd.models.chat_template import (
    encode,
    find_plain_template,
    has_thinking_prefix,
    opens_thinking,
    render,
    repair_pad_token,
)
from medkd.models.load import (
    Device,
    Dtype,
    Hub,
    choose_device,
    choose_dtype,
    load_model,
    load_tokenizer,
    resolve_adapter,
    resolve_model,
)
from medkd.text.similarity import is_looping

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MERGED = "merged-for-vllm"


class AskConfig(StageConfig):
    """Who is asked, and how."""

    model: str = ""
    """Model: medkd:tiny, a folder, a GGUF file, a name on a hub, or its name at --endpoint."""
    adapter: Annotated[Path | None, RUNTIME] = None
    """Directory of `train`, or an adapter folder; its tokenizer and template are used."""
    endpoint: Annotated[str, SENDS_KEY] = ""
    """Ask an OpenAI-compatible endpoint instead: a provider of providers.yaml, or an address."""
    task: TaskFile = ""
    """Task file of the rows, where it is not a shipped one; with --predictions, the task of its
    labels (diagnosis, open-question, …), else diagnoses are told from open answers."""
    samples: int = Field(default=1, ge=1, le=1000)
    """Answers per question, for the majority vote and pass@k; needs a temperature."""
    limit: int | None = Field(default=None, ge=1, le=10**9)
    """Ask only the first questions."""
    max_tokens: int = Field(default=1024, ge=1, le=10**6)
    """Maximum length of an answer in tokens."""
    temperature: float = Field(default=0.0, ge=0, le=100)
    """0 takes the likeliest token; R1 models are often sampled at 0.6."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """Nucleus sampling: share of probability to sample from; use 0.95 with a temperature of 0.6."""
    seed: Seed = 0
    """Seed of sampling and of the bootstrap."""
    budget: Annotated[float | None, RUNTIME, Field(gt=0, le=10**9)] = None
    """Upper limit of the money on this directory's ledger; a hard stop."""
    accept_identified: AcceptIdentified = False
    """Send an endpoint or a judge also rows without deidentified_by."""
    hub: Annotated[Hub, RUNTIME] = "huggingface"
    """Hub from which a named model is downloaded."""
    batch_size: Annotated[int, RUNTIME] = Field(default=64, ge=1, le=10**5)
    """Questions at a time; halved when memory runs out."""
    device: Annotated[Device, RUNTIME] = "auto"
    """Device to compute on."""

    def make_sampling(self) -> Sampling:
        """Return how answers are drawn."""
        return Sampling(
            max_tokens=self.max_tokens,
            temperature=self.temperature or None,
            top_p=self.top_p,
            seed=self.seed,
        )


# Predictors


class Engine(Protocol):
    """A model of this machine in any engine, as `completers.transformers_engine` describes it."""

    tokenizer: "PreTrainedTokenizerBase"

    def generate(
        self, prompts: Sequence[str], sampling: Sampling, sample: int | Sequence[int] = 0
    ) -> Iterator[tuple[int, Generation]]: ...


class Predictor(Protocol):
    """Whoever answers; what failed on the way is counted by reason and no prediction."""

    failures: dict[str, int]

    def predict(
        self, prompts: Sequence[Prompt], sampling: Sampling, sample: int = 0
    ) -> Iterator[Prediction]: ...


def make_prediction(
    prompt: Prompt, text: str, raw: str, finish_reason: str, n_tokens: int
) -> Prediction:
    """Read reasoning and answer out of what was generated; `text` is all that the model was
    given."""
    thought = thinking.read(raw)
    example = prompt.example
    return Prediction(
        id=prompt.id,
        department=example.department,
        prompt=text,
        question=example.input,
        reasoning=thought.reasoning or "",
        answer=thought.answer,
        raw=raw,
        reference=example.reference,
        task=example.task,
        language=example.language,
        known=example.known,
        teacher=thinking.write(example.reasoning, example.answer) if example.reasoning else None,
        finish_reason=finish_reason,
        n_tokens=n_tokens,
    )


class LocalPredictor:
    """Asks a model of this machine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.failures: dict[str, int] = {}
        has_prefix = has_thinking_prefix(engine.tokenizer)
        self.plain_template = find_plain_template(engine.tokenizer) if has_prefix else None
        """A plain template other than the model's own, if there is one."""

    def predict(
        self, prompts: Sequence[Prompt], sampling: Sampling, sample: int = 0, is_plain: bool = False
    ) -> Iterator[Prediction]:
        """Ask all questions; yield each prediction as soon as it is done."""
        template = self.plain_template if is_plain else None
        texts = [render(self.engine.tokenizer, prompt.messages, template) for prompt in prompts]
        for at, made in self.engine.generate(texts, sampling, sample):
            prefix = thinking.PREFIX if opens_thinking(texts[at]) else ""
            yield make_prediction(
                prompts[at], texts[at], prefix + made.text, made.finish_reason, made.n_tokens
            )

    def continue_thoughts(
        self, begun: Sequence[tuple[Prompt, str]], sampling: Sampling
    ) -> Iterator[Prediction]:
        """Ask with the thinking begun already: each prompt with what it begins with."""
        rendered = [render(self.engine.tokenizer, prompt.messages) for prompt, _ in begun]
        openings = ["" if opens_thinking(text) else thinking.PREFIX for text in rendered]
        texts = [
            text + opening + thought
            for text, opening, (_, thought) in zip(rendered, openings, begun, strict=True)
        ]
        for at, made in self.engine.generate(texts, sampling):
            prompt, thought = begun[at]
            raw = thinking.PREFIX + thought + made.text
            yield make_prediction(prompt, texts[at], raw, made.finish_reason, made.n_tokens)

    def predict_plainly(
        self, prompts: Sequence[Prompt], own: Callable[[str], Prediction], sampling: Sampling
    ) -> Iterator[Prediction]:
        """Ask under the plain template, where the model must begin to think by itself.

        `own` returns the prediction of the same question under the model's own template. Where the
        model begins with the tokens that its template ends with, what follows is that answer again,
        and only the beginning is asked for; else it goes on to its end.
        """
        tokenizer = self.engine.tokenizer
        texts = [render(tokenizer, prompt.messages, self.plain_template) for prompt in prompts]
        n_prefix = len(encode(tokenizer, thinking.PREFIX))
        others: list[Prompt] = []
        beginning = sampling.model_copy(update={"max_tokens": n_prefix})
        for at, opening in self.engine.generate(texts, beginning):
            if opening.text != thinking.PREFIX:
                others.append(prompts[at])
                continue
            same = own(prompts[at].id)
            yield same.model_copy(
                update={"prompt": texts[at], "n_tokens": same.n_tokens + n_prefix}
            )
        yield from self.predict(others, sampling, is_plain=True)


class EndpointPredictor:
    """Asks a model behind an endpoint; the ledger holds every attempt and what was answered
    before."""

    def __init__(self, completer: LedgerClient) -> None:
        self.completer = completer
        self.failures: dict[str, int] = {}

    def predict(
        self, prompts: Sequence[Prompt], sampling: Sampling, sample: int = 0
    ) -> Iterator[Prediction]:
        """Ask all questions; an answer cut off at the token limit is a prediction, one that never
        came to a known end a failure with its reason."""
        if not prompts:
            return
        asked = [
            (prompt, Request(messages=prompt.messages, sampling=sampling, sample=sample))
            for prompt in prompts
        ]
        self.completer.announce(request for _, request in asked)
        self.completer.run(((prompt.id, request) for prompt, request in asked), len(asked))
        for prompt, request in asked:
            found = self.completer.recall(request)
            if found is None or not (found.complete or found.truncated):
                reason = found.finish_reason if found else "not_asked"
                self.failures[reason] = self.failures.get(reason, 0) + 1
                continue
            text = "\n".join(message.content for message in prompt.messages)
            end = FinishReason.STOP if found.complete else FinishReason.LENGTH
            yield make_prediction(prompt, text, _read_raw(found), end, found.usage.completion)


def _read_raw(completion: Completion) -> str:
    """Put reasoning that came beside the content in front of it, in the written form."""
    if not completion.reasoning:
        return completion.text
    if not completion.text:
        return thinking.PREFIX + completion.reasoning
    return thinking.write(completion.reasoning, completion.text)


# Opening


def find_inputs(config: AskConfig) -> tuple[Path | None, list[Path]]:
    """Find the folder that lineage starts from, and the paths that decide what is made; raise
    InputError where flags do not fit."""
    if config.samples > 1 and not config.temperature:
        raise InputError(
            "--samples {}: equal answers tell nothing; add --temperature 0.6 --top-p 0.95",
            config.samples,
        )
    if config.endpoint:
        if config.adapter:
            raise InputError(
                "--adapter: an endpoint serves its own weights; leave --adapter out, "
                "or evaluate with --model alone"
            )
        find_target_of(config.endpoint, config.model, "--endpoint")
        return None, []
    if not config.model:
        raise InputError(
            "medkd evaluate: which model? give --model, --endpoint, or --predictions FILE"
        )
    if config.model.endswith(llamacpp_engine.SUFFIX):
        if config.adapter:
            raise InputError("--adapter: a GGUF file takes none; export the two together first")
        path = llamacpp_engine.check_file(Path(config.model).expanduser())
        return path, [path]
    folder = resolve_model(config.model, config.hub)
    adapter = resolve_adapter(config.adapter) if config.adapter else None
    own = [folder] if Path(config.model).is_dir() else []
    return adapter or folder, [*([adapter] if adapter else []), *own]


def open_predictor(
    config: AskConfig, space: StageOutput, servers: ExitStack, prompts: Sequence[Prompt]
) -> LocalPredictor | EndpointPredictor:
    """Open whoever is to answer all these prompts; which engine generates stands in the
    manifest."""
    if config.endpoint:
        target = find_target_of(config.endpoint, config.model, "--endpoint")
        opened = open_client(target, space.path(LEDGER), "ask", budget=config.budget)
        return EndpointPredictor(servers.enter_context(opened))
    if config.model.endswith(llamacpp_engine.SUFFIX):
        return LocalPredictor(_open_gguf(config, space, prompts))
    adapter = resolve_adapter(config.adapter) if config.adapter else None
    device = choose_device(config.device)
    if uses_vllm(device):
        dtype = cast(Dtype, str(choose_dtype("auto", device)).removeprefix("torch."))
        try:
            engine = _open_in_vllm(config, space.path(MERGED), adapter, dtype, prompts)
        except EngineUnavailableError as error:
            said = "note: vLLM cannot open this model here ({}); going on without it"
            tell(said, error, to=sys.stderr)
        else:
            servers.enter_context(closing(engine))
            space.manifest.facts |= {"generator": "vllm", "device": device, "dtype": dtype}
            return LocalPredictor(engine)
    loaded = load_model(config.model, adapter, config.device, "auto", config.hub)
    space.manifest.facts |= {
        "generator": "transformers",
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "device": device,
    }
    return LocalPredictor(TransformersEngine(loaded, config.batch_size, is_looping))


def uses_vllm(device: str) -> bool:
    """Tell whether vLLM is to generate: a GPU computes, and the package is there."""
    return device == "cuda" and find_spec("vllm") is not None


def _open_gguf(
    config: AskConfig, space: StageOutput, prompts: Sequence[Prompt]
) -> llamacpp_engine.LlamaCppEngine:
    path = Path(config.model).expanduser()
    n_tokens = count_longest(llamacpp_engine.read_tokenizer(path), prompts) + config.max_tokens
    space.manifest.facts |= {"generator": "llama.cpp", "device": "cpu"}
    return llamacpp_engine.LlamaCppEngine(path, n_tokens, config.batch_size, is_looping)


def _open_in_vllm(
    config: AskConfig, merged: Path, adapter: Path | None, dtype: Dtype, prompts: Sequence[Prompt]
) -> VllmEngine:
    """Open the folder, or for the time of opening a copy with the adapter merged into it: vLLM's
    own adapters leave out rows of the embedding that were trained beside them."""
    folder = resolve_model(config.model, config.hub)
    tokenizer = load_tokenizer(folder, adapter)
    repair_pad_token(tokenizer)
    n_tokens = count_longest(tokenizer, prompts) + config.max_tokens
    if adapter is None:
        return open_vllm(folder, tokenizer, dtype, n_tokens, config.batch_size, is_looping)
    shutil.rmtree(merged, ignore_errors=True)
    try:
        load_model(config.model, adapter, "cpu", dtype, config.hub).model.save_pretrained(merged)
        return open_vllm(merged, tokenizer, dtype, n_tokens, config.batch_size, is_looping)
    finally:
        shutil.rmtree(merged, ignore_errors=True)


def count_longest(tokenizer: "PreTrainedTokenizerBase", prompts: Sequence[Prompt]) -> int:
    """Count the tokens of the longest prompt, under the model's own template or the plain one."""
    templates = dict.fromkeys([None, find_plain_template(tokenizer)])
    return max(
        (
            len(encode(tokenizer, render(tokenizer, prompt.messages, template)))
            for prompt in prompts
            for template in templates
        ),
        default=0,
    )


# Keeping


class PredictionFile:
    """Predictions appended to a file as they come; those of an earlier run are not asked again."""

    def __init__(self, path: Path, name: str, ids: Sequence[str]) -> None:
        self.path, self.name, self.ids = path, name, ids
        self.done = self._read_done()
        self.n_new = 0
        self.seconds = 0.0
        """Time that the new ones took to come."""

    def _read_done(self) -> dict[str, Prediction]:
        """Read what an earlier run left, a torn last line apart."""
        if not self.path.exists():
            return {}
        with RecordAppender(self.path):
            pass
        if not self.path.stat().st_size:
            return {}
        wanted = set(self.ids)
        reader = RecordReader(self.path, Prediction, made_by="evaluate")
        return {p.id: p for p in reader if p.id in wanted}

    def open_prompts(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """List the prompts that have no answer yet."""
        return [prompt for prompt in prompts if prompt.id not in self.done]

    def keep(self, predictions: Iterator[Prediction]) -> Iterator[Prediction]:
        """Append each prediction as it comes, and hand it on."""
        with RecordAppender(self.path) as file, Bar(self.name, len(self.ids), "questions") as bar:
            bar.reach(len(self.done), n_before=len(self.done))
            while True:
                started = time.monotonic()
                prediction = next(predictions, None)
                self.seconds += time.monotonic() - started
                if prediction is None:
                    return
                file.append(prediction)
                self.done[prediction.id] = prediction
                self.n_new += 1
                bar.advance()
                yield prediction

    def fill(self, predictions: Iterator[Prediction]) -> list[Prediction]:
        """Keep all predictions; return those of every id that has one, in the order of the ids."""
        for _ in self.keep(predictions):
            pass
        return [self.done[i] for i in self.ids if i in self.done]


class Asker(NamedTuple):
    """A model that is asked, and where its answers are kept."""

    predictor: Predictor
    space: StageOutput
    sampling: Sampling

    def ask(self, name: str, prompts: Sequence[Prompt]) -> list[Prediction]:
        """Ask prompts, if there are any, and keep the answers in NAME.jsonl."""
        if not prompts:
            return []
        file = self.open(name, prompts)
        return file.fill(self.predictor.predict(file.open_prompts(prompts), self.sampling))

    def open(self, name: str, prompts: Sequence[Prompt]) -> PredictionFile:
        """Open the file NAME.jsonl of the answers to prompts."""
        return PredictionFile(self.space.path(f"{name}.jsonl"), name, [p.id for p in prompts])

    def ask_samples(
        self, name: str, prompts: Sequence[Prompt], samples: range
    ) -> dict[str, list[Prediction]]:
        """Ask every question once for each number of a sample, and keep the answers in NAME.jsonl;
        returns them by question. All but sample 0 say their number in their id."""
        groups = {k: [p._replace(id=f"{p.id}#{k}") if k else p for p in prompts] for k in samples}
        file = self.open(name, [prompt for group in groups.values() for prompt in group])
        for k, group in groups.items():
            if remaining := file.open_prompts(group):
                file.fill(self.predictor.predict(remaining, self.sampling, sample=k))
        return {
            first.id: [file.done[p.id] for p in asked if p.id in file.done]
            for first, *asked in zip(prompts, *groups.values(), strict=True)
        }
