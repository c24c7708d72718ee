"""Files in the encodings of the field are read strictly, or refused in one line."""

import os
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medkd.core.errors import InputError, MedkdError
from medkd.demo.synthetic_cases import generate_cases
from medkd.text.files import decode, find_encoding, read_text

TEXT = '{"主诉": "右上腹痛3天，伴发热38.5℃", "id": "1"}\n'
TRADITIONAL = '{"主訴": "右上腹痛三天，伴發熱，予抗感染治療後好轉", "id": "1"}\n'
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "gb18030", "gbk")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_gives_the_same_text(encoding, tmp_path):
    content = TEXT.replace("℃", "度").encode(encoding)
    assert decode(content, "a") == TEXT.replace("℃", "度")
    path = tmp_path / "a.json"
    path.write_bytes(content)
    assert content.decode(find_encoding(path).name) == content.decode(encoding)


def test_big5_is_not_taken_for_gb18030():
    assert decode(TRADITIONAL.encode("big5"), "a") == TRADITIONAL
    assert decode(TRADITIONAL.encode("big5hkscs"), "a") == TRADITIONAL


@pytest.mark.parametrize("n_hanzi", [8, 16, 64])
def test_a_few_characters_of_gbk_among_much_ascii_are_told(n_hanzi):
    drawn = random.Random(n_hanzi)
    text = "".join("".join(case.sections.values()) for case in generate_cases(20, seed=3))
    wrong = 0
    for _ in range(100):
        at = drawn.randrange(len(text) - n_hanzi)
        row = '{"id": 17, "label": "' + text[at : at + n_hanzi].replace("\n", "") + '"}' + " " * 500
        try:
            wrong += decode(row.encode("gb18030"), "a") != row
        except InputError:
            wrong += 1
    assert wrong <= 1


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Ärztliche Überweisung für Größe 38°C", "latin-1"),
        ("Diagnóstico: neumonía; señora", "cp1252"),
        ("患者は発熱と咳を訴えた。肺炎と診断。", "shift_jis"),
        ("Больной жалуется на кашель", "cp1251"),
        ("5 µg ± 2 °C", "latin-1"),
    ],
)
def test_text_in_another_encoding_is_refused_with_its_place(text, encoding):
    content = b'{"id": 1}\n' + ('{"a": "' + text + '"}\n').encode(encoding)
    with pytest.raises(InputError, match=r"rows\.jsonl:2: neither UTF-8.*iconv"):
        decode(content, "rows.jsonl")


def test_a_byte_that_breaks_gb18030_is_named_not_replaced():
    content = (TEXT * 40).encode("gb18030") + b'{"a": "\xff"}\n' + TEXT.encode("gb18030")
    with pytest.raises(InputError, match=r"a:41: "):
        decode(content, "a")


def test_single_broken_bytes_leave_a_file_utf8_and_are_found(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(TEXT.encode() * 3 + TEXT.encode().replace("发热".encode(), b"\xff"))
    assert find_encoding(path) == ("utf-8", True)
    with pytest.raises(InputError, match=r"a\.jsonl:4: neither"):
        read_text(path)


def test_what_is_no_file_of_text_is_one_line(tmp_path):
    (tmp_path / "program").write_bytes(bytes(range(256)) * 40)
    os.mkfifo(tmp_path / "pipe")
    for name, words in (
        ("program", "bytes of a program"),
        ("pipe", "a pipe or device"),
        ("", "a folder"),
        ("none", "no such file"),
        ("a\0b", "no name of a file"),
        ("x" * 300, "too long"),
    ):
        with pytest.raises(MedkdError, match=words) as refused:
            read_text(tmp_path / name)
        assert "\n" not in str(refused.value)
    with pytest.raises(InputError, match="a pipe or device"):
        read_text(tmp_path.__class__("/dev/zero"))


def test_a_file_past_the_limit_is_refused(tmp_path):
    (tmp_path / "a").write_text("x" * 2000)
    with pytest.raises(InputError, match="larger than 0 MiB"):
        read_text(tmp_path / "a", max_bytes=1000)


@given(st.binary(max_size=300))
def test_any_bytes_are_decoded_or_refused_and_never_replaced(content):
    try:
        text = decode(content, "a")
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert "\ufffd" not in text or b"\xef\xbf\xbd" in content or b"\xfd\xff" in content


def test_a_western_text_is_refused_and_not_read_as_chinese(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes("id,note\n1,T 38.5°C on day 2\n2,gave 50µg of it\n".encode("cp1252"))
    with pytest.raises(InputError, match="neither UTF-8, UTF-16, GB18030 nor Big5"):
        find_encoding(path)
