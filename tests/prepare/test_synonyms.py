from pathlib import Path

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from medkd.core.errors import InputError
from medkd.prepare.aliases import load_synonyms

PIECES = [
    "a",
    "synonyms",
    ": ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    "\n",
    "  ",
    "2021-13-45",
    "&x",
    "*x",
    "'",
    '"',
    "? ",
    "|",
    "%",
    "\t",
    "1",
    "~",
]


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    content=st.one_of(
        st.binary(max_size=60),
        st.lists(st.sampled_from(PIECES), max_size=20).map(lambda parts: "".join(parts).encode()),
    )
)
@example(content=b"generic: 2021-13-45")
@example(content=b"[" * 5000)
@example(content=b"synonyms: [[a, 1]]")
def test_no_table_of_words_ends_in_a_stack_trace(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "words.yaml"
    path.write_bytes(content)
    load_synonyms.cache_clear()
    try:
        load_synonyms(path)
    except InputError as error:
        assert "\n" not in str(error)
