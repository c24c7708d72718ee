from hypothesis import given
from hypothesis import strategies as st

from medkd.train.sft import LengthGroupedSampler

LENGTHS = st.lists(st.integers(1, 500), min_size=1, max_size=200)


@given(lengths=LENGTHS, batch_size=st.integers(1, 16), epoch=st.integers(0, 5))
def test_every_row_comes_once_an_epoch_and_the_order_repeats(lengths, batch_size, epoch):
    one, other = (LengthGroupedSampler(lengths, batch_size, 1, lambda: epoch) for _ in range(2))
    assert sorted(one) == list(range(len(lengths)))
    assert list(one) == list(other)


def test_batches_hold_rows_of_like_length():
    lengths = [10, 500] * 64
    sampler = LengthGroupedSampler(lengths, 8, 0, lambda: 0)
    order = list(sampler)
    mixed = sum(len({lengths[i] for i in order[at : at + 8]}) > 1 for at in range(0, 128, 8))
    assert mixed <= 1


def test_epochs_differ():
    first, second = (
        list(LengthGroupedSampler(list(range(100)), 8, 0, lambda epoch=epoch: epoch))
        for epoch in range(2)
    )
    assert first != second
