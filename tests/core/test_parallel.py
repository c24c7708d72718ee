from collections.abc import Iterator

from medkd.core import parallel
from medkd.core.parallel import MANY, map_in_order


def test_many_items_come_back_in_order_whatever_their_number() -> None:
    for n in (0, 3, MANY - 1, MANY, MANY + 5000):
        assert list(map_in_order(abs, range(-n, 0))) == list(range(n, 0, -1))


def test_few_items_are_worked_on_one_by_one_as_they_come() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(3):
            taken.append(number)
            yield number

    results = map_in_order(abs, items())
    assert next(results) == 0
    assert len(taken) < parallel.MANY
