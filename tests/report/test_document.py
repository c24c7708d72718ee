from medkd.core.i18n import Texts
from medkd.report.document import Document, Section, Table, write_document


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
