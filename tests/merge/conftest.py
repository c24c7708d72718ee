"""Most tests here merge without drawing: plots take longer than all the rest together."""

import pytest


@pytest.fixture(autouse=True)
def plots_are_left_out(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave plots out, except where a test is about them."""
    if "plots" not in request.node.name:
        monkeypatch.setattr("medkd.merge.stage.write_plots", lambda *_: True)
