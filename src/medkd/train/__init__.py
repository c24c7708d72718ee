"""LoRA fine-tuning of a student on its teacher's reasoning, or on bare answers for comparison."""
