"""The words of the reports: every text that a page says has its Chinese."""

import json
import re
import string

from medkd.core.yaml_io import read_shipped_yaml
from medkd.evaluate import report
from medkd.evaluate.compare import Config as CompareConfig
from medkd.evaluate.compare import run as compare
from medkd.evaluate.report import DESCRIPTIONS, MORE, Catalogue, Note
from medkd.evaluate.stage import Config, run

TEXTS = read_shipped_yaml("medkd.evaluate", "report_texts.yaml")["zh"]


def fields_of(text):
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_every_translation_keeps_its_placeholders_and_every_score_has_one():
    assert [text for text, said in TEXTS.items() if fields_of(text) != fields_of(said)] == []
    assert {*DESCRIPTIONS.values(), *MORE.values()} <= TEXTS.keys()


def test_a_chinese_page_says_nothing_that_the_catalogue_does_not_hold(tmp_path, monkeypatch):
    missing = set()

    class Recording(Catalogue):
        def __call__(self, text, **values):
            said = text.text if isinstance(text, Note) else text
            if said not in self._texts and re.search("[a-z]{4}", said):
                missing.add(said)
            return super().__call__(text, **values)

    monkeypatch.setattr(report, "Catalogue", Recording)
    for name, answers in {"base": ["骨折"] * 30, "student": ["急性阑尾炎"] * 25 + [""] * 5}.items():
        rows = [
            {"prompt": f"请诊断。{n}" + "痛" * n, "predict": text, "label": "急性阑尾炎"}
            for n, text in enumerate(answers)
        ]
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        run(Config(predictions=path, out=tmp_path / name, lang="zh"))
    compare(
        CompareConfig(
            input=[tmp_path / "base", tmp_path / "student"], out=tmp_path / "c", lang="zh"
        )
    )
    assert missing == set()
    page = (tmp_path / "c/report.html").read_text()
    assert '<html lang="zh">' in page and "student 与 base 对比" in page and "未判定" in page
    assert "Where it is right" not in page and "在哪些题上答对" in page
