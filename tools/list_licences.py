"""Lists what medkd is installed with: a table of licences, or a CycloneDX bill of materials.

    python tools/list_licences.py [EXTRA …]                 each package with its licence
    python tools/list_licences.py --sbom train > sbom.json  the same as CycloneDX 1.6

Reads the metadata of installed packages; nothing is fetched. Ends with 1 where a package names no
licence.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LONGEST = 60
"""Characters of a licence field up to which it is a name, not the licence's whole text."""


KNOWN = {"torch": "BSD-3-Clause"}
"""Licences of packages whose metadata name none; looked up in their licence file."""


def close_over(name: str, extras: Iterable[str]) -> dict[str, Distribution]:
    """Find all that is installed with a package and its extras."""
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [(name, frozenset(extras))]
    while waiting:
        one = (canonicalize_name(waiting[-1][0]), waiting.pop()[1])
        if one in seen:
            continue
        seen.add(one)
        try:
            found[one[0]] = distribution(one[0])
        except PackageNotFoundError:  # an extra that is not installed here
            print(f"warning: {one[0]} is not installed; it is left out", file=sys.stderr)
            continue
        for needed in map(Requirement, found[one[0]].requires or ()):
            marker = needed.marker
            if marker is None or any(marker.evaluate({"extra": e}) for e in one[1] | {""}):
                waiting.append((needed.name, frozenset(needed.extras)))
    return dict(sorted(found.items()))


def find_licence(package: Distribution) -> str:
    """Read the licence of a package: its expression, its field, or its classifiers; "" for none.

    >>> find_licence(distribution("pydantic"))
    'MIT'
    """
    said = package.metadata
    for field in ("License-Expression", "License"):
        text = (said.get(field) or "").strip()
        if text and len(text) <= LONGEST and "\n" not in text and text != "UNKNOWN":
            return text
    classifiers = said.get_all("Classifier") or []
    named = [c.rpartition(" :: ")[2] for c in classifiers if c.startswith("License ::")]
    first_line = (said.get("License") or "").strip().partition("\n")[0][:LONGEST]
    return " AND ".join(named) or first_line or KNOWN.get(canonicalize_name(said["Name"]), "")


def make_sbom(packages: dict[str, Distribution]) -> dict[str, Any]:
    """Make a bill of materials in CycloneDX 1.6."""
    components = [
        {
            "type": "library",
            "name": name,
            "version": package.version,
            "purl": f"pkg:pypi/{name}@{package.version}",
            "licenses": [{"license": {"name": find_licence(package) or "unknown"}}],
        }
        for name, package in packages.items()
        if name != "medkd"
    ]
    root = {"type": "application", "name": "medkd", "version": packages["medkd"].version}
    head = {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1}
    return {**head, "metadata": {"component": root}, "components": components}


def main() -> int:
    """List what is installed; 1 where a licence is unknown."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("extras", nargs="*", help="extras of medkd: train, studio, …")
    parser.add_argument("--sbom", action="store_true", help="write CycloneDX JSON")
    given = parser.parse_args()
    packages = close_over("medkd", given.extras)
    if given.sbom:
        print(json.dumps(make_sbom(packages), indent=2))
    else:
        width = max(map(len, packages)) + 2
        for name, package in packages.items():
            print(f"{name:<{width}}{package.version:<18}{find_licence(package) or '?'}")
    unknown = [name for name, package in packages.items() if not find_licence(package)]
    for name in unknown:
        print(f"error: {name} names no licence; look it up", file=sys.stderr)
    return 1 if unknown else 0


if __name__ == "__main__":
    sys.exit(main())
