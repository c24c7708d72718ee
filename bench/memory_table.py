"""Prints what a training needs on one GPU, by size of model and method, as `medkd doctor` says it.

Out: a Markdown table of `medkd.train.memory.SIZES`. Not done here: measuring (`train_memory.py`
holds the formula against a processor).
"""

from medkd.train.memory import GIB, METHODS, SIZES, Workload, estimate_memory, make_shape

ROWS_A_STEP, TOKENS_A_ROW = 2, 4096


def main() -> None:
    load = Workload(16, ROWS_A_STEP * TOKENS_A_ROW, 2, is_checkpointed=True, on_gpu=True)
    print("| model | parameters | " + " | ".join(METHODS) + " | full, 8 GPUs, FSDP2 |")
    print("|---|---|---|---|---|---|")
    for name in SIZES:
        shape = make_shape(name)
        needs = [estimate_memory(shape, method, load) for method in METHODS]
        needs.append(estimate_memory(shape, "full", load._replace(n_devices=8), "zero3 / fsdp2"))
        cells = " | ".join(f"{need / GIB:.0f}" for need in needs)
        print(f"| {name} | {shape.n_parameters / 1e9:.1f} B | {cells} |")


if __name__ == "__main__":
    main()
