"""English identifiers by the forms that tell them, and capitals that are nobody's."""

import re
import time

import pytest

from medkd.core.records import RawCase
from medkd.deidentify.dates import DateShifter
from medkd.deidentify.replace import Plan, deidentify_case
from medkd.deidentify.search import find_identifiers


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Ward sister, NMC 22B4410Q, came.", ["22B4410Q"]),
        ("Vehicle reg LM4 9RTZ was clamped.", ["LM4 9RTZ"]),
        ("Booked, ref DRV/771820.", ["DRV/771820"]),
        ("Lives with a son at Pebble House, Long Marden.", ["Pebble House, Long Marden"]),
        ("Seen at Flat 3, Gorse Court, Elmby.", ["Flat 3, Gorse Court, Elmby"]),
        ("Address: The Old Mill, Duck Lane, Elmby   Tel: none", ["The Old Mill, Duck Lane, Elmby"]),
        ("a plumber at Marlow & Daughters Heating", ["Marlow & Daughters Heating"]),
        ("Moved to Heron Ward, cubicle D2.", ["Heron Ward", "D2"]),
        ("ROOM/BED: 4 South / 418-B", ["4 South", "418-B"]),
        ("accepted by CCU-3", ["CCU-3"]),
        ("NAME: VANCE^ANN^M", ["VANCE^ANN^M"]),
        ("Drs. Ito, Marsh and Reed agreed.", ["Ito", "Marsh", "Reed"]),
        ("Mr May may go home.", ["May"]),
        ("Surname : V A N C E    DOB : 0 4 / 1 1 / 1 9 6 2", ["V A N C E", "0 4 / 1 1 / 1 9 6 2"]),
        ("Monday 13 May and 30.05.1971", ["Monday 13 May", "30.05.1971"]),
        ("discharged 15/03/24.", ["15/03/24"]),
        ("adm 23/12 w/ sepsis", ["23/12"]),
        ('{"encounterId":"E-4410","given":["Ada","Lou"],"portalUser":"ada_v"}', ["E-4410", "Ada", "Lou", "ada_v"]),
        ("mrn,last,first,sex\n771820,Vance,Ada,F", ["771820", "Vance", "Ada"]),
        ("Re: Ada Vance, 81, of ours. Vance was well; Ada's son came.", ["Ada Vance", "Vance", "Ada"]),
    ],
)  # fmt: skip
def test_english_identifiers_are_found_by_their_form(text: str, found: list[str]) -> None:
    finds = [text[match.start : match.end] for match in find_identifiers(text)]
    assert [piece for piece in found if piece not in finds] == []


@pytest.mark.parametrize(
    "text",
    [
        "Patient Denies chest pain. Nurse Practitioner called. Daughter Lives nearby.",
        "The patient May need surgery. Discussed with patient Benefits and risks.",
        "Mother Hypertension, wife Catholic, resident Spanish speaking, pt Ambulatory.",
        "Christmas disease; hydrocortisone 10/5/5 mg; Apgar 10-10-10; 12 Fr Seldinger drain.",
        "Surgical Ward round, Burns Unit, NICU 9 days, device 118/70, prior admission 2018.",
        "Symptoms recur in August each year. Since Monday, 6/10 pain.",
    ],
)
def test_capitals_and_numbers_that_identify_nobody_stay(text: str) -> None:
    assert [match.text for match in find_identifiers(text)] == []


def test_a_short_name_has_the_mark_of_the_full_one_unless_two_persons_share_it() -> None:
    text = (
        "John Harlow, 45M, came with Dr Ann Vance and Dr Ben Vance. Mr Harlow and Dr Vance spoke."
    )
    case = RawCase(id="files:1", source="files", sections={"Course": text})
    assert deidentify_case(case).case.sections["Course"] == (
        "[name 1], 45M, came with Dr [name 2] and Dr [name 3]. Mr [name 1] and Dr [name 4] spoke."
    )


def test_a_surname_is_left_in_the_name_of_a_disease() -> None:
    text = "Mrs Olwen Bell has Bell's palsy. Bell agreed."
    finds = [match.start for match in find_identifiers(text)]
    assert finds == [text.index("Olwen"), text.rindex("Bell")]


@pytest.mark.parametrize(
    ("text", "moved"),
    [
        ("Monday 13 May", "Tuesday 23 Apr"),
        ("2024年3月5日(星期二)", "2024年2月14日(星期三)"),
        ("23/12", "3/12"),
        ("17/04/24", "28/03/24"),
        ("03/14/24", "02/23/24"),
        ("11.06.1949", "22.05.1949"),
        ("July", "June"),
    ],
)
def test_english_dates_and_days_of_the_week_move_with_their_case(text: str, moved: str) -> None:
    assert DateShifter(-20, is_english=True).shift(text) == moved


@pytest.mark.parametrize(
    "text",
    [
        "History of Hypertension, DM, CAD",
        "from Syncope, MS. of Troponin, CK. to Penicillin, IV. of Headache, LE. in Remission, AF.",
        "O2 Sat 92-95% on RA, O2 Sat 98.6",
        "Sat 2.5 hours in chair",
        "CD20 POS, CD34 NEG, CD45 DIM, EF55 LVH, CD68 AND",
        "Mother | Diabetes\nFather | Hypertension",
        '{"mother": "Diabetes Mellitus", "first": "Aspirin"}',
        "First\tSecond\tLast\nAspirin\tHeparin\tWarfarin",
        "Strength repeated 4/5. Grip held 4/5. Review 3/4 systems. Pain cleared 2/10",
        "tumor at Cecum, ulcer at Left Heel, cancer at Cervix, filter at Infrarenal IVC",
        "cancer at Stage II, seen later at Level Two",
        "Patient moved to Intensive Care. Moved from bed to Operating Room.",
        "moved to Recovery Room with oxygen; lives with chronic pain from Multiple Myeloma.",
        "Apical 4 Chamber View shows EF 55%. 2 Chamber View; 3 Tesla View; 1 Large Loop. 2 Small",
        "Treated with Open Heart Surgery, with Endoscopic Sinus Surgery",
        "Referred to Head Neck Surgery",
        "Rx 1000 units daily. Rx: 500 tablets. Rx 400 IU daily. Pin 4000 units, dl 10000",
        "ICU 5 more days. ICU 2 months. ICU 30 minutes, ward 7 days. Ward 5 patients",
        "Address: Pain control with morphine",
        "Address: Continue current medication and follow wound care daily",
    ],
)
def test_diagnoses_doses_scores_and_cell_markers_stay(text: str) -> None:
    assert [match.text for match in find_identifiers(text)] == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Comes from Salem, OR.", ["Salem, OR"]),
        ("Comes from Flint, MI 48501", ["Flint, MI"]),
        ("A man from Flint, MI. Drove from Boston, MA.", ["Flint, MI", "Boston, MA"]),
        ("Car LV59 KXT left.", ["LV59 KXT"]),
        ("Mother: Ann Vance", ["Ann Vance"]),
        ("DL# D990-4418-2071, PIN 00D7291E", ["D990-4418-2071", "00D7291E"]),
        ("seen Sat 5/18 and 2024-05-08 (Wed)", ["Sat", "5/18", "Wed"]),
        ("a welder at Marlow Heating", ["Marlow Heating"]),
        ("Lives in Long Marden.", ["Long Marden"]),
        ("at 4 Harbour View, Elmby", ["4 Harbour View, Elmby"]),
        ("from Ada Vance Dermatology", ["Ada Vance Dermatology"]),
        ("Ward 7, ICU 5", ["7", "ICU 5"]),
        ("Address: 4 Duck Lane, Elmby", ["4 Duck Lane, Elmby"]),
        ('{"mrn": "E1004", "last": "Vance", "first": "Ada"}', ["Vance", "Ada"]),
        ("mrn\tlast\tfirst\tward\n771820\tVance\tAda\t4", ["Vance", "Ada"]),
    ],
)
def test_what_looks_like_diagnoses_and_identifies_is_found(text: str, found: list[str]) -> None:
    finds = [text[match.start : match.end] for match in find_identifiers(text)]
    assert [piece for piece in found if not any(piece in find for find in finds)] == []


def test_repeated_headers_of_a_table_are_read_once() -> None:
    start = time.perf_counter()
    find_identifiers("name,mrn,ward,bed\n" * 1100)
    assert time.perf_counter() - start < 5


def test_a_short_name_keeps_its_part_of_a_name_that_begins_with_the_family() -> None:
    text = "Patient Name: Vance, Ann M. was seen. Mrs Vance agreed. Ann's son came."
    case = RawCase(id="files:1", source="files", sections={"Course": text})
    written = deidentify_case(case, Plan(natural=True)).case.sections["Course"]
    full, given, family = re.findall(r"Name: (.+?) was seen\. Mrs (\w+) agreed\. (\w+)'s", written)[
        0
    ]
    assert (full.split()[-1].strip("."), full.split()[0].strip(",")) == (given, family)
