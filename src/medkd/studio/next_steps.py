"""What an empty page says: what will stand there, and a link to the form that starts the next stage
on the way to it.

In: the stage whose results a page shows, the runs. Out: HTML. Not done here: the form itself
(`studio.starts`, which reads `?start=`).
"""

from urllib.parse import urlencode

from medkd.studio.places import Places
from medkd.studio.present import render
from medkd.studio.texts import Texts

FIRST = "rehearsal-data.yaml"
"""The recipe that a person without cases begins with."""
NEEDS = {
    "export": "train",
    "evaluate": "merge",
    "train": "merge",
    "merge": "verify",
    "verify": "distill",
    "distill": "prepare",
}
"""The stage whose records a stage takes."""
OWN_PAGE = ("evaluate", "export")
"""Stages whose form stands on a page of their own."""


def find_start(places: Places, goal: str) -> str:
    """Find the first stage on the way to a goal whose input is there; the first recipe where
    nothing is."""
    made = {step.manifest.stage for step in places.list_steps()}
    while goal in NEEDS and NEEDS[goal] not in made:
        goal = NEEDS[goal]
    return goal if goal in NEEDS else FIRST


def show_next(page: str, goal: str, places: Places, t: Texts) -> str:
    """Say what will stand on a page, and lead to what makes it."""
    start = find_start(places, goal)
    address = f"/{t.language}/{start if start in OWN_PAGE else ''}?{urlencode({'start': start})}"
    label = (
        t("empty.invented", recipe=FIRST)
        if start == FIRST
        else t("empty.start", stage=t.word("stage", start))
    )
    return render("empty", t, text=t(f"empty.{page}"), address=address, label=label)
