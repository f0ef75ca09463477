"""Which sentences of an RFC demand something: `python -m tests.docs.requirements rfc6455.txt` lists and numbers them.

The text of the RFC is not in this repository; what was counted in it stands in `test_rfc.py`.
"""

import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_DEMAND: Final = re.compile(r"\b(MUST|REQUIRED|SHALL)\b")
_PAGE_BREAK: Final = re.compile(r"\n+[^\n]*\[Page \d+\]\n\f?\n?[^\n]*RFC \d+[^\n]*\n+")
_SENTENCE_END: Final = re.compile(r"(?<=[.:;)])\s+(?=[A-Z_*0-9(o|])")


def demands(text: str) -> Iterator[tuple[str, int, str]]:
    """Section, ordinal within it (from 1) and words of each sentence with a MUST, REQUIRED or SHALL in it."""
    body = _PAGE_BREAK.sub("\n", text)
    body = body[body.rindex("\n1.  Introduction") :]
    section = ""
    found: Counter[str] = Counter()
    for paragraph in re.split(r"\n\s*\n", body):
        if heading := re.match(r"(\d+(?:\.\d+)*)\.  +\S", paragraph.lstrip("\n")):
            section = heading.group(1)
        for sentence in _SENTENCE_END.split(" ".join(paragraph.split())):
            if _DEMAND.search(sentence):
                found[section] += 1
                yield section, found[section], sentence


if __name__ == "__main__":
    for section, ordinal, sentence in demands(Path(sys.argv[1]).read_text()):
        sys.stdout.write(f"{section} ({ordinal}) {sentence}\n")
