"""Writes the generated parts of the documents; `--check` only compares (a test runs it).

README.md and docs/*.md hold `<!-- begin:NAME -->` … `<!-- end:NAME -->`, action.yml holds `# begin:NAME` … `# end:NAME`; the
text between comes from the code.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

from trt_action import errors, results, settings
from trt_action.evidence import Evidence
from trt_action.gitlab import inputs as gitlab
from trt_action.publish import wanted
from trt_action.settings import options
from trt_action.settings.option import Option

ROOT = Path(__file__).parents[1]


def settings_table() -> str:
    """One row per setting, in the order of the table in `settings/options.py`."""
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    return "\n".join(rows + [_row(option) for option in options.OPTIONS])


def _row(option: Option) -> str:
    default = option.default
    if isinstance(default, bool):
        default = str(default).lower()
    elif isinstance(default, list):
        default = ", ".join(map(str, default))
    shown = "" if default in (None, "") else f"`{default}`"
    choices = f" One of: {', '.join(f'`{c}`' for c in option.choices)}." if len(option.choices) > 1 else ""
    return f"| `{option.name}` | {shown} | {(option.help + choices).replace('|', chr(92) + '|')} |"


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
            meaning = " ".join((cls.__doc__ or "").partition("\n\n")[0].split())
            rows.append(f"| {cls.exit_code} | `{cls.__name__}` | {cls.title} | {meaning} |")
    return "\n".join(rows)


def action_inputs() -> str:
    """The block `inputs:` of action.yml. Settings have no default there: an input that is given, even by a default, would
    win over the config file."""
    rows = ["inputs:"]
    for option in (*options.OPTIONS, *options.ACTION_OPTIONS):
        default = ",".join(map(str, option.default)) if isinstance(option.default, list) else option.default
        shown = str(default).lower() if isinstance(default, bool) else str(default or "")
        text = option.help
        if option.choices:
            text += f" One of: {', '.join(option.choices)}."
        if shown:
            text += f" Default: {shown}."
        token = "${{ github.token }}" if option.name == "github-token" else ""
        rows += [f"  {option.name}:", f"    description: {json.dumps(text, ensure_ascii=False)}"]
        rows += ["    required: false", f'    default: "{token}"']
    return "\n".join(rows)


def action_outputs() -> str:
    """The block `outputs:` of action.yml."""
    rows = ["outputs:"]
    for name, text in results.OUTPUTS.items():
        rows += [f"  {name}:", f"    description: {json.dumps(text, ensure_ascii=False)}"]
    return "\n".join(rows)


def _component_options() -> list[Option]:
    """What a GitLab component can be given: no secrets, which are variables, and nothing of GitHub's."""
    mine = ("config", *gitlab.MEASURING, *gitlab.PUBLISHING)
    own = [option for option in options.ACTION_OPTIONS if option.name in mine and option.name not in wanted.SECRETS]
    return [*options.OPTIONS, *own]


def gitlab_inputs() -> str:
    """Inputs of the component. Settings have no default there: one that is given, even by a default, would win over the
    config file. `output` has one because artifacts need its name."""
    rows = []
    for option in _component_options():
        default = ", ".join(map(str, option.default)) if isinstance(option.default, list) else option.default
        shown = str(default).lower() if isinstance(default, bool) else str(default or "")
        text = option.help + (f" Default: {shown}." if shown else "")
        given = json.dumps(str(option.default)) if option.name == "output" else '""'
        rows += [f"    {option.name}:", f"      description: {json.dumps(text, ensure_ascii=False)}"]
        if option.choices:
            rows += [f"      options: {json.dumps(['', *option.choices])}"]
        rows += [f"      default: {given}"]
    return "\n".join(rows)


def gitlab_variables() -> str:
    """Variables of every job of the component."""
    return "\n".join(_gitlab_variable(one) for one in _component_options() if one.name not in gitlab.PUBLISHING)


def gitlab_publish_variables() -> str:
    """Variables of the publishing job alone."""
    return "\n".join(_gitlab_variable(one) for one in _component_options() if one.name in gitlab.PUBLISHING)


def _gitlab_variable(option: Option) -> str:
    return f"    {gitlab.variable(option.name)}: $[[ inputs.{option.name} ]]"


def inputs_table() -> str:
    """One row per input that only the action has; every setting is an input too."""
    rows = ["| input | default | meaning |", "|---|---|---|"]
    return "\n".join(rows + [_row(option) for option in options.ACTION_OPTIONS])


def outputs_table() -> str:
    """One row per output of the action."""
    return "\n".join(
        ["| output | meaning |", "|---|---|", *(f"| `{name}` | {text} |" for name, text in results.OUTPUTS.items())]
    )


PARTS: dict[str, Callable[[], str]] = {
    "settings": settings_table,
    "exit-codes": exit_codes,
    "action-inputs": inputs_table,
    "action-outputs": outputs_table,
}
YAML_PARTS: dict[str, dict[str, Callable[[], str]]] = {
    "action.yml": {"inputs": action_inputs, "outputs": action_outputs},
    "templates/trt-action/template.yml": {
        "gitlab-inputs": gitlab_inputs,
        "gitlab-variables": gitlab_variables,
        "gitlab-publish-variables": gitlab_publish_variables,
    },
}
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
    for relative, parts in YAML_PARTS.items():
        text = (ROOT / relative).read_text()
        for name, part in parts.items():
            pattern = re.compile(rf"( *# begin:{name}\n).*?( *# end:{name}\n)", re.DOTALL)
            text = pattern.sub(lambda match, part=part: f"{match[1]}{part()}\n{match[2]}", text)  # type: ignore[misc]
        found[ROOT / relative] = text
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
