"""The rehearsal clinic: its knowledge is consistent, its cases are what they say."""

from medkd.demo.knowledge import load_knowledge
from medkd.demo.synthetic_cases import generate_cases, make_id_card


def test_the_clinic_knows_at_least_sixty_diseases_in_eight_departments():
    knowledge = load_knowledge()
    names = [disease.name for family in knowledge.families for disease in family.diseases]
    assert len(names) == len(set(names)) >= 60
    assert len(knowledge.departments) >= 8


EVERY_FAMILY = [family for language in ("zh", "en") for family in load_knowledge(language).families]


def test_every_disease_has_a_level_for_every_test_and_no_sibling_has_the_same_pattern():
    for family in EVERY_FAMILY:
        patterns = [
            tuple(disease.pattern[test] for test in family.tests) for disease in family.diseases
        ]
        assert len(set(patterns)) == len(patterns)
        for disease in family.diseases:
            assert all(disease.pattern[test] in family.tests[test].levels for test in family.tests)


def test_no_single_test_tells_a_whole_family_apart():
    for family in EVERY_FAMILY:
        for test in family.tests:
            assert len({disease.pattern[test] for disease in family.diseases}) < len(
                family.diseases
            )


def test_complaints_history_and_distractors_do_not_name_a_disease_of_the_family():
    for family in EVERY_FAMILY:
        said = "".join(
            [
                *family.complaints,
                *family.history,
                *family.examination,
                family.management,
                *(x.text for x in family.distractors),
            ]
        )
        assert not [disease.name for disease in family.diseases if disease.name in said]


def test_the_same_seed_makes_the_same_cases_and_another_seed_others():
    assert generate_cases(20, 3) == generate_cases(20, 3)
    assert generate_cases(20, 3) != generate_cases(20, 4)


def test_planted_clues_identifiers_and_leaks_stand_in_the_sections():
    for case in [*generate_cases(200, 5), *generate_cases(100, 5, "en")]:
        text = "".join(case.sections.values())
        assert all(clue.text in text for clue in case.clues)
        assert all(planted in text for _, planted in case.identifiers)
        assert all(leak in text and case.diagnosis[0] in leak for leak in case.leaks)


def test_every_kind_of_identifier_and_leak_is_planted_somewhere():
    cases = generate_cases(400, 5)
    kinds = {kind for case in cases for kind, _ in case.identifiers}
    assert kinds == {"name", "address", "id_card", "phone", "date", "hospital", "admission_number"}
    assert 0.4 < sum(bool(case.leaks) for case in cases) / len(cases) < 0.9


def test_an_identity_card_has_a_valid_check_digit():
    import random

    card = make_id_card(random.Random(1))
    weights = [2**i % 11 for i in range(17, -1, -1)]
    total = sum(
        (10 if digit == "X" else int(digit)) * weight
        for digit, weight in zip(card, weights, strict=True)
    )
    assert len(card) == 18 and total % 11 == 1
