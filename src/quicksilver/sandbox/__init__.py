"""Running untrusted Python, and commands over it. Needs neither torch nor the rest of the package."""

from quicksilver.sandbox.commands import COMMAND_LIMITS, CommandEnd, find_program, require_commands, run_command
from quicksilver.sandbox.guest import Opaque
from quicksilver.sandbox.programs import Answer, Call, Limits, Outcome, Program, Verdict
from quicksilver.sandbox.sandbox import Sandbox

__all__ = [
    "COMMAND_LIMITS",
    "Answer",
    "Call",
    "CommandEnd",
    "Limits",
    "Opaque",
    "Outcome",
    "Program",
    "Sandbox",
    "Verdict",
    "find_program",
    "require_commands",
    "run_command",
]
