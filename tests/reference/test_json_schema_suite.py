"""JSON-Schema-Test-Suite: whoever keeps a schema gives every verdict that the suite expects."""

import itertools
import json
from pathlib import Path

import pytest

from quicksilver.constraints.json_schema.form import write_json
from quicksilver.constraints.json_schema.schema import JsonSchema
from quicksilver.errors import ConstraintTooLargeError, UnsupportedConstraintError
from tests.constraint_languages import language_of
from tests.constraint_schemas import orders

SUITE = Path(__file__).parents[2] / "data/eval/json_schema_test_suite"
EVERY = 8
"""Of its groups; ``benchmarks/constraints.py`` takes all."""
DRAFT_7 = "http://json-schema.org/draft-07/schema#"


def groups_of(draft: str) -> list[dict]:
    lines = (SUITE / f"{draft}.jsonl").read_text(encoding="utf-8").splitlines()
    groups = [json.loads(line) for line in lines[::EVERY]]
    if draft == "draft7":
        for group in groups:
            if isinstance(group["schema"], dict):
                group["schema"] = {"$schema": DRAFT_7} | group["schema"]
    return groups


@pytest.mark.parametrize("draft", ["draft7", "draft2020-12"])
def test_no_verdict_is_wrong(draft):
    kept = 0
    for group in groups_of(draft):
        try:
            # A format says nothing unless asked, in the specification and in the suite.
            language = language_of(JsonSchema(group["schema"], formats="annotate", unknown_keywords="ignore"))
        except (UnsupportedConstraintError, ConstraintTooLargeError):
            continue
        kept += 1
        for test in group["tests"]:
            texts = (write_json(each) for each in itertools.islice(orders(test["data"]), 2_000))
            found = any(language.accepts(text.encode()) for text in texts)
            assert found == test["valid"], (group["description"], test["description"])
    assert kept > 0.8 * len(groups_of(draft))
