"""The settings of the stage `evaluate`.

Not done here: what they lead to (`evaluate.stage`).
"""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from medkd.core.config import RUNTIME, SENDS_KEY, AcceptIdentified, Seed, StageConfig
from medkd.core.records import Language, Split
from medkd.core.task import TaskFile
from medkd.grading.terms import TermsFile
from medkd.models.load import Device, Dtype, Hub


class Config(StageConfig):
    """Ask a model the questions of a split and score its answers, or score the answers of a
    file."""

    model: str = ""
    """Model: medkd:tiny, a folder, a GGUF file, a name on a hub, or its name at --endpoint."""
    adapter: Annotated[Path | None, RUNTIME] = None
    """Directory of `train`, or an adapter folder; its tokenizer and template are used."""
    input: Annotated[Path | None, RUNTIME] = None
    """Directory of `merge` or `prepare`, or a file of theirs."""
    split: Split = "test"
    """Split whose questions are asked."""
    exam: str = ""
    """Public questions instead: a file in the form of CMB, CMExam, MedQA, MedMCQA, MedXpertQA or
    HealthBench (which wants a judge), or hf:NAME, hf:NAME:SPLIT, hf:NAME/FILE; ms: for
    ModelScope."""
    shuffle_options: int = Field(default=0, ge=0, le=100)
    """Ask an exam again in this many other orders of the options, to show what the order does."""
    general: tuple[str, ...] = ()
    """Questions outside the task, to see what was forgotten: builtin (60 instructions and sums),
    or files in the form of an exam. With --adapter the base is asked them too."""
    rubric: Annotated[Path | None, RUNTIME] = None
    """Directory of `rubric`, or a file of rubrics: the judge checks answers criterion by
    criterion."""
    faithfulness: int = Field(default=0, ge=0, le=10**6)
    """Questions asked again with a finding that the answer cites taken out or turned round, and
    with a wrong thought begun."""
    endpoint: Annotated[str, SENDS_KEY] = ""
    """Ask an OpenAI-compatible endpoint instead: a provider of providers.yaml, or an address."""
    predictions: Annotated[Path | None, RUNTIME] = None
    """Score this file instead: LLaMA-Factory's generated_predictions.jsonl, or predictions of
    another evaluation."""
    task: TaskFile = ""
    """Task file of the rows, where it is not a shipped one; with --predictions, the task of its
    labels (diagnosis, open-question, …), else diagnoses are told from open answers."""
    terms: TermsFile = None
    """Table of codes and names (CSV or Excel: an ICD table, local synonyms): names of one code are
    one diagnosis, longer codes more specific ones."""
    hub: Annotated[Hub, RUNTIME] = "huggingface"
    """Hub from which a named model is downloaded."""
    max_tokens: int = Field(default=1024, ge=1, le=10**6)
    """Maximum length of an answer in tokens."""
    temperature: float = Field(default=0.0, ge=0, le=100)
    """0 takes the likeliest token; R1 models are often sampled at 0.6."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """Nucleus sampling: share of probability to sample from; use 0.95 with a temperature of 0.6."""
    seed: Seed = 0
    """Seed of sampling and of the bootstrap."""
    limit: int | None = Field(default=None, ge=1, le=10**9)
    """Ask only the first questions."""
    instructed: bool = False
    """Put the training instruction in front of every question, instead of asking it bare."""
    samples: int = Field(default=1, ge=1, le=1000)
    """Answers per question, for the majority vote and pass@k; needs a temperature."""
    judge: str = ""
    """Endpoint that judges what rules leave undecided, and open answers: a provider or an address;
    default: none."""
    judge_model: str = ""
    """The judge's model; default: the provider's first."""
    budget: Annotated[float | None, RUNTIME, Field(gt=0, le=10**9)] = None
    """Upper limit of the money on this directory's ledger; a hard stop."""
    accept_identified: AcceptIdentified = False
    """Send an endpoint or a judge also rows without deidentified_by."""
    allow_seen: Annotated[bool, RUNTIME] = False
    """Measure although half of the questions or more were in the training data."""
    batch_size: Annotated[int, RUNTIME] = Field(default=64, ge=1, le=10**5)
    """Questions at a time; halved when memory runs out."""
    dtype: Dtype = "auto"
    """Number format; auto: float32 for a small model on a CPU, else bfloat16 where supported."""
    device: Annotated[Device, RUNTIME] = "auto"
    """Device to compute on."""
    lang: Annotated[Language, RUNTIME] = "en"
    """Language of the report."""
