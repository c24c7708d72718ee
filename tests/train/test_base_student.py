"""A Base student, whose special rows nobody trained, comes out thinking and stopping."""

import random

import pytest
import torch

from medkd.completers.transformers_engine import TransformersEngine
from medkd.core import thinking
from medkd.core.records import Example, Lineage, Sampling
from medkd.demo.reasoning import explain
from medkd.demo.synthetic_cases import generate_cases
from medkd.models.chat_template import make_messages, render
from medkd.models.load import load_model
from medkd.train.preflight import Cause
from medkd.train.stage import Config, run
from tiny_corpus import record_line

N_ASKED = 100


def make_examples(n, seed):
    for case in generate_cases(n, seed):
        record, diagnosis = record_line(case), case.diagnosis[0]
        fields = {
            "id": f"clinic:{seed}-{case.number}",
            "source": "clinic",
            "style": "bare",
            "department": case.department,
        }
        lineage = Lineage(origin="clinic", licence="Apache-2.0", teacher="rehearsal")
        yield Example.model_validate(
            fields
            | {
                "input": record,
                "reasoning": explain(record, diagnosis),
                "answer": diagnosis,
                "reference": diagnosis,
                "lineage": lineage,
            }
        )


@pytest.mark.slow
def test_a_base_whose_special_rows_are_untrained_thinks_and_stops_on_bare_unseen_questions(
    tmp_path,
):
    loaded = load_model("medkd:tiny", device="cpu", dtype="float32")
    special = sorted(loaded.tokenizer.added_tokens_decoder)
    torch.manual_seed(0)
    weights = loaded.model.get_input_embeddings().weight
    with torch.no_grad():
        weights[special] = (
            torch.randn(len(special), weights.shape[1]) * loaded.model.config.initializer_range
        )
    loaded.model.to(torch.bfloat16).save_pretrained(tmp_path / "base")
    loaded.tokenizer.save_pretrained(tmp_path / "base")
    examples = list(make_examples(288, 31))
    random.Random(0).shuffle(examples)
    (tmp_path / "train.jsonl").write_text(
        "".join(example.model_dump_json() + "\n" for example in examples), encoding="utf-8"
    )

    manifest = run(
        Config(
            model=str(tmp_path / "base"),
            input=tmp_path / "train.jsonl",
            epochs=2,
            learning_rate=2e-3,
            max_length=1024,
            out=tmp_path / "out",
        )
    )
    [found] = [
        finding
        for finding in manifest.facts["findings"]
        if finding.startswith(Cause.UNTRAINED_TOKENS)
    ]
    assert all(token in found for token in ("<|im_end|>", "<think>", "</think>"))

    student = load_model(str(tmp_path / "base"), tmp_path / "out" / "adapter", device="cpu")
    prompts = [
        render(student.tokenizer, make_messages(example.input))
        for example in make_examples(N_ASKED, 32)
    ]
    answers = [
        generation
        for _, generation in TransformersEngine(student, N_ASKED).generate(
            prompts, Sampling(max_tokens=256)
        )
    ]
    assert (
        sum(thinking.is_well_formed(thinking.PREFIX + answer.text) for answer in answers)
        >= 0.99 * N_ASKED
    )
    assert sum(answer.finish_reason == "stop" for answer in answers) >= 0.99 * N_ASKED
