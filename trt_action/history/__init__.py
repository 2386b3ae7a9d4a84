"""How did it go so far? The trend over commits from the evidence of earlier runs (docs/history.md). History, not evidence:
numbers of different runs decide about nothing."""

from trt_action.history.page import html
from trt_action.history.series import Series, series
from trt_action.history.sources import Found, of_files, of_registry
from trt_action.history.text import markdown
from trt_action.history.words import LEAST

__all__ = ["LEAST", "Found", "Series", "html", "markdown", "of_files", "of_registry", "series"]
