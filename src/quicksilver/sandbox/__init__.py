"""Running untrusted Python: programs in, verdicts out. Needs neither torch nor the rest of the package."""

from quicksilver.sandbox.guest import Opaque
from quicksilver.sandbox.programs import Answer, Call, Limits, Outcome, Program, Verdict
from quicksilver.sandbox.sandbox import Sandbox

__all__ = ["Answer", "Call", "Limits", "Opaque", "Outcome", "Program", "Sandbox", "Verdict"]
