"""What a Chinese text may hold of Latin letters: names, the same in every language. Everything else
is English left over."""

import re

WORDS = """
medkd run studio collect deidentify prepare distill verify merge train reinforce evaluate export compare doctor report review bill
runs uploads files iiyi custom rationalize solve off peak full lora qlora on policy auto none zero2 zero3 fsdp2 base low high max
stop length loop format grounded diagnosis judge rewards trainer packing beta temperature loss step title id department url name
value owner predict label alpaca providers cookies cookie txt xlsx iconv pip install pyarrow safetensors transformers torch
bitsandbytes modelscope flash attn accelerate launch pass hf ms cuda cpu http zh en norm model pad cop option options opa rules
recipes rehearsal tiny key or synonyms pgrep fl deepseek v4 pro pickle medical data llamafactory bf16 bfloat16 float32
""".split()  # noqa: SIM905 - a list of a hundred quoted words reads worse
NAMES = re.compile(
    r"""
    \(\w[\w.-]*\)                                             # a field's or a measure's own name, behind its Chinese one
    | `[^`]*` | "[^"]*" | '[^']*'                             # what is quoted
    | --[\w.-]+                                               # a flag
    | https?://\S+ | [\w.-]*[/\\@][\w./:@-]*                  # an address, a path
    | \w+[:=][\w./-]+ | [\w.-]+\.\w+ | \w*_\w+                # medkd:tiny, iiyi:61298, key=value, a file, an identifier
    | \b(?:JSON\ Lines|User-Agent|Cohen's\ kappa|Cookies)\b
    | \b(?:Excel|Netscape|Playwright|Chromium|Chrome|Parquet|Holm|Jaccard|Ollama|Modelfile|Instruct|Base|English|Complaint|Beschwerden)\b
    | [A-Z][A-Z0-9]*(?:-[A-Z0-9]+)*\b | P\d\d                 # an abbreviation
    | [A-Z]*[a-z]*[A-Z]\w*(?:-[A-Z]\w+)*                      # OpenCC, vLLM, LLaMA-Factory
    """,
    re.VERBOSE,
)


def find_english(text: str) -> list[str]:
    """List the English words of a text that are no names.

    >>> find_english("请先运行 distill，或检查 runs/a"), find_english("no such file：请检查")
    ([], ['no', 'such', 'file'])
    """
    return [
        word for word in re.findall("[A-Za-z]{2,}[0-9]*", NAMES.sub(" ", text)) if word not in WORDS
    ]
