from datetime import date, timedelta

from hypothesis import given
from hypothesis import strategies as st

from medkd.core.records import RawCase
from medkd.deidentify.detect import find_identifiers
from medkd.deidentify.replace import DateShifter, deidentify, draw_offset
from medkd.deidentify.rules import VERSION
from medkd.demo.clinic import generate_cases


def make_case(**sections: str) -> RawCase:
    return RawCase(id="files:1", source="files", title="病例一例", sections=sections, diagnosis=("脑积水",))


def test_the_same_name_gets_the_same_surrogate_throughout_a_case() -> None:
    case = make_case(现病史="患者张建国，男，60岁，由其女张晓梅陪同。", 诊治经过="张建国于术后好转，与张晓梅谈话。")
    clean = deidentify(case).case
    assert clean.sections["现病史"] == "患者[姓名1]，男，60岁，由其女[姓名2]陪同。"
    assert clean.sections["诊治经过"] == "[姓名1]于术后好转，与[姓名2]谈话。"
    assert clean.deidentified_by == VERSION


def test_title_and_diagnosis_are_cleaned_too_and_id_and_address_of_the_page_stay() -> None:
    case = RawCase(
        id="iiyi:9",
        source="iiyi",
        url="https://example.com/show/9-1.html",
        title="患者王秀英，女，脑积水一例",
        sections={"主诉": "头痛3天。"},
        diagnosis=("脑积水（云溪市第一人民医院）",),
    )
    clean = deidentify(case).case
    assert (clean.id, clean.url) == (case.id, case.url)
    assert clean.title == "患者[姓名1]，女，脑积水一例"
    assert clean.diagnosis == ("脑积水（[医院1]）",)


def test_a_case_without_identifiers_comes_back_unchanged() -> None:
    case = make_case(主诉="发热3天。", 查体="T：38.5℃，P：90次/分，BP：120/80mmHg。")
    clean, finds = deidentify(case)
    assert not finds
    assert clean.sections == case.sections


def test_intervals_between_dates_survive_in_whatever_form_they_are_written() -> None:
    case = make_case(现病史="2021年12月28日发热，2022-01-03就诊，1月5日好转。", 诊治经过="2022/1/10手术。")
    clean = deidentify(case).case
    offset = timedelta(days=draw_offset(case))
    first, second, last = (day + offset for day in (date(2021, 12, 28), date(2022, 1, 3), date(2022, 1, 10)))
    assert f"{first.year}年{first.month}月{first.day}日发热" in clean.sections["现病史"]
    assert f"{second:%Y-%m-%d}就诊" in clean.sections["现病史"]
    assert clean.sections["诊治经过"] == f"{last.year}/{last.month}/{last.day}手术。"


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


def test_what_is_no_date_stays() -> None:
    assert DateShifter(-5).shift("13月45日") == "13月45日"


def test_ages_over_89_are_told_as_90_or_older() -> None:
    clean = deidentify(make_case(基本信息="男，93岁，退休", 现病史="89岁起病。")).case
    assert clean.sections == {"基本信息": "男，90岁以上，退休", "现病史": "89岁起病。"}


def test_all_identifiers_of_the_rehearsal_clinic_are_gone() -> None:
    n_planted = 0
    for case in generate_cases(300, seed=5):
        raw = RawCase(id=f"iiyi:{case.number}", source="iiyi", title=case.title, sections=case.sections, diagnosis=case.diagnosis)
        text = " ".join(deidentify(raw).case.sections.values())
        n_planted += len(case.identifiers)
        for category, planted in case.identifiers:
            assert planted not in text, (category, planted)
    assert n_planted > 100


def test_a_second_pass_finds_nothing_but_dates() -> None:
    case = make_case(现病史="患者张建国，男，住院号123456，2021年3月5日由江西省赣州市章贡区红旗大道86号送至赣州市第一人民医院。")
    clean = deidentify(case).case
    again = [find.rule for text in clean.sections.values() for find in find_identifiers(text)]
    assert again == ["date_full"]
