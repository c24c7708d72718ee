import torch

from medkd.models.load import load_model
from medkd.train.student import ATTENTION, load_student


def test_a_student_attends_in_float32_as_exactly_as_a_float32_one(random_model_dir):
    ids = torch.randint(0, 200, (3, 40), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 30:] = 0
    exact = load_student(random_model_dir, "m", "lora", torch.float32, "cpu")
    usual = load_model(str(random_model_dir), device="cpu", dtype="float32").model
    for given in ({}, {"attention_mask": mask}):
        logits = [model(input_ids=ids, **given).logits[mask.bool()] for model in (exact, usual)]
        assert torch.allclose(*logits, atol=1e-5)
    half = load_student(random_model_dir, "m", "lora", torch.bfloat16, "cpu")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        off = (half(input_ids=ids).logits.float() - usual(input_ids=ids).logits).abs().max()
    assert off < 0.2 and half.config._attn_implementation == ATTENTION


def test_how_a_student_attends_in_training_is_not_saved_with_it(random_model_dir, tmp_path):
    load_student(random_model_dir, "m", "full", torch.float32, "cpu").save_pretrained(tmp_path)
    assert ATTENTION not in (tmp_path / "config.json").read_text()
    assert load_model(str(tmp_path), device="cpu").model.config._attn_implementation == "sdpa"
