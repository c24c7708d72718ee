"""What a reasoning cites is looked up in the record, however either of them writes it."""

import pytest

from medkd.grading.grounding import find_claims, grounded_rate

RECORD = (
    "体温38。5℃，中性粒细胞0.88，血压150-170/90-100mmHg，心率一百零二次/分，血小板15万，"
    "白细胞16000/L，血糖7.0mmol/L，病程三十八天，无发热，否认胸痛、心悸"
)


@pytest.mark.parametrize(
    "told",
    [
        "体温38.5℃",
        "体温38度5",
        "体温101.3°F",
        "體溫３８．５℃",
        "中性粒细胞88%",
        "中性粒细胞0.88",
        "血压最高170/100mmHg",
        "血压150/90mmHg",
        "血压22.7/13.3kPa",
        "心率102次/分",
        "血小板150×10^9/L",
        "血小板15万",
        "白细胞16×10^9/L",
        "白细胞1.6万",
        "白细胞16,000",
        "血糖126mg/dL",
        "病程38天",
        "無發熱",
    ],
)
def test_a_finding_told_otherwise_is_grounded(told):
    claims = find_claims(told, RECORD)
    assert claims and all(stands for _, stands in claims), claims


@pytest.mark.parametrize("told", ["BMI 37", "a white count of 16", "48 hours of pain"])
def test_a_value_rounded_and_days_told_as_hours_are_grounded(told):
    claims = find_claims(told, "2 days of pain. BMI 37.2. WBC 16.2.")
    assert claims and all(stands for _, stands in claims), claims


@pytest.mark.parametrize("told", ["BMI 38", "potassium 5", "72 hours of pain"])
def test_what_is_not_the_rounded_value_is_not(told):
    assert not all(stands for _, stands in find_claims(told, "2 days. BMI 37.2. Potassium 5.4."))


@pytest.mark.parametrize(
    "told",
    ["体温39.5℃", "體溫39度5", "中性粒细胞78%", "血压180/110mmHg", "心率120次/分", "白细胞2.6万"],
)
def test_another_value_is_not(told):
    claims = find_claims(told, RECORD)
    assert claims and not any(stands for _, stands in claims), claims


def test_findings_are_compared_in_either_script():
    assert find_claims("患者有發熱，伴心悸", RECORD) == [("有发热", False), ("有心悸", False)]
    assert grounded_rate("無胸痛，無發熱", "無發熱，否認胸痛") == 1.0


@pytest.mark.parametrize(
    "piece", ["体温39.2℃，", "无发热，", "血压12", "12 ", "无及", "否认", "一百"]
)
def test_claims_of_long_texts_are_found(piece):
    assert isinstance(find_claims(piece * 4000, piece * 4000), list)
