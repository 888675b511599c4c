// Prompts and templates to begin with.
export const HOLE = "<FILL>";

export const EXAMPLES = [
  {
    name: "A class, three holes",
    text: `class Stack:
    """Last in, first out."""

    def __init__(self):
        self.items = <FILL>

    def push(self, item):
        self.items.<FILL>

    def __len__(self):
        return <FILL>
`,
  },
  {
    name: "A return value",
    text: `def mean(values):
    """The arithmetic mean of some numbers."""
    return <FILL>
`,
  },
  {
    name: "A loop and its body",
    text: `def squares(n):
    found = []
    for i in range(<FILL>):
        found.append(<FILL>)
    return found
`,
  },
  {
    name: "Errors",
    text: `import json


def read_config(path):
    try:
        with open(<FILL>) as file:
            return json.<FILL>
    except FileNotFoundError:
        <FILL>
`,
  },
  {
    name: "Continue a function",
    text: `def fibonacci(n):
    """Return the n-th Fibonacci number."""
`,
  },
  {
    name: "Continue a test",
    text: `import pytest


def test_division_by_zero():
    with pytest.raises(`,
  },
];
