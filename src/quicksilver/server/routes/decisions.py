"""``POST /v1/decisions`` and ``POST /v1/systemone``: typed questions, each answered by one forward."""

from fastapi import APIRouter, Request

from quicksilver.errors import UsageError
from quicksilver.protocol.decisions import (
    DecisionRequest,
    InputDecisions,
    InputUsage,
    StateDecisions,
    StateUsage,
)
from quicksilver.server.decisions import answer_about_input, answer_about_state, place_of, subject_of
from quicksilver.server.errors import ApiError, as_api_error
from quicksilver.server.generation import read_usage
from quicksilver.server.routes._shared import ERRORS, ServiceOf

router = APIRouter()


@router.post("/v1/decisions", responses=ERRORS)
@router.post("/v1/systemone", responses=ERRORS)
async def decide(body: DecisionRequest, http: Request, service: ServiceOf) -> StateDecisions | InputDecisions:
    """Answer questions with probabilities; nothing is written."""
    model, subject = service.name(body.model), subject_of(body)
    asked = body.questions.values() if isinstance(body.questions, dict) else body.questions
    places = [place_of(subject, question) for question in asked]
    tokenizer = service.model.tokenizer
    num_input = sum(map(len, tokenizer.encode_batch([part for each in places for part in (each.before, each.after)])))
    permit = await http.app.state.gate.admit(http, model=model, num_input=num_input, max_output=0)
    try:
        with service.beside_engine():
            found = [
                await service.decide(each.before, each.after, each.labels, may_crop=each.may_crop) for each in places
            ]
    except UsageError as error:
        permit.release()
        raise _of(body, as_api_error(error)) from error
    except BaseException:
        permit.release()
        raise
    num_read = sum(each.num_prompt for each in found)
    await permit.settle([read_usage(num_prompt=num_read, num_written=0, nfe=len(found))], "stop")
    http.state.note.update(input_tokens=num_read, output_tokens=0, nfe=len(found))
    if isinstance(body.questions, dict):
        pairs = zip(body.questions.items(), found, strict=True)
        answers = {name: answer_about_state(question, decision) for (name, question), decision in pairs}
        return StateDecisions(model=model, answers=answers, usage=StateUsage(input_tokens=num_read))
    in_order = [
        answer_about_input(question, decision) for question, decision in zip(body.questions, found, strict=True)
    ]
    usage = InputUsage(input_tokens=num_read, total_tokens=num_read)
    return InputDecisions(model=model, answers=in_order, usage=usage)


def _of(body: DecisionRequest, error: ApiError) -> ApiError:
    is_long = error.body.code == "context_length_exceeded"
    return error.of("questions" if not is_long else "state" if body.state is not None else "input")
