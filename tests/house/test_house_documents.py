import re
import runpy
import shlex
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from medkd.cli import app as cli
from medkd.cli.flags import read_value
from medkd.cli.overview import is_overview
from medkd.completers.providers import read_providers
from medkd.core.config import find_recipe, make_config, read_recipe
from medkd.core.task import load_task
from medkd.pipeline import fill_in, override, plan
from medkd.rounds import Rounds
from medkd.stages import STAGES

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
RECIPES = sorted((ROOT / "src/medkd/recipes").glob("*.yaml"))
ENGLISH, CHINESE = ROOT / "docs" / "en", ROOT / "docs" / "zh"
GENERATED = {"en": ENGLISH / "commands.md", "zh": CHINESE / "commands.md"}
PAIRS = [
    (ROOT / "README.md", ROOT / "README_zh.md"),
    *((page, CHINESE / page.relative_to(ENGLISH)) for page in sorted(ENGLISH.rglob("*.md"))),
]
STAND_INS = {
    **{"MODEL": "medkd:tiny", "DIR": "runs/x", "FILE": "file.json"},
    "mine.yaml": "src/medkd/recipes/qwen2.5-7b.yaml",  # what `medkd recipes copy` made there
}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def find_commands(path: Path, are_in_blocks: bool = False) -> list[str]:
    """Find the `medkd` command lines of a page or of a recipe's head, continued lines joined; those
    in blocks alone, which a reader copies whole, or the ones within sentences too."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    if path.suffix == ".yaml":
        lines = [
            line.removeprefix("#").partition("  ")[0]
            for line in text.split("\n")
            if line.startswith("#")
        ]
    else:
        fenced = re.findall(r"^```(?:sh|bash|console)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        spans = re.findall(
            r"(?<!`)`([^`\n]+)`(?!`)",
            re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL),
        )
        lines = [line for block in fenced for line in block.split("\n")]
        lines += [] if are_in_blocks else spans
    before = r"\s*(?:\$ )?(?:[A-Z_]+=\S+ )*(?:(?:accelerate launch|torchrun) .+ -m |\.venv/bin/)?"
    found = [re.match(before + "medkd (.+)", line) for line in lines]
    return [match.group(1).strip() for match in found if match]


def list_anchors(path: Path) -> list[str]:
    """List the anchors that GitHub and the documentation site make of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", text.lower()).strip().replace(" ", "-") for text in headings]


def parse(line: str, is_whole: bool = False) -> None:
    """Parse a command line as the program does, up to the point where it would begin to work. One
    that is not whole may leave out what is needed."""
    words = [STAND_INS.get(word, word) for word in shlex.split(line, comments=True)]
    if is_overview(words):
        return
    function, bound, _ = cli.build_app(words).parse_args(
        words, exit_on_error=False, print_error=False
    )
    if words[0] in STAGES and function.__name__ == "command":
        check_stage(words[0], dict(bound.arguments), is_whole)
    if words[0] == "run":
        recipe = find_recipe(bound.arguments["recipe"])
        check_recipe(ROOT / recipe, bound.arguments.get("fields", {}))


def check_stage(stage: str, given: dict[str, Any], is_whole: bool) -> None:
    given.pop("detach", None)
    recipe = given.pop("recipe", None)
    content = read_recipe(ROOT / recipe) if recipe else {}
    values = fill_in(stage, content.get(stage) or {}, content)
    values |= {key: read_value(value) for key, value in given.items()}
    config = STAGES[stage].load().Config
    for field, info in () if is_whole else config.model_fields.items():
        if info.is_required():
            values.setdefault(field, ["runs/x"] if "list" in str(info.annotation) else "runs/x")
    make_config(config, values, stage)


def check_recipe(path: Path, fields: dict[str, Any]) -> None:
    content = read_recipe(path)
    override(content, {step: read_value(given) for step, given in fields.items()}, name(path))
    content["rehearsal"] = {**content.get("rehearsal", {}), "cases": 1}
    with ExitStack() as servers:
        plan(content, name(path), Path("runs/x"), False, servers)


@pytest.mark.parametrize(
    "path", [page for page in PAGES if page not in GENERATED.values()] + RECIPES, ids=name
)
def test_every_command_that_is_written_down_can_be_given(path: Path) -> None:
    blocks = find_commands(path, are_in_blocks=True)
    for line in find_commands(path):
        try:
            parse(line, line in blocks)
        except Exception as error:
            raise AssertionError(f"{name(path)}: medkd {line}: {error}") from error


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_every_file_that_a_page_shows_can_be_read(path: Path, tmp_path: Path) -> None:
    shown = re.findall(
        r"^```yaml\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    for at, text in enumerate(shown):
        file = tmp_path / f"{at}.yaml"
        file.write_text(text, encoding="utf-8")
        if text.startswith("rounds:"):
            make_config(Rounds, read_recipe(file)["rounds"], name(path))
        elif "\nanswer:" in text:
            load_task(str(file))
        else:
            read_providers(file)


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_every_recipe_is_valid_and_opens_with_the_command_that_runs_it(path: Path) -> None:
    check_recipe(path, {})
    first = path.read_text(encoding="utf-8").split("\n")[0]
    assert first.startswith(f"# medkd run recipes/{path.name}")


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_every_link_and_every_make_target_is_there(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for link, mark in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)[^)]*\)", text):
        if not link.startswith(("http://", "https://", "mailto:")):
            target = path.parent / link if link else path
            assert target.exists(), f"{name(path)}: {link}"
            assert not mark or mark in list_anchors(target), f"{name(path)}: {link}#{mark}"
    targets = set(
        re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE)) <= targets


def test_there_is_a_page_for_every_stage_and_each_page_in_both_languages() -> None:
    assert {stage for stage in STAGES if not (ENGLISH / f"{stage}.md").exists()} == set()
    there = set(CHINESE.rglob("*.md"))
    assert {chinese for _, chinese in PAIRS[1:]} == there


def test_both_sites_list_every_page_in_the_same_order() -> None:
    listed = [
        re.findall(r"^ +- .+: (\S+\.md)$", (ROOT / site).read_text(encoding="utf-8"), re.MULTILINE)
        for site in ("mkdocs.yml", "mkdocs.zh.yml")
    ]
    assert listed[0] == listed[1]
    assert sorted(listed[0]) == sorted(
        page.relative_to(ENGLISH).as_posix() for page, _ in PAIRS[1:]
    )


@pytest.mark.parametrize(("english", "chinese"), PAIRS, ids=name)
def test_a_page_has_the_same_commands_in_both_languages(english: Path, chinese: Path) -> None:
    if english != GENERATED["en"]:
        assert find_commands(chinese) == find_commands(english), f"{name(chinese)}: other commands"


@pytest.mark.parametrize("language", GENERATED)
def test_the_page_of_commands_is_what_the_commands_say(language: str) -> None:
    written = runpy.run_path(str(ROOT / "docs" / "write_commands.py"))["make_page"](language)
    assert GENERATED[language].read_text(encoding="utf-8") == written, (
        f"{name(GENERATED[language])} is out of date; run make docs"
    )


@pytest.mark.parametrize("readme", ["README.md", "README_zh.md"])
def test_the_prices_of_the_readme_are_those_of_the_providers(readme: str) -> None:
    rows = re.findall(
        r"^\| [^|]*\| `([^`]+)` \| (?:CNY |USD )?([\d./ ]+)",
        (ROOT / readme).read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    prices = {
        model: (entry.price.cache_hit, entry.price.cache_miss, entry.price.output)
        for name, provider in read_providers().items()
        if name != "rehearsal"
        for model, entry in provider.models.items()
        if entry.price
    }
    told = {
        model: tuple(float(part) for part in text.split("/")) for model, text in rows if "/" in text
    }
    assert told == prices
