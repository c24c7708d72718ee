import xml.etree.ElementTree as ET

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from medkd.core.html import bar_figure, histogram_figure, line_figure, write_svg


def test_words_stay_words_and_colours_follow_the_page():
    series = {"训练": ([1, 2, 3], [3, 2, 1]), "验证": ([1, 3], [3, 2])}
    svg = write_svg(line_figure(series, "损失", "step", "loss"))
    assert ">损失<" in svg and ">训练<" in svg
    assert "currentColor" in svg
    assert "#010203" not in svg and "<metadata" not in svg


@settings(max_examples=15, deadline=None, phases=[Phase.generate])
@given(name=st.text(max_size=20), title=st.text(max_size=20))
def test_any_name_gives_well_formed_xml(name, title):
    for figure in (
        line_figure({name: ([0, 1], [0, 1]), "b": ([0], [1])}, title),
        histogram_figure({name: [1, 2, 2], "b": []}, title),
    ):
        assert ET.fromstring(write_svg(figure)).tag.endswith("svg")


def test_hostile_names_are_escaped():
    figure = bar_figure(
        ["<script>alert(1)</script>", "$x$"], {"<b>": [1, 2], "other": [2, 1]}, '"><script>'
    )
    assert "<script" not in write_svg(figure)


@pytest.mark.parametrize("values", [[], [1.0], [2.0, 2.0]])
def test_few_values_are_drawn_too(values):
    assert ET.fromstring(write_svg(histogram_figure({"": values}))).tag.endswith("svg")


def test_intervals_are_drawn():
    plain, doubtful = (
        write_svg(bar_figure(["a"], {"m": [0.5]}, intervals=doubt))
        for doubt in (None, {"m": [(0.4, 0.7)]})
    )
    assert len(doubtful) > len(plain)


def test_two_plots_on_one_page_share_no_ids():
    one, other = (ET.fromstring(write_svg(line_figure({"a": ([0, 1], [0, y])}))) for y in (1, 2))
    ids = [{e.get("id") for e in svg.iter() if e.get("id")} for svg in (one, other)]
    assert not ids[0] & ids[1]
