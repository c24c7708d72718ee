"""Adapters on the head or the embedding of a tied pair: what is asked and exported is one model."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from medkd.core.errors import InputError
from medkd.export.stage import export
from medkd.models.load import load_model

IDS = torch.arange(20, 60)[None]


def make_adapter(base, folder, **options):
    """Save an adapter whose every tensor was changed, and return the logits of base and adapter."""
    torch.manual_seed(1)
    model = load_model(str(base), device="cpu", dtype="float32").model
    tuned = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, **options))
    with torch.no_grad():
        for weights in tuned.parameters():
            if weights.requires_grad:
                weights += torch.randn_like(weights) * 0.1
    tuned.save_pretrained(folder, save_embedding_layers=False)
    loaded = load_model(str(base), device="cpu", dtype="float32").model
    with torch.inference_mode():
        return PeftModel.from_pretrained(loaded, str(folder)).eval()(IDS).logits


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["lm_head", "q_proj"]},
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
        {"target_modules": ["q_proj", "v_proj"]},
        {"target_modules": ["q_proj"], "trainable_token_indices": [256, 257, 259]},
        {"target_modules": ["q_proj", "v_proj"], "use_dora": True},
    ],
    ids=["head", "embedding", "whole head", "whole embedding", "neither", "single tokens", "DoRA"],
)
def test_what_is_asked_and_exported_is_base_and_adapter(random_model_dir, tmp_path, options):
    wanted = make_adapter(random_model_dir, tmp_path / "adapter", **options)
    asked = load_model(str(random_model_dir), tmp_path / "adapter", device="cpu", dtype="float32")
    export(str(random_model_dir), tmp_path / "adapter", tmp_path / "out")
    exported = load_model(str(tmp_path / "out"), device="cpu", dtype="float32")
    for loaded in (asked, exported):
        with torch.inference_mode():
            got = loaded.model(IDS).logits
        assert torch.equal(got.argmax(-1), wanted.argmax(-1))
        assert torch.allclose(got, wanted, atol=1e-3)


def test_a_head_and_single_tokens_of_a_tied_embedding_are_refused(random_model_dir, tmp_path):
    options = {"target_modules": ["lm_head", "q_proj"], "trainable_token_indices": [256]}
    make_adapter(random_model_dir, tmp_path / "adapter", **options)
    with pytest.raises(InputError, match="cannot be merged") as caught:
        load_model(str(random_model_dir), tmp_path / "adapter", device="cpu")
    assert "\n" not in str(caught.value)


def test_an_adapter_with_a_resized_vocabulary_is_refused_in_one_line(random_model_dir, tmp_path):
    model = load_model(str(random_model_dir), device="cpu", dtype="float32").model
    model.resize_token_embeddings(model.config.vocab_size + 8)
    tuned = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"]))
    tuned.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    with pytest.raises(InputError, match="give the model it was trained on") as caught:
        load_model(str(random_model_dir), tmp_path / "adapter", device="cpu")
    assert "\n" not in str(caught.value)
