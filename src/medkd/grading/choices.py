"""Reads the letters that an answer to a multiple-choice question states.

In: an answer as a model wrote it, and the question's options. Out: the letters, or None.
Not done here: reading exams and scoring them (`evaluate`); letters that are only mentioned.

>>> sorted(read_choice("<think>A？不对。</think>**答案：** B、D\\n\\nA项无黄疸。", "ABCDE"))
['B', 'D']
>>> read_choice("The best option is a laparoscopic operation.", "ABCD") is None
True
"""

import re
from collections.abc import Iterator, Mapping

from medkd.core import thinking
from medkd.text.normalize import normalize

Letters = frozenset[str]

_MARKUP = re.compile(
    r"[*`$~]+|(?<!\w)_+|_+(?!\w)|^[ \t]*#{1,6}[ \t]*|\\(?:text(?:bf|rm|it)?|math(?:bf|rm|bb))(?=\{)"
    r"|\\[()\[\],;! ]",
    re.MULTILINE,
)
_SIGNS = re.compile("[\u2190-\u21ff\u2500-\u27bf\u2b00-\u2bff\ufe0f\U0001f300-\U0001faff]")
"""Arrows, boxes, ticks and the like."""
_BULLETED = re.compile(r"(?:^[ \t]*[-•·][ \t]*[A-Z][.。]?[ \t]*(?:\n|\Z)){2,}", re.MULTILINE)
_BOX = re.compile(r"\\boxed\s?\{((?:[^{}\n]|\{[^{}\n]{0,40}\}){1,60})\}")
_MARKS = r"[- \t:=(\[{<>「」『』【】“”\"'‘’《》〈〉→)\]}]{0,12}"
"""Brackets, quotes, colons and blanks around a label or a letter."""
_GAP_IN_LINE = re.compile(_MARKS)
_GAP = re.compile(rf"{_MARKS}(?:\n{{1,2}}{_MARKS})?")
_RUN = re.compile(r"[A-Z]{1,26}(?![A-Za-z])")
_LOWER = re.compile(r"[a-z](?=[)\]]|[}\"'”]{0,3}[ \t]*(?:$|[.,;:。，；\n]))")
_CLOSING = re.compile(r"[)\]}\"'”」』】]{0,2}(?:选?项)?")
_END_OF_LINE = re.compile(r"[\s.。,;；:)\]}>\"'”’」』】]{0,12}")
_LABEL = re.compile(
    r"(?:(?:答案|正解|结论(?=:)|^答(?=:)|正确的(?=是))(?:选项|如下)?|正确的?选项"
    r"|(?:最佳|最终|合适的?|恰当的?|符合题意的?|正确的|我的)(?:选项|选择)(?=[是为应: ])"
    r"|(?<![下列述个])选项(?=[是为:]))"
    rf"{_MARKS}(?:应该?|可能|应当|最终|只能|就|即|故|选择?(?!项)|是|为){{0,4}}"
    rf"(?:(?<![是为])不(?:应?选|是)[A-Z],?(?:而是|应?选))?{_MARKS}(?:选项)?"
    r"|\banswers?(?= [(\[]?[A-Z]\b[.)\]]{0,2}\s*$)"
    r"|\b(?:answers?|ans\.?|option|choice|(?:(?<=correct )|(?<=right )|(?<=best ))(?:options"
    r"|choices))(?!\w)"
    rf"(?: here| choice| option| letter| to this question| for this question)?{_MARKS}"
    r"(?:\b(?:is|are|would be|should be|must be|has to be|will be)\b|(?<=ans\.)|[:=>]|-(?= ))"
    rf"{_MARKS}(?:(?:therefore|thus|clearly|most likely|probably|definitely|indeed"
    rf"|the)\b,? ){{0,2}}"
    r"(?:not (?:option )?[A-Z]\b[,;]? (?:but|it is|it's|rather) )?"
    r"(?:\b(?:option|choice|letter|answer)s?\b(?: is| are)?)?",
    re.IGNORECASE | re.MULTILINE,
)
_CHOOSE = re.compile(
    r"(?<![不误错易勿别未筛挑])选(?:择|取)?(?:的是|为)?[ \t]?(?:选项)?(?!项)"
    r"|\b(?:i|we|i'd|i'll|you|one|would|should|must|will|therefore|so|thus|and)[, ]\s?"
    r"(?:choose|select|pick|say|go with|opt for|go for)\b(?: (?:the )?(?:option|choice|answer"
    r"|letter)s?\b)?"
    r"|\b(?:so|thus|hence|therefore|that is|namely|i\.e\.),? (?:(?:it is|it's|the) )?"
    r"(?:(?:option|choice|answer)\b(?: is)? ?)?(?=[A-Z]\b[.)]?\s*$)"
    r"|\b(?:corresponds to|matches|choose|select|pick|points to|supports|(?:which|that"
    r"|this) is) (?:the )?(?:option|choice|answer)\b"
    r"|^it(?:'s| is| should be| must be| would be) (?=[A-Z]\b[.)]?\s*$)",
    re.IGNORECASE | re.MULTILINE,
)
_UNSURE = re.compile(
    r"(?:如果|假如|假设|若|倘若|\bif\b)[^\n。;；.]{0,24}$"
    r"|(?:不是|并非|而非|为什么|为何|\bnot\b|\bwhy\b|\bwhether\b|n't\b)[^\n。;；.,，]{0,16}$",
    re.IGNORECASE,
)
"""What before a label makes it no statement."""
_RIGHT = (
    r"(?:是|为|最)?(?:正确(?!吗|与否)|对(?=[;；,，。.\s]|$)|符合题意"
    r"|最佳答案|正确答案|最?为?合适|最?为?恰当|最符合)"
)
_RIGHT_EN = (
    r"(?:is|are|was|seems|would be) (?:therefore |thus |clearly |indeed )?(?:the )?"
    r"(?:most |single )?(?:correct|right|best|(?<=most )likely|(?<=most )appropriate)\b"
)
_VERDICTS = (
    re.compile(
        r"(?<![A-Za-z0-9-])(?:选项)?[ \t]?[(\[]?([A-Z](?:[、,和及]?[A-Z]){0,8})[)\]]?"
        rf"[ \t]?(?:选?项)?{_RIGHT}"
    ),
    re.compile(
        r"(?:^|[.,;:!?。，；(]|\b(?:[Oo]ptions?|[Cc]hoices?|so|thus|therefore|hence|that|and"
        r"|[Bb]oth|[Oo]nly|think|believe)\b)\s{0,9}"
        rf"[(\[]?([A-Z](?:(?:,? and |, | & )[A-Z]){{0,8}})[)\]]? {_RIGHT_EN}",
        re.MULTILINE,
    ),
)
_SEPARATOR = re.compile(
    r"[ \t]*(?:[,;]?[ \t]?\band\b|[、,，;；/+&|和与及跟]|\.(?=[A-Z](?![A-Za-z])))?"
    r"[ \t]*(?:(?:选项|项|option )[ \t]?)?[(\[\"'“「『【]{0,2}"
)
_AFTER_LETTER = re.compile(
    r"[)\]}\"'”’」』】>]{0,3}(?:$|[ \t]*(?:[.,;:!?。，；：！？、()\[\]}<\n]|(?:两|三|四"
    r"|五)?(?:选项|项)(?![一-鿿])|因为|because\b|since\b|as\b|for\b))"
)
"""What may follow the last letter of a list; else it begins something of its own."""
_ALTERNATIVE = re.compile(r"[)\]]?[ \t]*(?:或者?|/或|\bor\b)[ \t]*(?:option )?[(\[]?[A-Z]\b")
_WORD_AFTER = re.compile(r"[ \t]+(?!(?:because|since|as|is|are|and|for|but|due)\b)[a-z]")
_PART_OF_NAME = re.compile(
    r"[-'’][A-Za-z0-9]|[0-9]|[)\]]?[ \t]?(?:[?？]|吗)|[ \t]?[超型族级期肝群组细淋]"
    r"|(?:选?项)?(?:是|为)?(?:错|不|误|有误)"
    r"| (?:is|was|would be) (?:wrong|incorrect|not)\b"
)
_BARE_LINE = re.compile(rf"^{_MARKS}(?:(?:option|choice|选项|选择?) ?)?{_MARKS}", re.IGNORECASE)
_ITEM_LINE = re.compile(
    r"^[ \t]*[(\[]?([A-Z])[)\]]?[ \t]*(?:[.、:)．]|-(?=[ \t]))[ \t]*(?![A-Z](?![A-Za-z])|错|不"
    r"|wrong|incorrect)\S",
    re.MULTILINE | re.IGNORECASE,
)
_IN_BRACKETS = re.compile(r"[(\[]([A-Z])[)\]]")
_DENIED = re.compile(
    r"(?:不是|并非|排除|除外|不考虑|不支持|不符合|而非|\bnot\b|\brule[sd]? out\b"
    r"|\bexclude[sd]?\b)[^\n,，。;；.]{0,12}$",
    re.IGNORECASE,
)
_BEFORE = 32
"""Characters before a statement in which it may be denied or made conditional."""
_MAX_READ = 20_000
"""Characters of an answer that are read: its end."""


def read_choice(answer: str, options: Mapping[str, str] | str) -> Letters | None:
    """Read the letters that an answer commits itself to; None where it states none.

    `options` are the letters, or the letters and their texts: then an option named by its text
    alone counts too. The last statement counts; a box in the working that holds more than letters
    is no statement.
    """
    text = _plain(thinking.read(answer).answer[-_MAX_READ:])
    reader = _Reader(text, options)
    for read in (
        reader.read_statements,
        reader.read_verdicts,
        reader.read_bare_lines,
        reader.read_opening,
        reader.read_option_text,
    ):
        if letters := read():
            return letters
    return None


def _plain(text: str) -> str:
    boxed = _BOX.sub(lambda box: f"\\boxed{{{_MARKUP.sub('', box[1])}}}", text)
    plain = normalize(_SIGNS.sub("", _MARKUP.sub("", boxed))).strip()
    return _BULLETED.sub(lambda found: "、".join(re.findall("[A-Z]", found[0])) + "\n", plain)


class _Reader:
    """One answer, and the ways of reading it from the surest to the weakest."""

    def __init__(self, text: str, options: Mapping[str, str] | str) -> None:
        self._text = text
        self._letters = frozenset(letter.upper() for letter in options)
        self._names = (
            {}
            if isinstance(options, str)
            else {
                letter.upper(): name
                for letter, option in options.items()
                if len(name := normalize(option).strip(" .。;；")) >= 2
            }
        )

    def read_statements(self) -> Letters | None:
        """Read the last place that says what the answer is: a label, a choice, a box of letters."""
        found = sorted((*self._labelled(), *self._chosen(), *self._boxed()), key=lambda f: f[0])
        return found[-1][1] if found else None

    def _labelled(self) -> Iterator[tuple[int, Letters]]:
        for label in _LABEL.finditer(self._text):
            if _UNSURE.search(self._text[max(0, label.start() - _BEFORE) : label.start()]):
                continue
            letters = (
                self._letters_at(self._skip_marks(label.end()))
                or self._option_at(self._skip_marks(label.end()))
                or self._bracketed_after(label.end())
            )
            if letters:
                yield label.start(), letters

    def _chosen(self) -> Iterator[tuple[int, Letters]]:
        for label in _CHOOSE.finditer(self._text):
            if _UNSURE.search(self._text[max(0, label.start() - _BEFORE) : label.start()]):
                continue
            at = self._skip_marks(label.end(), crosses_lines=False)
            letters = self._letters_at(at, is_closed=True)
            if letters:
                yield label.start(), letters

    def _boxed(self) -> Iterator[tuple[int, Letters]]:
        for box in _BOX.finditer(self._text):
            inside = box[1].replace("{", "").replace("}", "").strip()
            reader = _Reader(inside, "".join(self._letters))
            letters = reader.read_bare_lines()
            if letters:
                yield box.start(), letters

    def read_verdicts(self) -> Letters | None:
        """Read the options that are called right one by one: B正确, option B is correct."""
        found: set[str] = set()
        for pattern in _VERDICTS:
            for match in pattern.finditer(self._text):
                letters = frozenset(re.findall("[A-Z]", match[1]))
                before = self._text[max(0, match.start() - _BEFORE) : match.start()]
                if letters <= self._letters and not _UNSURE.search(before):
                    found |= letters
        return frozenset(found) or None

    def read_bare_lines(self) -> Letters | None:
        """Read the last line that holds letters and nothing else."""
        for line in reversed(self._text.split("\n")):
            opening = _BARE_LINE.match(line)
            letters = self._letters_at(
                opening.end() if opening else 0, text=line, is_whole_line=True
            )
            if letters:
                return letters
        return None

    def read_opening(self) -> Letters | None:
        """Read an answer that begins with its letter and a mark, unless it goes through options."""
        first = _ITEM_LINE.match(self._text)
        if (
            first
            and first[1] in self._letters
            and first[1].isupper()
            and len(_ITEM_LINE.findall(self._text)) == 1
        ):
            return frozenset(first[1])
        return None

    def read_option_text(self) -> Letters | None:
        """Read an answer that names one option by its text, and no other."""
        named = [letter for letter, name in self._names.items() if self._affirms(name)]
        longest = [
            letter
            for letter in named
            if not any(
                letter != other and self._names[letter] in self._names[other] for other in named
            )
        ]
        return frozenset(longest) if len(longest) == 1 else None

    def _affirms(self, name: str) -> bool:
        at = self._text.find(name)
        return at >= 0 and not _DENIED.search(self._text[max(0, at - _BEFORE) : at])

    def _skip_marks(self, at: int, crosses_lines: bool = True) -> int:
        gap = (_GAP if crosses_lines else _GAP_IN_LINE).match(self._text, at)
        return gap.end() if gap else at

    def _letters_at(
        self,
        at: int,
        text: str | None = None,
        is_closed: bool = False,
        is_whole_line: bool = False,
    ) -> Letters | None:
        """Read the letters that begin at a place, all on one line; None where they are part of a
        word, of a name, or of an alternative."""
        text = self._text if text is None else text
        run = _RUN.match(text, at)
        if run is None:
            lower = _LOWER.match(text, at)
            letters = frozenset(lower[0].upper()) if lower else frozenset[str]()
            return letters if letters and letters <= self._letters else None
        found = list(run[0])
        end = run.end()
        if _is_article(found, text, end) or _PART_OF_NAME.match(text, end):
            return None
        while True:
            closing = _CLOSING.match(text, end)
            separator = _SEPARATOR.match(text, closing.end() if closing else end)
            start = separator.end() if separator else end
            following = _RUN.match(text, start)
            if following is None or start == end or _PART_OF_NAME.match(text, following.end()):
                break
            if not set(following[0]) <= self._letters or _starts_clause(text, following.end()):
                break
            found += following[0]
            end = following.end()
        if _ALTERNATIVE.match(text, end):
            return None
        if is_whole_line and not _END_OF_LINE.fullmatch(text, end):
            return None
        if is_closed and not _AFTER_LETTER.match(text, end):
            return None
        letters = frozenset(found)
        return letters if letters <= self._letters and len(letters) == len(found) else None

    def _option_at(self, at: int) -> Letters | None:
        """Read an option named by its text at a place, the longest where several begin there."""
        found = [letter for letter, name in self._names.items() if self._text.startswith(name, at)]
        return frozenset(max(found, key=lambda letter: len(self._names[letter]))) if found else None

    def _bracketed_after(self, at: int) -> Letters | None:
        """Read a letter in brackets behind words: the answer is cholecystitis (B)."""
        line = self._text[at : at + 80].split("\n", 1)[0]
        sentence = re.split(r"[。;；]|\.\s", line, maxsplit=1)[0]
        found = {letter for letter in _IN_BRACKETS.findall(sentence) if letter in self._letters}
        is_denied = re.search(r"不是|并非|\bnot\b", sentence)
        return frozenset(found) if len(found) == 1 and not is_denied else None


def _is_article(found: list[str], text: str, end: int) -> bool:
    """Tell whether a capital A or I is the word: A gallbladder problem, I think."""
    return found in (["A"], ["I"]) and bool(_WORD_AFTER.match(text, end))


def _starts_clause(text: str, end: int) -> bool:
    """Tell whether a further letter begins something of its own: B、C项错误, B, A is wrong."""
    is_followed = _SEPARATOR.match(text, end)
    more = is_followed and _RUN.match(text, is_followed.end())
    return not more and not _AFTER_LETTER.match(text, end)
