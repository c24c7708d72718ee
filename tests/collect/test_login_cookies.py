"""Cookies are read in the forms in which browsers hand them over, those of the one site alone."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medkd.collect.login import read_cookies
from medkd.core.errors import InputError, MedkdError

HOST = "bingli.iiyi.com"
FOREVER = 4102444800


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "text",
    [
        f"# Netscape HTTP Cookie File\n.iiyi.com\tTRUE\t/\tFALSE\t{FOREVER}\tsid\tx1\n"
        f"#HttpOnly_{HOST}\tFALSE\t/\tTRUE\t0\tok\t2\n"
        ".other.com\tTRUE\t/\tFALSE\t0\tz\t9\n",
        json.dumps(
            [
                {"name": "sid", "value": "x1", "domain": ".iiyi.com", "expirationDate": FOREVER},
                {"name": "ok", "value": "2", "domain": HOST, "session": True},
                {"name": "old", "value": "3", "domain": HOST, "expires": 1000},
                {"name": "z", "value": "9", "domain": "iiyi.com.evil.org"},
            ]
        ),
        json.dumps(
            {
                "cookies": [
                    {"name": "sid", "value": "x1", "expires": -1},
                    {"name": "ok", "value": "2"},
                ],
                "origins": [],
            }
        ),
        json.dumps({"sid": "x1", "ok": 2}),
        "Cookie: sid=x1; ok=2\n",
    ],
)
def test_every_form_gives_the_cookies_of_the_site(tmp_path: Path, text: str):
    assert read_cookies(write(tmp_path / "c", text), HOST) == {"sid": "x1", "ok": "2"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("hello\nworld", "no cookies; expected Netscape"),
        ("[1]", "an entry without name and value"),
        ("[{", "broken JSON"),
        ('{"a": [1]}', "no plain value"),
        (".other.com\tTRUE\t/\tFALSE\t0\tz\t9\n", "holds no cookie for bingli.iiyi.com"),
        (f"{HOST}\tTRUE\t/\tFALSE\t99\tz\t9\n", "still good"),
        ('{"a": "x\\r\\nSet-Cookie: y"}', "characters that no cookie has"),
    ],
)
def test_a_file_without_cookies_is_refused_without_telling_what_is_in_it(
    tmp_path: Path, text: str, message: str
):
    with pytest.raises(InputError, match=message) as refused:
        read_cookies(write(tmp_path / "c", text), HOST)
    assert "\n" not in str(refused.value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.binary(max_size=80)
    | st.text(max_size=80).map(lambda text: ("[" + text).encode("utf-8", "replace"))
)
def test_no_file_ends_in_a_stack_trace(tmp_path: Path, content: bytes):
    (tmp_path / "c").write_bytes(content)
    try:
        read_cookies(tmp_path / "c", HOST)
    except MedkdError as error:
        assert "\n" not in str(error)
