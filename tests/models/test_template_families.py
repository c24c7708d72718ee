"""What chat templates of many families do, and what training, serving and export make of each."""

import pytest

from medkd.core.errors import InputError
from medkd.core.records import Message
from medkd.core.thinking import PREFIX
from medkd.models.chat_template import (
    MAX_TEMPLATE_LENGTH,
    PLAIN_CHATML,
    add_thinking_prefix,
    find_end_of_turn,
    find_plain_template,
    find_prefix_mismatch,
    find_template,
    find_templates,
    has_thinking_prefix,
    make_messages,
    render,
    takes_system,
)
from medkd.models.load import load_tokenizer

TURNS = (
    "{%- for m in messages %}"
    "{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{%- endfor %}"
)


def opened_by(text: str) -> str:
    """A ChatML template whose generation prompt goes on with a piece of template."""
    return (
        TURNS
        + "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
        + text
        + "{%- endif %}"
    )


OFF_UNLESS_TOLD = "{%- if not (enable_thinking is defined and enable_thinking) %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}"
ON_UNLESS_TOLD = "{%- if enable_thinking is defined and not enable_thinking %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}"
PAST_THOUGHTS_REMOVED = (
    "{%- for m in messages %}{%- set said = m.content %}"
    "{%- if m.role == 'assistant' and '</think>' in said %}{%- set said = said.split('</think>')[-1].lstrip('\n') %}{%- endif %}"
    "{{- '<|im_start|>' + m.role + '\n' + said + '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
NO_SYSTEM = "{%- if messages[0].role == 'system' %}{{ raise_exception('no system turns here') }}{%- endif %}"
ALTERNATING = (
    "{%- for m in messages %}{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('turns must go user, assistant, user') }}{%- endif %}"
    "{%- if m.role == 'user' %}{{- '[INST] ' + m.content + ' [/INST]' }}"
    "{%- else %}{{- m.content + '<|im_end|>' }}{%- endif %}{%- endfor %}"
)
GEMMA = (
    NO_SYSTEM
    + "{%- for m in messages %}{{- '<|im_start|>' + ('model' if m.role == 'assistant' else m.role) + '\n' + m.content | trim + '<|im_end|>\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>model\n' }}{%- endif %}"
)
GLM = (
    "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' }}"
    "{%- if m.role == 'assistant' %}{{- '<think></think>\n' + m.content }}"
    "{%- else %}{{- m.content }}{%- if m.role == 'user' and enable_thinking is defined and not enable_thinking %}{{- '/nothink' }}{%- endif %}"
    "{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant' }}"
    "{%- if enable_thinking is defined and not enable_thinking %}{{- '\n<think></think>' }}{%- endif %}{%- endif %}"
)
LLAMA = (
    "{%- for m in messages %}{{- '<|im_start|>' + m.role + '<|endoftext|>\n\n' + m.content | trim + '<|im_end|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant<|endoftext|>\n\n' }}{%- endif %}"
)
DEFAULT_SYSTEM = "{%- if messages[0].role != 'system' %}{{- '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{%- endif %}"
MACRO = (
    "{%- macro write(m) %}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endmacro %}"
    "{%- for m in messages %}{{- write(m) }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n<think>\n' }}{%- endif %}\n"
)

FAMILIES = {
    "Qwen2.5: a system text of its own": DEFAULT_SYSTEM + opened_by(""),
    "Qwen3: on unless switched off": opened_by(ON_UNLESS_TOLD),
    "off unless switched on": opened_by(OFF_UNLESS_TOLD),
    "Qwen3.5: opened, or left empty": opened_by(
        "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}"
        "{%- else %}{{- '<think>\n' }}{%- endif %}"
    ),
    "DeepSeek V3.1: closed unless switched on": opened_by(
        "{%- if thinking is defined and thinking %}{{- '<think>' }}{%- else %}{{- '</think>' }}{%- endif %}"
    ),
    "opened only when told": opened_by("{%- if enable_thinking %}{{- '<think>\n' }}{%- endif %}"),
    "R1 distilled: opened with a line break": opened_by("{{- '<think>\n' }}"),
    "R1 first version: opened without one": opened_by("{{- '<think>' }}"),
    "opened with two line breaks": opened_by("{{- '<think>\n\n' }}"),
    "always an empty thought": opened_by("{{- '<think>\n\n</think>\n\n' }}"),
    "past thoughts removed": PAST_THOUGHTS_REMOVED,
    "GLM: nothing ends a turn but the next": GLM,
    "Llama: other marks": LLAMA,
    "Gemma: no system turn": GEMMA,
    "Mistral v0.1: turns must alternate": ALTERNATING,
    "macros, and a last line break": MACRO,
    "a switch of another name": opened_by(
        "{%- if not reason_first %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}"
    ),
    "opened only under a system text": opened_by(
        "{%- if messages[0].role == 'system' %}{{- '<think>\n' }}{%- endif %}"
    ),
    "already ours": add_thinking_prefix(PLAIN_CHATML),
}
CONVERSATIONS = [
    make_messages("fever?"),
    make_messages("fever?", "Say why.", "Be brief."),
    [
        *make_messages("fever?"),
        Message(role="assistant", content="flu"),
        *make_messages("and now?"),
    ],
]


@pytest.fixture(scope="module")
def tokenizers(tiny_model_dir):
    def make(template):
        tokenizer = load_tokenizer(tiny_model_dir)
        tokenizer.chat_template = template
        return tokenizer

    return make


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("messages", CONVERSATIONS, ids=["bare", "instructed", "second turn"])
def test_one_thought_is_opened_in_training_serving_and_export(tokenizers, family, messages):
    tokenizer = tokenizers(FAMILIES[family])
    trained = render(tokenizer, messages, find_plain_template(tokenizer))
    assert "think>" not in trained.rpartition(messages[-1].content)[2]
    exported = tokenizers(find_templates(tokenizer).thinking)
    assert render(exported, messages) == trained + PREFIX
    assert has_thinking_prefix(exported)
    assert find_prefix_mismatch(tokenizer, messages, find_plain_template(tokenizer)) == ""
    assert find_templates(exported).thinking == find_templates(tokenizer).thinking


@pytest.mark.parametrize("family", FAMILIES)
def test_however_the_switches_of_a_served_model_stand_it_opens_one_thought(tokenizers, family):
    exported = find_templates(tokenizers(FAMILIES[family])).thinking
    for switches in ({"enable_thinking": False}, {"enable_thinking": True}, {"thinking": True}):
        text = tokenizers(exported).apply_chat_template(
            [{"role": "user", "content": "x"}],
            tokenize=False,
            add_generation_prompt=True,
            **switches,
        )
        assert text.count("<think>") == 1 and text.count("</think>") == 0
        assert text.endswith("<think>\n")


@pytest.mark.parametrize("family", FAMILIES)
def test_no_template_takes_a_mark_that_llama_cpp_cannot_read(tokenizers, family):
    assert "{%+" not in find_templates(tokenizers(FAMILIES[family])).thinking


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_ends_its_turns_with_a_token(tokenizers, family):
    tokenizer = tokenizers(FAMILIES[family])
    ends = "<|im_start|>" if family.startswith("GLM") else "<|im_end|>"
    assert tokenizer.convert_ids_to_tokens(find_end_of_turn(tokenizer)) == ends


@pytest.mark.parametrize("template", [GEMMA, ALTERNATING, NO_SYSTEM + opened_by("")])
def test_a_system_text_that_a_template_refuses_stands_in_the_users_turn(tokenizers, template):
    tokenizer = tokenizers(template)
    assert not takes_system(tokenizer)
    assert "Be brief.\n\nfever?" in render(tokenizer, make_messages("fever?", system="Be brief."))


def test_a_system_text_that_a_template_leaves_out_is_not_lost(tokenizers):
    silent = (
        "{%- for m in messages if m.role != 'system' %}{{- m.content + '<|im_end|>' }}{%- endfor %}"
    )
    assert "Be brief." in render(tokenizers(silent), make_messages("fever?", system="Be brief."))


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "come to an end"),
        ("{% set ns = namespace(x='x' * 9999) %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}", "MemoryError|too much memory"),
        ("{{ 'x' * 99999999 }}", "chat template"),
        ("{# " + "x" * (MAX_TEMPLATE_LENGTH + 1) + " #}" + PLAIN_CHATML, "characters, over"),
        ("{% include '/etc/passwd' %}", "cannot be used"),
        ("{{ messages.__class__.__mro__[1].__subclasses__() }}", "cannot be used"),
        ("{{ ''.__class__.__init__.__globals__['os'].system('true') }}", "cannot be used"),
        ("{% if %}", "cannot be used"),
        ("{{ '" + "(" * 5 + "' }}" + "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "cannot be used|come to an end"),
        ("{{ messages[7].content }}", "cannot be used"),
        ("\ud800{{ messages[0].content }}", "no valid Unicode"),
    ],
    ids=["loop", "memory", "output", "size", "file", "classes", "globals", "syntax", "depth", "index", "surrogate"],
)  # fmt: skip
def test_a_template_that_cannot_be_used_is_one_line(tokenizers, template, says):
    with pytest.raises(InputError, match=says) as caught:
        render(tokenizers(template), make_messages("?"))
    assert "\n" not in str(caught.value) and "; " in str(caught.value)


@pytest.mark.parametrize(
    "template",
    [
        opened_by("{{- '\u25c1think\u25b7' }}"),
        opened_by("{{- '<think>Let me see.' }}"),
        opened_by("{{- '<think>\n\n</think>\n\nAnswer: ' }}"),
        "{%- if add_generation_prompt %}<|im_start|>assistant\n{%- endif %}",
    ],
    ids=["foreign tag", "begun thought", "begun answer", "no question"],
)
def test_a_thought_that_cannot_be_taken_off_is_refused_in_one_line(tokenizers, template):
    with pytest.raises(InputError, match="its chat template") as caught:
        find_templates(tokenizers(template))
    assert "\n" not in str(caught.value) and "; " in str(caught.value)


def test_a_template_of_50_megabytes_is_refused_before_it_is_compiled(tokenizers):
    with pytest.raises(InputError, match="characters, over"):
        find_template(tokenizers("{# " + "x" * 50_000_000 + " #}" + PLAIN_CHATML))
