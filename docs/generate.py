"""Writes the generated parts of the documents; `--check` only compares (a test runs it).

README.md and docs/*.md hold `<!-- begin:NAME -->` … `<!-- end:NAME -->`; the text between comes from the code.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

from trt_action import errors, settings
from trt_action.evidence import Evidence
from trt_action.settings import options

ROOT = Path(__file__).parents[1]


def settings_table() -> str:
    """One row per setting, in the order of the table in `settings/options.py`."""
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    for option in options.OPTIONS:
        default = option.default
        if isinstance(default, bool):
            default = str(default).lower()
        elif isinstance(default, list):
            default = ", ".join(default)
        shown = "" if default in (None, "") else f"`{default}`"
        choices = f" One of: {', '.join(f'`{c}`' for c in option.choices)}." if len(option.choices) > 1 else ""
        rows.append(f"| `{option.name}` | {shown} | {(option.help + choices).replace('|', chr(92) + '|')} |")
    return "\n".join(rows)


def exit_codes() -> str:
    """One row per exit code and error class."""
    rows = [
        "| code | class | title | what it means |",
        "|---|---|---|---|",
        "| 0 | | Passed | Every gate that could be checked held. |",
        "| 1 | | Gate failed | At least one gate is broken; nothing is published. |",
        "| 3 | | Inconclusive | A gate could not be decided and `on-inconclusive` is `fail`. |",
    ]
    classes = sorted(errors.all_errors().values(), key=lambda cls: (cls.exit_code, cls.__name__))
    for cls in classes:
        if cls is not errors.TrtActionError:
            meaning = " ".join((cls.__doc__ or "").split())
            rows.append(f"| {cls.exit_code} | `{cls.__name__}` | {cls.title} | {meaning} |")
    return "\n".join(rows)


PARTS: dict[str, Callable[[], str]] = {"settings": settings_table, "exit-codes": exit_codes}
SCHEMAS: dict[str, Callable[[], dict[str, object]]] = {
    "docs/evidence.schema.json": Evidence.model_json_schema,
    "docs/config.schema.json": settings.config_schema,
}


def generated() -> dict[Path, str]:
    """Every document with generated parts, as it should be."""
    found: dict[Path, str] = {}
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = path.read_text()
        for name, part in PARTS.items():
            pattern = re.compile(rf"(<!-- begin:{name} -->\n).*?(<!-- end:{name} -->)", re.DOTALL)
            text = pattern.sub(lambda match, part=part: f"{match[1]}{part()}\n{match[2]}", text)  # type: ignore[misc]
        found[path] = text
    for relative, schema in SCHEMAS.items():
        found[ROOT / relative] = json.dumps(schema(), indent=2) + "\n"
    return found


def main() -> int:
    """Write, or with `--check` say which documents are out of date."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--check", action="store_true")
    check = arguments.parse_args().check
    stale = [path for path, text in generated().items() if not path.exists() or path.read_text() != text]
    for path in stale:
        if not check:
            path.write_text(generated()[path])
        sys.stdout.write(f"{'out of date' if check else 'written'}: {path.relative_to(ROOT)}\n")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
