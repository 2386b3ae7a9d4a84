"""What was measured becomes an image in a registry, with its evidence; nothing here knows GitHub.

`publish` is the order of it; each line is a module. Nothing heavy is imported before it is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trt_action.publish.publishing import Options, Published, publish

__all__ = ["Options", "Published", "publish"]


def __getattr__(name: str) -> object:
    if name in __all__:
        from trt_action.publish import publishing

        return getattr(publishing, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
