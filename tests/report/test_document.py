from medkd.core.i18n import Texts
from medkd.report.document import Document, Section, Table, Wording, write_document


def test_a_new_report_leaves_no_table_of_an_earlier_one_and_nothing_of_a_person_is_deleted(
    tmp_path,
):
    def write(*names):
        tables = [Table(name, name, ["score"], [["1"]]) for name in names]
        document = Document("T", [], [Section("S", tables=tables)], "")
        write_document(document, tmp_path, tmp_path / "report.html", Texts("en"))
        return {path.name for path in (tmp_path / "tables").iterdir()}

    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "mine.csv").write_text("n")
    ours = {f"{name}.{ending}" for name in ("one", "two") for ending in ("csv", "tex", "md")}
    assert write("one", "two") == {"mine.csv", *ours}
    assert write("one") == {"mine.csv", "one.csv", "one.tex", "one.md"}
    (tmp_path / ".files.json").write_text('["tables/mine.csv", "../x", 3]')
    assert "one.csv" in write("one")


def test_only_what_has_no_place_to_break_is_broken_anywhere():
    assert Table.is_long("runs/somewhere/evaluate-answers/predictions.jsonl")
    assert not Table.is_long("McNemar, 319 gained, 0 lost; not significant")
    assert not Table.is_long("think_unprompted_rate")


def test_chinese_sentences_stand_without_a_space_between_them():
    assert Wording(Texts("zh")).join(["一。", "二。"]) == "一。二。"
    assert Wording(Texts("en")).join(["One.", "Two."]) == "One. Two."
