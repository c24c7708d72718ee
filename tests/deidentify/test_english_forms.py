"""English identifiers by the forms that tell them, and capitals that are nobody's."""

import pytest

from medkd.core.records import RawCase
from medkd.deidentify.dates import DateShifter
from medkd.deidentify.replace import deidentify_case
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
