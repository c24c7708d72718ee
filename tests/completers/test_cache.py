import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen2Config
from transformers.cache_utils import DynamicLayer

from medkd.completers.cache import RoomyLayer, is_lasting, make_cache

STEPS = st.lists(
    st.tuples(st.integers(1, 90), st.integers(0, 5), st.booleans()), min_size=1, max_size=8
)


@settings(deadline=None)
@given(STEPS)
def test_a_layer_with_room_holds_what_a_plain_one_holds(steps):
    roomy, plain = RoomyLayer(), DynamicLayer()
    n_rows = 4
    for n_new, n_removed, lets_a_row_go in steps:
        keys, values = torch.rand(2, n_rows, 2, n_new, 3)
        for ours, theirs in zip(
            roomy.update(keys, values), plain.update(keys, values), strict=True
        ):
            assert torch.equal(ours, theirs)
        n_removed = min(n_removed, n_new - 1)
        roomy.crop(-n_removed)
        plain.crop(-n_removed)
        if lets_a_row_go and n_rows > 1:
            n_rows -= 1
            kept = torch.arange(n_rows) + 1
            roomy.batch_select_indices(kept)
            plain.batch_select_indices(kept)
        assert roomy.get_seq_length() == plain.get_seq_length()


@pytest.mark.parametrize(
    ("types", "lasts"),
    [(["full_attention"] * 2, True), (["full_attention", "sliding_attention"], False)],
)
def test_only_layers_that_forget_nothing_get_room(types, lasts):
    cache = make_cache(
        Qwen2Config(
            num_hidden_layers=2, layer_types=types, use_sliding_window=True, sliding_window=4
        )
    )
    assert is_lasting(cache) is lasts
    assert [type(layer) is RoomyLayer for layer in cache.layers] == [lasts] * 2
