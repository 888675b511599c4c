import json

import httpx
import pytest

from quicksilver.client import Client, RefusedError, RequestOptions
from quicksilver.coding.next_edit import fenced
from quicksilver.evaluation.subject import MALFORMED, REFUSED, Ask, Editor
from quicksilver.evaluation.subjects.editing import EditingSubject
from tests.fake_subjects import FakeSubject

USAGE = {"prompt_tokens": 1, "completion_tokens": 7, "total_tokens": 8, "nfe": 3}


def subject_of(status: int, body: dict, asked: list | None = None, **options) -> EditingSubject:
    def answer(request: httpx.Request) -> httpx.Response:
        if asked is not None:
            asked.append(json.loads(request.content))
        return httpx.Response(status, json=body)

    client = Client("http://server", transport=httpx.MockTransport(answer), max_retries=0)
    subject = FakeSubject(lambda texts: "filled", name="behind")
    return EditingSubject(subject=subject, client=client, options=RequestOptions(**options))


def said(text: str) -> dict:
    return {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}], "usage": USAGE}


def test_it_is_its_subject_and_an_editor():
    subject = subject_of(200, said(""))
    assert isinstance(subject, Editor)
    assert (subject.name, subject.about(), subject.count_tokens("abc")) == ("behind", {"name": "behind"}, 3)
    assert subject.fill(("a", "b"), Ask(seed=0)).texts == subject.complete("a", Ask(seed=0)).texts == ("filled",)


def test_an_edit_is_the_fenced_region_and_is_asked_for_with_the_options():
    asked: list = []
    subject = subject_of(200, said(fenced("x = 1\n")), asked, threshold=0.5)
    answer = subject.edit("prompt", Ask(seed=3, temperature=0.25))
    assert (answer.texts, answer.num_tokens, answer.nfe, answer.finish_reason) == (("x = 1\n",), 7, 3, "stop")
    message = {"role": "user", "content": "prompt"}
    assert asked == [{"messages": [message], "seed": 3, "temperature": 0.25, "threshold": 0.5}]
    answer = subject_of(200, said("x = 1")).edit("prompt", Ask(seed=0))
    assert (answer.texts, answer.num_tokens, answer.finish_reason) == (("",), 7, MALFORMED)


def test_a_merge_in_doubt_is_a_refusal_and_other_failures_are_errors():
    assert subject_of(200, said("file\n")).apply("prompt", Ask(seed=0)).texts == ("file\n",)
    doubt = {"error": {"message": "where does it belong?", "type": "invalid_request_error"}}
    answer = subject_of(422, doubt).apply("prompt", Ask(seed=0))
    assert (answer.texts, answer.finish_reason) == (("",), REFUSED)
    with pytest.raises(RefusedError, match="belong"):
        subject_of(400, doubt).apply("prompt", Ask(seed=0))
