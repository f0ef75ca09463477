"""A hook of mkdocs: links from the docs to other files of the repository lead to the forge.

The pages are written to be read in a checkout, where `../deploy/x` is a file; on the site it would be nothing.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Called by mkdocs with each page's text; a link to a file that does not exist is left for `--strict` to find."""
    folder = posixpath.join("docs", posixpath.dirname(page.file.src_uri))

    def leads_to_forge(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, match[1]))
        if path.startswith("docs/") or not (REPOSITORY / path).exists():
            return match[0]
        kind = "tree" if (REPOSITORY / path).is_dir() else "blob"
        return f"]({config['repo_url'].rstrip('/')}/{kind}/main/{path})"

    return re.sub(r"\]\((\.\./[^()\s#]+)\)", leads_to_forge, markdown)
