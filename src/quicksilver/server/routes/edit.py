"""``POST /v1/edit/completions``: rewrite the region around the cursor.

The region is a draft on the canvas, between the text above and below it: the denoiser keeps what it believes and finds
anew what it doubts. A checkpoint that was not trained on edits mostly keeps it all, which is the answer "no change".
"""

import ast

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from quicksilver.api import DecodingOptions, HoleOptions, InfillLayout
from quicksilver.api import InfillRequest as Infill
from quicksilver.coding.next_edit import NextEdit, fenced, parse_next_edit
from quicksilver.errors import UsageError
from quicksilver.protocol.chat import AssistantMessage
from quicksilver.protocol.completions import EditChoice, EditRequest, EditResponse
from quicksilver.server.errors import ApiError, as_api_error, unsupported
from quicksilver.server.generation import Head, account, collected
from quicksilver.server.routes._shared import ERRORS, ServiceOf, count_input, most_output, user_text
from quicksilver.server.sampling import decoding_options
from quicksilver.server.service import ClientGoneError, Service

router = APIRouter()

DRAFT_THRESHOLD = 0.02
"""A token of the region is doubted below this probability. Low, because a needless edit costs a person more than a
missing one."""


@router.post("/v1/edit/completions", response_model=EditResponse, responses=ERRORS)
async def edit(body: EditRequest, http: Request, service: ServiceOf) -> Response:
    """The region as it should be, in a fence; unchanged where nothing better is known."""
    head = Head.new(service, "cmpl-", body.model)
    if body.stream:
        raise unsupported("stream", "a region is answered as a whole: leave out stream")
    try:
        known = parse_next_edit(user_text(body))
        request = _request(known, decoding_options(body, service.model, draft_threshold=DRAFT_THRESHOLD), service)
        permit = await http.app.state.gate.admit(
            http, model=head.model, num_input=count_input(service, request), max_output=most_output(request)
        )
        try:
            answers = await service.submit([request])
        except BaseException:
            permit.release()
            raise
    except UsageError as error:
        raise as_api_error(error, fields=frozenset(body.model_fields_set)) from error
    try:
        completions = await collected(service, permit, http, answers)
    except ClientGoneError:
        return Response(status_code=499)
    usage = await account(service, permit, http.state.note, answers, completions)
    region, reason = _accepted(known, completions[0].holes[0].text)
    response = EditResponse(
        id=head.id,
        object="edit.completion",
        created=head.created,
        model=head.model,
        choices=[EditChoice(message=AssistantMessage(content=fenced(region)), finish_reason="stop")],
        usage=usage,
        details={"changed": region != known.region.removesuffix("\n"), "kept_because": reason},
    )
    return JSONResponse(response.model_dump(mode="json"))


def _request(known: NextEdit, options: DecodingOptions, service: Service) -> Infill:
    region = known.region.removesuffix("\n")
    if not region:
        raise ApiError(400, "the region to edit is empty: ask /v1/fim/completions instead", param="messages")
    return Infill(
        texts=(known.before, "\n" + known.after),
        holes=(HoleOptions(draft=region),),
        layout=InfillLayout.IN_PLACE,
        options=options,
    )


def _accepted(known: NextEdit, found: str) -> tuple[str, str | None]:
    """The region to answer, and why it is the old one if something new was found: an edit must not break the file."""
    old = known.region.removesuffix("\n")
    if found == old or not known.path.endswith((".py", ".pyi")):
        return found, None
    if _parses(known.before + known.region + known.after) and not _parses(f"{known.before}{found}\n{known.after}"):
        return old, "the edited file would not parse"
    return found, None


def _parses(source: str) -> bool:
    try:
        ast.parse(source)
    except (SyntaxError, ValueError):
        return False
    return True
