"""Keys come from the environment and stay there: what a provider echoes is blanked before it is written anywhere."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
SHORTEST = 8
"""Characters below which a value is no key: blanking "1" everywhere would help nobody."""


def blank(text: str, environment: Mapping[str, str] | None = None) -> str:
    """The text without the values of variables whose names speak of keys, nor what looks like one in a header."""
    for name, value in (os.environ if environment is None else environment).items():
        if len(value) >= SHORTEST and _NAME.search(name) and value in text:
            text = text.replace(value, f"[{name}]")
    return re.sub(r"(?i)\b(bearer\s+|sk-)[A-Za-z0-9._-]{8,}", r"\1[blanked]", text)
