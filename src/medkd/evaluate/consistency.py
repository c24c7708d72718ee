"""Several samples of the same questions: how often one is right, how often the vote is, how much
they agree.

In: predictions of every sample. Out: `pass@k`, `majority@k` and `agreement@k` for each question.
Not done here: asking.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from medkd.core.records import Prediction
from medkd.grading.diagnosis import grade
from medkd.grading.names import parse_name


def measure_samples(samples: Mapping[str, Sequence[Prediction]]) -> dict[str, dict[str, float]]:
    """Score each question of which there are several samples and a known diagnosis; names carry the
    number of samples."""
    scores: dict[str, dict[str, float]] = {}
    for question, group in samples.items():
        if len(group) < 2 or not group[0].reference:
            continue
        grades = [grade(p.answer, p.reference) for p in group]
        votes = [parse_name(g.stated[0]).plain if g.stated else "" for g in grades]
        winner, n = Counter(votes).most_common(1)[0]
        k = len(group)
        scores[question] = {
            f"pass@{k}": float(any(g.principal for g in grades)),
            f"majority@{k}": float(grades[votes.index(winner)].principal),
            f"agreement@{k}": n / k,
        }
    return scores
