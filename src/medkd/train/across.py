"""On-policy distillation from a teacher with another tokenizer, by TRL's GOLD trainer: both read
the same text, compared byte by byte.

In: a student and a teacher as they are loaded, the student's questions. Out: a trainer that is
ready to run. TRL calls GOLD experimental. Where tokens of both are the same text their
probabilities are compared by name, elsewhere by rank. Not done here: running the trainer
(`train.onpolicy`); tokenizers that are not byte-level; a teacher that does not know the student's
turn tokens, since it reads the student's own prompt.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from medkd.core.errors import InputError
from medkd.models.chat_template import has_token, special_tokens
from medkd.models.load import LoadedModel
from medkd.train.rollouts import Asked

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OWN_KEYS = (
    "teacher_model_name_or_path",
    "teacher_model_init_kwargs",
    "teacher_tokenizer_name_or_path",
    "max_completion_length",
    "max_length",
    "lmbda",
    "seq_kd",
    "use_uld_loss",
)


def check_tokenizers(
    student: "PreTrainedTokenizerBase", teacher: "PreTrainedTokenizerBase", prompt: str, name: str
) -> None:
    """Raise InputError where texts of the student cannot be compared with the teacher's, byte by
    byte."""
    from trl.experimental.utils import is_byte_level_tokenizer

    advice = 'choose a teacher of the student\'s family, or have it write rationales instead (run "medkd distill")'
    for tokenizer in (student, teacher):
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None or not is_byte_level_tokenizer(backend):
            raise InputError(
                f"{name}: has another tokenizer than the student, and one of the two is not byte-level; {advice}"
            )
    strange = [
        token
        for token in special_tokens(student)
        if token in prompt and not has_token(teacher, token)
    ]
    if strange:
        raise InputError(
            f"{name}: has another tokenizer, which does not know the student's {strange[0]}; {advice}"
        )


def make_trainer(
    student: LoadedModel,
    teacher: LoadedModel,
    teacher_folder: Path,
    questions: Sequence[Asked],
    settings: Mapping[str, Any],
    extra: Mapping[str, Any],
    out: Path,
) -> Any:
    """Put TRL's GOLD trainer together; every answer is the student's own."""
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    from datasets import Dataset, disable_progress_bars
    from trl.experimental.gold import GOLDConfig, GOLDTrainer

    from medkd.models.chat_template import encode
    from medkd.train.trainer_config import build_config, check_keys

    check_keys(GOLDConfig, extra, OWN_KEYS)
    disable_progress_bars()
    longest = max(len(encode(student.tokenizer, question.prompt)) for question in questions)
    own: dict[str, Any] = {
        "teacher_tokenizer_name_or_path": str(teacher_folder),
        "use_uld_loss": True,
        "uld_use_hybrid_loss": True,
        "uld_token_merge_strategy": "bayesian",
        "uld_skip_student_eos": False,  # the teacher scores the end of the turn too; only the end that TRL puts behind it is left out
        "lmbda": 1.0,
        "beta": 0.5,  # bounded: merged pieces leave some tokens without any probability
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "max_length": longest + int(settings["max_completion_length"]) + 1,
    }
    # No answer of ours is learnt; TRL wants a place for one.
    rows = [{"prompt": question.prompt, "completion": ""} for question in questions]
    return GOLDTrainer(
        model=cast(Any, student.model),
        teacher_model=teacher.model,
        args=build_config(GOLDConfig, {**settings, **own}, extra, out / "checkpoints"),
        train_dataset=Dataset.from_list(rows),
        processing_class=student.tokenizer,
    )
