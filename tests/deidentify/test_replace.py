import json
import re
from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medkd.core.errors import InputError
from medkd.core.jsonl import RecordReader, write_records
from medkd.core.records import Case, RawCase
from medkd.deidentify.dates import DateShifter
from medkd.deidentify.numbers import is_id_card
from medkd.deidentify.replace import Plan, Replacer, deidentify_case, open_map
from medkd.deidentify.rules import VERSION, Category
from medkd.deidentify.search import find_identifiers
from medkd.deidentify.stage import Config, run
from medkd.demo.synthetic_cases import generate_cases


def make_case(**sections: str) -> RawCase:
    return RawCase(
        id="files:1", source="files", title="病例一例", sections=sections, diagnosis=("脑积水",)
    )


def test_the_same_name_gets_the_same_surrogate_throughout_a_case() -> None:
    case = make_case(
        现病史="患者张建国，男，60岁，由其女张晓梅陪同。",
        诊治经过="张建国于术后好转，与张晓梅谈话。",
    )
    clean = deidentify_case(case).case
    assert clean.sections["现病史"] == "患者[姓名1]，男，60岁，由其女[姓名2]陪同。"
    assert clean.sections["诊治经过"] == "[姓名1]于术后好转，与[姓名2]谈话。"
    assert clean.deidentified_by == VERSION


def test_an_english_case_has_english_marks_that_a_second_pass_leaves_alone() -> None:
    text = "Mr John Harlow, phone 555-867-5309, was seen by Dr Alice Holt. Mr Harlow went home."
    case = RawCase(id="files:1", source="files", sections={"Course": text}, diagnosis=("Gout",))
    clean = deidentify_case(case).case
    assert clean.sections["Course"] == (
        "Mr [name 1], phone [phone 1], was seen by Dr [name 2]. Mr [name 1] went home."
    )
    again = RawCase.model_validate(clean.model_dump(include={*RawCase.model_fields}))
    assert deidentify_case(again).case.sections == clean.sections


def test_two_patients_in_one_case_get_two_surrogates() -> None:
    case = make_case(
        现病史="患者张建国，男，45岁。同病室患者李秀英，女，60岁，与张建国同日发病。李秀英已出院。",
        诊治经过="张建国好转。",
    )
    clean = deidentify_case(case).case.sections
    assert (
        clean["现病史"]
        == "患者[姓名1]，男，45岁。同病室患者[姓名2]，女，60岁，与[姓名1]同日发病。[姓名2]已出院。"
    )
    assert clean["诊治经过"] == "[姓名1]好转。"


def test_title_and_diagnosis_are_cleaned_too_and_id_and_address_of_the_page_stay() -> None:
    case = RawCase(
        id="iiyi:9",
        source="iiyi",
        url="https://example.com/show/9-1.html",
        title="患者王秀英，女，脑积水一例",
        sections={"主诉": "头痛3天。"},
        diagnosis=("脑积水（云溪市第一人民医院）",),
    )
    clean = deidentify_case(case).case
    assert (clean.id, clean.url) == (case.id, case.url)
    assert clean.title == "患者[姓名1]，女，脑积水一例"
    assert clean.diagnosis == ("脑积水（[医院1]）",)


def test_a_case_without_identifiers_comes_back_unchanged() -> None:
    case = make_case(主诉="发热3天。", 查体="T：38.5℃，P：90次/分，BP：120/80mmHg。")
    result = deidentify_case(case)
    clean = result.case
    assert not result.matches and not result.residue
    assert clean.sections == case.sections


def test_intervals_between_dates_survive_in_whatever_form_they_are_written() -> None:
    case = make_case(
        现病史="2021年12月28日发热，2022-01-03就诊，1月5日好转。", 诊治经过="2022/1/10手术。"
    )
    clean = deidentify_case(case).case
    text = clean.sections["现病史"] + clean.sections["诊治经过"]
    moved = re.fullmatch(
        r"(\d+)年(\d+)月(\d+)日发热，(\d+)-(\d\d)-(\d\d)就诊，(\d+)月(\d+)日好转。(\d+)/(\d+)/(\d+)手术。",
        text,
    )
    assert moved is not None
    numbers = [int(number) for number in moved.groups()]
    first, second, last = (date(*numbers[a : a + 3]) for a in (0, 3, 8))
    assert (second - first, last - second) == (timedelta(days=6), timedelta(days=7))
    assert 1 <= (date(2021, 12, 28) - first).days <= 365
    third = second + timedelta(days=2)
    assert (third.month, third.day) == (numbers[6], numbers[7])


@given(st.dates(date(1950, 1, 1), date(2035, 12, 31)), st.integers(0, 400), st.integers(-365, -1))
def test_two_dates_keep_their_distance(first: date, gap: int, offset: int) -> None:
    shifter = DateShifter(offset)
    second = first + timedelta(days=gap)
    moved = [date.fromisoformat(shifter.shift(f"{day:%Y-%m-%d}")) for day in (first, second)]
    assert moved[1] - moved[0] == second - first
    assert moved[0] != first


def test_a_day_of_a_month_named_before_moves_with_it() -> None:
    shifter = DateShifter(-20)
    assert shifter.shift("2021年9月12日") == "2021年8月23日"
    assert shifter.shift("25日") == "9月5日"
    assert shifter.shift("2日") == "12日"


def test_what_is_no_date_cannot_be_moved() -> None:
    assert DateShifter(-5).shift("13月45日") is None


def test_ages_over_89_are_told_as_90_or_older() -> None:
    clean = deidentify_case(make_case(基本信息="男，93岁，退休", 现病史="89岁起病。")).case
    assert clean.sections == {"基本信息": "男，90岁以上，退休", "现病史": "89岁起病。"}


def test_all_identifiers_of_the_rehearsal_clinic_are_gone() -> None:
    n_planted = 0
    for case in generate_cases(300, seed=5):
        text = " ".join(deidentify_case(case.to_raw_case()).case.sections.values())
        n_planted += len(case.identifiers)
        for category, planted in case.identifiers:
            assert planted not in text, (category, planted)
    assert n_planted > 100


def test_a_second_pass_finds_nothing_but_dates() -> None:
    case = make_case(
        现病史="患者张建国，男，住院号123456，2021年3月5日由江西省赣州市章贡区红旗大道86号送至赣州市第一人民医院。"
    )
    clean = deidentify_case(case).case
    again = [find.rule for text in clean.sections.values() for find in find_identifiers(text)]
    assert again == ["date_full"]


@pytest.mark.parametrize(
    ("text", "moved"),
    [
        ("21年3月5日", "21年2月23日"),
        ("12.25", "12.15"),
        ("03/15/1950", "03/05/1950"),
        ("25/03/1950", "15/03/1950"),
        ("March 15, 2021", "March 5, 2021"),
        ("15 Mar 2021", "5 Mar 2021"),
        ("Mar 2021", "Mar 2021"),
        ("二〇二一年三月十五日", "二〇二一年三月五日"),
        ("二零二一年", "二〇二一年"),
        ("22/3/15", "22/3/5"),
        ("03-15", "03-05"),
        ("15-Mar-2021", "5-Mar-2021"),
        ("09年8月", "09年8月"),
        ("2022年元月15日", "2022年1月5日"),
        ("2022年2月30日", "2022年2月18日"),
        ("2022年3月上旬", "2022年2月下旬"),
        ("8月中旬", "8月上旬"),
        ("2021-3", "2021-3"),
    ],
)
def test_dates_move_in_every_form_they_are_written_in(text: str, moved: str) -> None:
    assert DateShifter(-10).shift(text) == moved


@given(st.text(alphabet="0123456789年月日号.-/ 一二三十〇MarchJn,", max_size=14))
def test_any_text_can_be_shifted(text: str) -> None:
    DateShifter(-100).shift(text)


def test_surrogates_that_look_real_are_consistent_and_belong_to_nobody() -> None:
    case = make_case(
        现病史="患者张建国，男，身份证号11010519491231002X，电话13812345678，由江西省赣州市章贡区红旗大道86号送至赣州市第一人民医院。",
        诊治经过="张建国于术后好转，病理号：2021-04567，王主任查房。",
    )
    clean = deidentify_case(case, Plan(natural=True)).case
    text = " ".join(clean.sections.values())
    for original in (
        "张建国",
        "11010519491231002X",
        "13812345678",
        "红旗大道",
        "第一人民医院",
        "04567",
        "王主任",
        "[",
    ):
        assert original not in text
    name = clean.sections["现病史"][2:].split("，")[0]
    assert len(name) == 3 and clean.sections["诊治经过"].startswith(f"{name}于术后好转")
    number = re.search(r"身份证号(\w{18})", text)
    assert (
        number is not None
        and number[1].startswith("99")
        and not is_id_card("110105" + number[1][6:])
    )
    assert deidentify_case(case, Plan(natural=True)).case == clean


@given(st.sampled_from(list(Category)), st.text(max_size=20), st.integers(0, 2**63))
def test_any_text_of_any_category_gets_a_surrogate(
    category: Category, text: str, seed: int
) -> None:
    surrogates = Replacer(0, True, seed)
    assert surrogates.of(category, text) == surrogates.of(category, text)


@settings(deadline=None)
@given(
    st.dictionaries(st.text(max_size=5), st.text(max_size=60), max_size=4),
    st.booleans(),
)
def test_any_case_can_be_de_identified(sections: dict[str, str], natural: bool) -> None:
    deidentify_case(make_case(**sections), Plan(natural))


SECRET = "a secret of this house, 1234"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    notes = [
        ("files:1", "李建国，男，2021年3月5日入院，王主任查房。"),
        ("files:2", "2021年3月9日复查，患者李建国，女儿王芳陪同。王主任查房。"),
    ]
    cases = [
        RawCase(id=id_, source="files", sections={"病案": "P-77", "现病史": text})
        for id_, text in notes
    ]
    write_records(tmp_path / "raw" / "raw_cases.jsonl", cases)
    (tmp_path / "secret").write_text(SECRET)
    return tmp_path / "raw"


def deidentified(source: Path, out: str, **fields: object) -> list[str]:
    top = source.parent
    run(Config(input=source, out=top / out, secret_file=top / "secret", **fields))  # pyright: ignore[reportArgumentType]
    return [
        case.sections["现病史"]
        for case in RecordReader(top / out / "cases.jsonl", Case, made_by="deidentify")
    ]


def test_one_patient_gets_one_shift_and_one_mark_in_all_notes_and_runs(source: Path) -> None:
    first, second = deidentified(source, "a", patient_key="病案")
    name = first.split("，")[0]
    assert name.startswith("[姓名") and name in second and "李建国" not in first + second
    days = [re.search(r"(\d+)年(\d+)月(\d+)日", text) for text in (first, second)]
    first_day, second_day = (date(*map(int, day.groups())) for day in days if day)
    assert (second_day - first_day).days == 4 and first_day.year < 2022
    assert deidentified(source, "b", patient_key="病案") == [first, second]


def test_another_secret_gives_other_marks_and_dates(source: Path) -> None:
    before = deidentified(source, "a", patient_key="病案")
    (source.parent / "secret").write_text("another secret of this house")
    assert deidentified(source, "b", patient_key="病案") != before


def test_a_finished_directory_is_not_taken_for_that_of_another_secret(source: Path) -> None:
    deidentified(source, "a", patient_key="病案")
    (source.parent / "secret").write_text("another secret of this house")
    with pytest.raises(InputError, match="overwrite"):
        deidentified(source, "a", patient_key="病案")


def test_a_case_without_the_key_is_counted_and_said(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = source / "raw_cases.jsonl"
    rows.write_text(rows.read_text().replace('"病案"', '"就诊人"', 1))
    deidentified(source, "a", patient_key="就诊人")
    manifest = json.loads((source.parent / "a" / "manifest.json").read_text())
    assert manifest["facts"]["without_patient_key"] == 1
    assert "1 of 2 cases have no 就诊人" in capsys.readouterr().err


def test_a_key_that_no_case_has_is_refused_with_the_way_to_keep_a_column(source: Path) -> None:
    with pytest.raises(InputError, match="--columns 就诊号=就诊号"):
        deidentified(source, "a", patient_key="就诊号")


def test_the_map_is_sealed_and_opens_with_the_secret_alone(source: Path) -> None:
    path = source.parent / "map.sealed"
    deidentified(source, "a", patient_key="病案", map=path)
    assert "李建国" not in path.read_text() and path.stat().st_mode & 0o077 == 0
    rows = open_map(path, SECRET.encode())
    assert [row["id"] for row in rows] == ["files:1", "files:2"]
    assert "李建国" in rows[0]["surrogates"].values() and rows[0]["days"] == rows[1]["days"]
    with pytest.raises(InputError, match="another secret"):
        open_map(path, b"not the secret of it")


def test_the_secret_stands_in_no_file(source: Path) -> None:
    deidentified(source, "a", patient_key="病案", map=source.parent / "map.sealed")
    written = [
        path for path in source.parent.rglob("*") if path.is_file() and path.name != "secret"
    ]
    assert all(SECRET.encode() not in path.read_bytes() for path in written)


def test_a_short_secret_and_a_map_that_cannot_be_kept_are_refused_at_once(source: Path) -> None:
    with pytest.raises(InputError, match="outside"):
        deidentified(source, "a", map=source.parent / "a" / "map.sealed")
    with pytest.raises(InputError, match="directory"):
        deidentified(source, "a", map=source.parent)
    assert not (source.parent / "a").exists()
    (source.parent / "secret").write_text("short")
    with pytest.raises(InputError, match="at least 16 characters"):
        deidentified(source, "a", patient_key="病案")
