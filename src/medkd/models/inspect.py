"""The shape of a model and single tensors of it, read without loading it: for what must be known
before anything is loaded.

In: a model's folder. Out: sizes, how it stops, the rows of its embeddings. Not done here: loading
(`models.load`).
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from medkd.core.errors import InputError

if TYPE_CHECKING:
    import torch
    from transformers import GenerationConfig


class ModelShape(NamedTuple):
    """Sizes of a model: what memory and time follow from."""

    n_parameters: int
    """Tied embeddings counted once."""
    linears: list[tuple[int, int]]
    """Inputs and outputs of every linear layer but the head: what LoRA is put on."""
    n_layers: int
    hidden_size: int
    vocabulary: int
    input_name: str
    """Of the embeddings in the weights."""
    output_name: str
    """Of the head in the weights; the same where the two are tied."""

    @property
    def n_linear(self) -> int:
        return sum(inputs * outputs for inputs, outputs in self.linears)

    @property
    def is_tied(self) -> bool:
        return self.input_name == self.output_name

    def count_lora(self, rank: int) -> int:
        """Count the parameters of an adapter on all linear layers."""
        return sum(rank * (inputs + outputs) for inputs, outputs in self.linears)


def read_model_shape(folder: Path, trust_remote_code: bool = False) -> ModelShape:
    """Build a model of a folder's config without weights, and measure it; raises InputError for an
    unknown kind."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(
            folder, trust_remote_code=trust_remote_code, local_files_only=True
        )
        with torch.device("meta"):
            model = cast(
                Any, AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
            )
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{folder}: its config.json describes no model known here ({str(error).splitlines()[0][:160]})"
        ) from error
    text = config.get_text_config()
    head = model.get_output_embeddings()
    linears = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    names = {id(tensor): name for name, tensor in model.named_parameters(remove_duplicate=False)}
    input_name = next(
        name
        for name, tensor in model.named_parameters()
        if tensor is model.get_input_embeddings().weight
    )
    return ModelShape(
        n_parameters=sum(tensor.numel() for tensor in model.parameters()),
        linears=[(m.in_features, m.out_features) for m in linears],
        n_layers=int(text.num_hidden_layers),
        hidden_size=int(text.hidden_size),
        vocabulary=int(text.vocab_size),
        input_name=input_name,
        output_name=input_name
        if head is None or text.tie_word_embeddings
        else names[id(head.weight)],
    )


def read_tensor(folder: Path, name: str) -> "torch.Tensor | None":
    """Read one tensor of a model's weights; None where no file of the folder holds it."""
    from safetensors import SafetensorError, safe_open

    index = folder / "model.safetensors.index.json"
    try:
        if index.exists():
            holder = json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).get(name)
            files = [folder / holder] if holder else []
        else:
            files = sorted(folder.glob("*.safetensors"))
        for path in files:
            with safe_open(path, framework="pt") as weights:
                if name in weights.keys():  # noqa: SIM118 - it is no mapping
                    return weights.get_tensor(name)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(
            f"{folder}: its weights cannot be read ({str(error).splitlines()[0][:160]}); fetch the model again"
        ) from error
    return None


def read_generation_config(folder: Path) -> "GenerationConfig":
    """Read how a model says its generation ends; where it has no such file, its config says."""
    from transformers import AutoConfig, GenerationConfig

    try:
        if (folder / "generation_config.json").exists():
            return GenerationConfig.from_pretrained(folder, local_files_only=True)
        return GenerationConfig.from_model_config(
            AutoConfig.from_pretrained(folder, local_files_only=True)
        )
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder}: its generation config cannot be read ({str(error).splitlines()[0][:160]}); mend or remove it"
        ) from error
