"""What the scripts for libraries share: one conversation about a long file.

Each script is called with `first` (a turn that calls a tool, and structured output) or
`second` (a turn, and another that goes on from it), in a folder with v4.py as
`v4-run client-config` prints it.
"""

import os
import pathlib
import subprocess
import sys
from typing import Literal

from pydantic import BaseModel

sys.path.insert(0, os.getcwd())

NOTES = "You answer questions about these notes.\n" + pathlib.Path("notes.py").read_text()
TASK = os.environ["TASK"]
MORE = "And what else do they say?"
SECOND = sys.argv[1] == "second"
# Seconds that the client waits; None: what v4.py says.
PATIENCE = float(os.environ["PATIENCE"]) if "PATIENCE" in os.environ else None


class Bug(BaseModel):
    """A bug in the parser."""

    severity: Literal["low", "high"]
    line: Literal[1, 2, 3]


def run_command(command: str) -> str:
    """Runs a command in the shell and returns what it prints.

    Args:
        command: the command
    """
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=30)
    return done.stdout


def check(value):
    assert isinstance(value, Bug), value
    print("structured:", value.model_dump_json())
