"""Who needs to read what? Everything here is rendered from evidence alone."""

from trt_action.report.junit import junit
from trt_action.report.markdown import check_template, comment, marker, summary
from trt_action.report.metrics import metrics
from trt_action.report.page import html
from trt_action.report.terminal import searched, terminal
from trt_action.report.writing import read_evidence, slug, write, write_evidence

__all__ = [
    "check_template",
    "comment",
    "html",
    "junit",
    "marker",
    "metrics",
    "read_evidence",
    "searched",
    "slug",
    "summary",
    "terminal",
    "write",
    "write_evidence",
]
