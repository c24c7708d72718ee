"""What a person can do wrong in a form is told in Chinese, as the program really says it."""

import asyncio
import errno
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from english import find_english

from medkd.completers.limits import Budget
from medkd.completers.providers import find_target
from medkd.core.config import make_config
from medkd.core.errors import MedkdError, from_os_error
from medkd.core.jsonl import RecordReader, resolve_input
from medkd.core.records import Case
from medkd.core.stage_output import open_stage_output
from medkd.models.load import choose_device, load_model, resolve_model
from medkd.studio.texts import Texts
from medkd.train.preflight import Cause, Finding, refuse
from medkd.verify.stage import Config


def read_cases(folder: Path, line: str) -> None:
    (folder / "cases.jsonl").write_text(f"{line}\n", encoding="utf-8")
    list(RecordReader(folder / "cases.jsonl", Case, "deidentify"))


def open_twice(folder: Path) -> None:
    for min_f1 in (0.6, 0.7):
        config = Config(input=folder, out=folder / "verify", min_f1=min_f1)
        with open_stage_output("verify", config, {"input": folder}, ["verified.jsonl"]):
            pass


def make_model(folder: Path, weights: str, **config: object) -> None:
    (folder / "config.json").write_text(json.dumps(config))
    (folder / weights).write_bytes(b"")
    resolve_model(str(folder))


def raise_error(error: Exception) -> None:
    raise error


TOO_BIG = Finding(
    Cause.MEMORY,
    "lora needs about 9.9 GiB on each device, 3.4 GiB are there",
    "lower --batch-size or --max-length",
    is_repaired=False,
)
MISTAKES: dict[str, Callable[[Path], object]] = {
    "没有此文件；请先运行 merge": lambda folder: resolve_input(
        folder, "train.jsonl", made_by="merge"
    ),
    "JSON 格式有误": lambda folder: read_cases(folder, "no json"),
    "这不是 Case 文件，请先运行 deidentify": lambda folder: read_cases(folder, "{}"),
    "没有密钥": lambda _: find_target("deepseek"),
    "未知服务商；可能想写 'deepseek'": lambda _: find_target("deep_seek"),
    "没有此模型": lambda _: find_target("deepseek", "no_such_model"),
    "torch 在这里找不到 GPU": lambda _: choose_device("cuda"),
    "没有此目录，也不是 owner/model 形式的名称": lambda _: resolve_model("no_such_model"),
    "可能执行任意代码；请转换为 safetensors": lambda folder: make_model(
        folder, "pytorch_model.bin"
    ),
    "请先阅读该代码": lambda folder: make_model(
        folder, "model.safetensors", auto_map={"AutoModel": "x.Y"}
    ),
    "请提高预算": lambda _: asyncio.run(Budget(1.0, 0.9, "CNY").reserve(0.2)),
    "是用另一份配置或输入生成的（有改动：min_f1）": open_twice,
    "应不大于 1.0（当前为 7）；请在文件中改正": lambda folder: make_config(
        Config, {"input": folder, "out": folder, "min_f1": 7}, "verify"
    ),
    "未知字段 'min_f2'；可能想写 'min_f1'": lambda folder: make_config(
        Config, {"min_f2": 1}, "verify"
    ),
    "内存不足：lora 在每个设备上约需 9.9 GiB，现有 3.4 GiB；请调小批大小或最大行长": lambda folder: (
        refuse([TOO_BIG], str(folder))
    ),
    "磁盘已满；请腾出空间": lambda folder: raise_error(
        from_os_error(OSError(errno.ENOSPC, "No space left on device", str(folder)))
    ),
}


@pytest.mark.parametrize("told", MISTAKES)
def test_a_mistake_is_told_in_chinese_with_its_next_step(
    told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DEEPSEEK_API_KEY", raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(MedkdError) as caught:
        MISTAKES[told](tmp_path)
    said = Texts("zh").say(str(caught.value)).replace(str(tmp_path), "")
    assert told in said
    assert find_english(said) == [], said


@pytest.mark.slow
def test_an_adapter_of_another_base_is_told_in_chinese(trained_dir: Path) -> None:
    with pytest.raises(MedkdError) as caught:
        load_model("medkd:tiny", adapter=trained_dir / "adapter", device="cpu")
    assert re.search("上训练的，不是 medkd:tiny；请把模型填为", Texts("zh").say(str(caught.value)))
