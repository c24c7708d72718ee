"""Which words of an English diagnosis tell it, and where they stand."""

import pytest

from medkd.prepare.aliases import collect_aliases
from medkd.prepare.english import find_name, read_english
from medkd.prepare.leakage import remove_answer


def find(diagnosis: str, text: str) -> list[str]:
    name = read_english(diagnosis)
    assert name is not None
    return [text[start:end] for start, end in find_name(text, name)]


@pytest.mark.parametrize(
    ("diagnosis", "text", "found"),
    [
        ("Left breast carcinoma", "cancer of the left breast", ["cancer of the left breast"]),
        ("Acute pulmonary embolism", "bilateral pulmonary emboli", ["bilateral pulmonary emboli"]),
        ("Relapsing-remitting multiple sclerosis", "her MS nurse", ["MS"]),
        (
            "Fracture of the left femoral neck",
            "a fractured neck of femur",
            ["fractured neck of femur"],
        ),
        ("Subarachnoid haemorrhage", "aSAH day 3", ["aSAH"]),
        ("Kawasaki disease", "the Kawasaki clinic", ["Kawasaki"]),
        ("Acute gouty arthritis", "probable podagra", ["probable podagra"]),
        ("Pulmonary tuberculosis", "smear-positive TB", ["smear-positive TB"]),
        ("Guillain-Barré syndrome (AIDP)", "AIDP subtype", ["AIDP"]),
        ("Pneumonia", "Klebsiella pneumonia", ["pneumonia"]),
        ("Pressure ulcer", "a pressure ulcer", ["pressure ulcer"]),
        ("Alcoholic cirrhosis", "a cirrhotic liver", ["cirrhotic"]),
        ("Type 2 diabetes mellitus", "found diabetes", ["diabetes"]),
        ("Pneumonia", "vitamin D. Pneumonia", ["Pneumonia"]),
    ],
)
def test_a_disease_is_found_by_its_words_in_any_order_and_by_its_initials(
    diagnosis: str, text: str, found: list[str]
) -> None:
    assert find(diagnosis, text) == found


@pytest.mark.parametrize(
    ("diagnosis", "text"),
    [
        ("Left breast carcinoma", "a lump in the left breast"),
        ("Rheumatoid arthritis", "98% on RA"),
        ("Bullous pemphigoid", "BP 120/80, no pemphigus"),
        ("Acute pancreatitis", "pancreatic enzymes"),
        ("Chronic kidney disease", "kidneys of normal size"),
        ("Meningococcal meningitis", "Neisseria meningitidis grew"),
        ("Pulmonary tuberculosis", "M. tuberculosis complex"),
        ("Pneumonia", "Klebsiella pneumoniae grew"),
        ("Congestive Heart Failure", "Heart rate 100, heart sounds normal"),
        ("Diffuse large B-cell lymphoma", "Lymphocytes 20%"),
        ("Febrile neutropenia", "Neutrophils 0.3"),
        ("Subdural hematoma", "Hematocrit 30%"),
        ("Acute prostatitis", "The prostate was tender"),
        ("Acute conjunctivitis", "Conjunctiva injected"),
        ("Acute bacterial gastroenteritis", "ABG showed acidosis"),
        ("Chronic obstructive pulmonary disease", "Seen in OPD"),
        ("Pneumonia and heart failure", "and failure to respond"),
        ("Heart failure with reduced ejection fraction", "respiratory failure with hypoxia"),
        ("Pressure ulcer", "blood pressure 120/80"),
        ("Down syndrome", "lying down"),
        ("Short bowel syndrome", "short of breath"),
        ("Sudden hearing loss", "loss of consciousness"),
        ("Alcohol use disorder", "no use of drugs"),
        ("Snake bite", "a snake in the grass"),
        ("Whooping cough", "cough for two weeks"),
        ("Tension headache", "headache, a tension of the neck"),
        ("Fever of unknown origin", "origin unclear"),
    ],
)
def test_a_place_a_finding_and_a_germ_are_not_the_disease(diagnosis: str, text: str) -> None:
    assert find(diagnosis, text) == []


@pytest.mark.parametrize(
    ("diagnosis", "text"),
    [
        ("Acute pulmonary embolism", "Wells score for PE 6."),
        ("Malaria", "Malaria rapid antigen test pending."),
        ("Acute appendicitis", "Appendicitis Inflammatory Response score 9."),
        ("Chronic myeloid leukaemia", "Leukaemia and myelofibrosis were excluded."),
        ("Viral meningitis", "Her father had meningitis."),
        ("Spontaneous bacterial peritonitis", "SBP was 90 mmHg, SBP 85."),
    ],
)
def test_a_test_a_denial_and_a_relative_stay(diagnosis: str, text: str) -> None:
    assert remove_answer(text, collect_aliases([diagnosis]), "辅助检查") == text


@pytest.mark.parametrize(
    ("diagnosis", "before", "after"),
    [
        (
            "Community-acquired pneumonia",
            "CT showed pneumonia and he denied chest pain.",
            "CT showed this condition and he denied chest pain.",
        ),
        (
            "Community-acquired pneumonia",
            "He had signs of pneumonia and tuberculosis was excluded.",
            "He had signs of this condition and tuberculosis was excluded.",
        ),
        (
            "Lung adenocarcinoma",
            "On 2023-05-04 a biopsy proved lung cancer at once.",
            "On 2023-05-04 a biopsy proved this condition at once.",
        ),
    ],
)
def test_what_is_denied_behind_it_and_a_date_do_not_keep_a_name(
    diagnosis: str, before: str, after: str
) -> None:
    assert remove_answer(before, collect_aliases([diagnosis])) == after


def test_sbp_is_a_pressure_only_with_one() -> None:
    aliases = collect_aliases(["自发性细菌性腹膜炎"])
    assert remove_answer("SBP 90mmHg。考虑SBP 2天。", aliases) == "SBP 90mmHg。"


def test_a_chinese_name_among_latin_values_goes_as_in_chinese() -> None:
    values = "WBC 15.2*10^9/L, CRP 50 mg/L, INR 1.0, APTT 30 s, FIB 3 g/L, K 4.1 mmol/L, "
    left = remove_answer(f"{values}CT示右肺结核伴空洞", collect_aliases(["肺结核"]), "辅助检查")
    assert left == f"{values}CT示空洞"


def test_an_earlier_illness_of_the_kind_stays_where_it_is_not_the_very_one() -> None:
    aliases = collect_aliases(["Meningococcal meningitis"])
    assert (
        remove_answer("Viral meningitis aged 6.", aliases, "既往史") == "Viral meningitis aged 6."
    )


def test_a_name_behind_a_word_of_diagnosing_goes_once() -> None:
    aliases = collect_aliases(["Acute anterior ST-elevation myocardial infarction"])
    assert remove_answer("Diagnosed with anterior STEMI on day 1.", aliases) == (
        "Diagnosed with anterior this condition on day 1."
    )


def test_a_sentence_that_says_more_stays_a_sentence() -> None:
    before = "Treated as PE with enoxaparin. Radiology impression: acute pulmonary embolism."
    assert remove_answer(before, collect_aliases(["Acute pulmonary embolism"])) == (
        "Treated as this condition with enoxaparin. Radiology impression: this condition."
    )


def test_a_list_of_many_diseases_without_a_mark_is_read_at_once() -> None:
    name = read_english("Hypertension hyperlipidemia polyneuropathy " * 20)
    assert name is not None
    assert max(map(len, name.initials)) <= 6


@pytest.mark.parametrize("diagnosis", ["", "肺炎", "Left", "severe, acute", "  (  "])
def test_what_names_no_english_disease_has_no_english_name(diagnosis: str) -> None:
    assert read_english(diagnosis) is None
