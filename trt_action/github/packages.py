"""Container packages through GitHub's API: their registry takes no deletion, and lists no untagged images.

https://docs.github.com/rest/packages/packages (versions of a package of an organization or a user).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from urllib.parse import quote as percent

from trt_action.errors import GitHubError, SettingsError
from trt_action.github.api import Client
from trt_action.publish.prune import Stored
from trt_action.publish.reference import is_digest
from trt_action.publish.registry import Registry
from trt_action.publish.stored import describe, time_of


class PackageVersions:
    """One container package: `owner/name` in GitHub's registry. What each version is, the registry tells.

    Raises (every method):
        GitHubError: refused, or not answered in time; rate limits are waited for.
        RegistryError: a manifest cannot be read.
    """

    def __init__(self, client: Client, registry: Registry, repository: str) -> None:
        owner, slash, name = repository.partition("/")
        if not slash:
            raise SettingsError(
                f"`{repository}` is no package of GitHub's registry.", fix="Write `ghcr.io/OWNER/NAME`."
            )
        self._client, self._registry, self._repository = client, registry, repository
        self._owner, self._name = owner, percent(name, safe="")
        self._base = ""

    def stored(self) -> list[Stored]:
        """Every version, tagged or not."""
        versions = {str(one.get("name")): one for one in self._versions() if is_digest(str(one.get("name")))}
        tags = {digest: tuple(sorted(_tags(one))) for digest, one in versions.items()}
        found = describe(self._registry, self._repository, tags, reach=False)
        return [_known(one, versions[one.digest]) for one in found]

    def delete(self, one: Stored) -> None:
        """One version. GitHub keeps the last tagged one of a package, and public ones that are much used: it says so."""
        try:
            self._client.delete(f"{self._base}/{one.handle}")
        except GitHubError as error:
            if error.status != 404:
                raise

    def _versions(self) -> list[dict[str, Any]]:
        """The owner is an organization or a user: only asking tells."""
        try:
            return self._of("orgs")
        except GitHubError as error:
            if error.status != 404:
                raise
        return self._of("users")

    def _of(self, kind: str) -> list[dict[str, Any]]:
        self._base = f"/{kind}/{percent(self._owner, safe='')}/packages/container/{self._name}/versions"
        return list(self._client.paginate(self._base))


def _tags(version: dict[str, Any]) -> list[str]:
    metadata = version.get("metadata")
    container = metadata.get("container") if isinstance(metadata, dict) else None
    tags = container.get("tags") if isinstance(container, dict) else None
    return [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []


def _known(one: Stored, version: dict[str, Any]) -> Stored:
    """With GitHub's id, and with when it was pushed: that is younger than what an image says of itself."""
    created = time_of(str(version.get("created_at") or "")) or one.created
    return replace(one, handle=str(version.get("id")), created=created)
