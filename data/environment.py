"""Secrets stand in the environment, never in a job: `${NAME}` in a URL or a hook is the variable of that name at the moment of use."""

from __future__ import annotations

import os
import re

from data.errors import BadInput

VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
PASSWORD = re.compile(r"(://[^/:@\s]*):(?!\$\{[A-Za-z_][A-Za-z0-9_]*\}@)([^@/\s]+)@")  # one that stands there in plain


def filled(text: str) -> str:
    """The text with every `${NAME}` replaced. BadInput names a variable that is not set, and no value."""
    for name in VARIABLE.findall(text):
        if name not in os.environ:
            raise BadInput(f"the environment variable {name} is not set, which the job names as ${{{name}}}")
    return VARIABLE.sub(lambda found: os.environ[found[1]], text)
