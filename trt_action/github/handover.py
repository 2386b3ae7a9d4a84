"""What other repositories are told about an image: an event of theirs, or a pull request."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trt_action.errors import GitHubError
from trt_action.github.api import Client

MAX_TITLE, MAX_BODY = 250, 60_000
_REMOTE = re.compile(
    r"(?:https?://(?:[^@/]+@)?|ssh://(?:[^@/]+@)?|git@)[^/:]+(?::\d+)?[/:]([\w.-]+/[\w.-]+?)(?:\.git)?/?"
)


@dataclass(frozen=True)
class Pull:
    """A pull request. `made` False: it was open already."""

    url: str
    number: int
    made: bool


def dispatch(client: Client, repository: str, event_type: str, payload: Mapping[str, Any]) -> None:
    """Send a `repository_dispatch` event. After a lost answer it is not sent again: two would start two workflows.

    Raises:
        GitHubError: refused, or it is not known whether it arrived.
    """
    try:
        client.post(f"/repos/{repository}/dispatches", {"event_type": event_type, "client_payload": dict(payload)})
    except GitHubError as error:
        if error.status in (403, 404):
            raise GitHubError(
                error.what,
                why="The job's own token may only reach its own repository.",
                fix="Give `deploy-github-token` a token with `contents: write` there.",
                status=error.status,
            ) from None
        raise


def pull_request(client: Client, repository: str, *, head: str, base: str, title: str, body: str) -> Pull:
    """Open a pull request for a branch, or find the one that is open for it already.

    Raises:
        GitHubError: refused.
    """
    path = f"/repos/{repository}/pulls"
    owner = repository.partition("/")[0]

    def there() -> dict[str, Any] | None:
        listed = client.get(path, head=f"{owner}:{head}", base=base, state="open")
        found = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
        return next((one for one in found if (one.get("head") or {}).get("ref") == head), None)

    old = there()
    if old is not None:
        return Pull(str(old.get("html_url")), int(old["number"]), made=False)
    new = client.post(
        path, {"title": title[:MAX_TITLE], "body": body[:MAX_BODY], "head": head, "base": base}, sent=there
    )
    return Pull(str(new.get("html_url")), int(new["number"]), made=True)


def repository_of(remote: str) -> str | None:
    """`owner/name` in the address of a remote; None: it names none."""
    found = _REMOTE.fullmatch(remote)
    return found[1] if found else None
