"""Our own OpenAPI document, driven by schemathesis: no 5xx, no undeclared status, answers as declared."""

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

import quicksilver
from quicksilver.server.app import create_app
from tests.serving import listening
from tests.tiny_checkpoints import save_tiny_checkpoint

# Of schemathesis' own strategies, which draw from the random module.
pytestmark = pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisDeprecationWarning")
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    folder = save_tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny")
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    with listening(create_app(quicksilver.load(folder, device="cpu"))) as url:
        yield schemathesis.openapi.from_url(f"{url}/openapi.json")


def test_every_route(api):
    operations = [operation.ok() for operation in api.get_all_operations()]
    assert len(operations) > 15
    for operation in operations:

        @hypothesis.given(case=operation.as_strategy())
        @hypothesis.settings(max_examples=10, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
        def drive(case):
            if isinstance(case.body, dict) and "max_nfe" not in case.body:
                case.body["max_nfe"] = 2  # a request may take seconds otherwise
            case.call_and_validate(checks=CHECKS)

        drive()
