"""Makes docs/images/comment.png: the comment of the last `make demo`, as a pull request shows it. Needs Chromium.

    python docs/screenshot.py trt-action-report/comment.md docs/images/comment.png

The picture is the comment rendered by markdown-it (GitHub's dialect of Markdown, without mermaid, which is folded) with a
style sheet close to GitHub's.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from markdown_it import MarkdownIt

STYLE = """
body { font: 14px/1.5 -apple-system, "Segoe UI", "Noto Sans", Helvetica, Arial, sans-serif; color: #1f2328;
       margin: 16px; background: #fff }
.box { border: 1px solid #d1d9e0; border-radius: 6px }
.head { background: #f6f8fa; border-bottom: 1px solid #d1d9e0; border-radius: 6px 6px 0 0; padding: 8px 16px;
        color: #59636e }
.head b { color: #1f2328 } .body { padding: 12px 16px }
table { border-collapse: collapse; margin: 12px 0 } td, th { border: 1px solid #d1d9e0; padding: 6px 13px }
tr:nth-child(2n) td { background: #f6f8fa } th { font-weight: 600 }
code { background: #818b981f; border-radius: 6px; padding: .2em .4em; font-size: 85% }
details { margin: 6px 0 }
"""


def main() -> int:
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    body = MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(source.read_text())
    page = (
        f"<!doctype html><meta charset=utf-8><style>{STYLE}</style><div class=box><div class=head>"
        f"<b>github-actions</b> commented</div><div class=body>{body}</div></div>"
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        html = Path(folder) / "comment.html"
        html.write_text(page)
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
        command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
        command += [f"--user-data-dir={folder}/profile", "--force-device-scale-factor=2", "--window-size=900,880"]
        subprocess.run([*command, f"--screenshot={target.absolute()}", html.as_uri()], check=True, capture_output=True)
    sys.stdout.write(f"written: {target}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
