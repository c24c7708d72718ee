"""Writes self-contained HTML pages: everything escaped, no script, no request to any host.

In: a template that extends `page.html.jinja`, and its values. Not done here: plots (`core.plots`).
"""

from pathlib import Path
from typing import Any

from medkd.core.jsonl import write_text


def write_page(
    path: Path, package: str, template: str, private: bool = False, **values: Any
) -> None:
    """Render a template of a package into a page; `title` is one of the values."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader

    packages = (package, "medkd.core", "medkd")
    loader = ChoiceLoader([PackageLoader(name, ".") for name in packages])
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    write_text(path, environment.get_template(template).render(**values), private)
