"""pipecat's LLM services, in a pipeline: OpenAI's and Inception's; text frames, token usage, an interruption."""

import asyncio

from pipecat.frames.frames import (
    ErrorFrame,
    InterruptionFrame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMTextFrame,
    MetricsFrame,
)
from pipecat.metrics.metrics import LLMUsageMetricsData
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.runner import PipelineRunner
from pipecat.pipeline.task import PipelineParams, PipelineTask
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.services.inception.llm import InceptionLLMService
from pipecat.services.openai.llm import OpenAILLMService
from served import KEY, MODEL, V1, num_aborted, require_freed


class Ear(FrameProcessor):
    """Keeps what comes out of the service; ends the turn, or interrupts it at the first text."""

    def __init__(self, *, interrupts):
        super().__init__()
        self.interrupts, self.task = interrupts, None
        self.text, self.usages, self.errors = "", [], []

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        await self.push_frame(frame, direction)
        if isinstance(frame, LLMTextFrame):
            self.text += frame.text
            if self.interrupts:
                self.interrupts = False
                await self.task.queue_frame(InterruptionFrame())
                await self.task.stop_when_done()
        elif isinstance(frame, MetricsFrame):
            self.usages += [each.value for each in frame.data if isinstance(each, LLMUsageMetricsData)]
        elif isinstance(frame, ErrorFrame):
            self.errors.append(frame.error)
        elif isinstance(frame, LLMFullResponseEndFrame) and self.task:
            await self.task.stop_when_done()


async def turn(service, text, *, interrupts=False):
    ear = Ear(interrupts=interrupts)
    context = LLMContext([{"role": "developer", "content": "# statistics"}, {"role": "user", "content": text}])
    task = PipelineTask(Pipeline([service, ear]), params=PipelineParams(enable_metrics=True, enable_usage_metrics=True))
    ear.task = task
    await task.queue_frame(LLMContextFrame(context))
    await asyncio.wait_for(PipelineRunner(handle_sigint=False).run(task), 60)
    return ear


def service(kind, **options):
    return kind(api_key=KEY, base_url=V1, settings=kind.Settings(model=MODEL, **options))


async def turns(kind):
    ear = await turn(service(kind, max_tokens=24), "def mean(xs):")
    assert ear.text
    assert ear.errors == []
    [usage] = ear.usages
    assert usage.completion_tokens > 0


async def interruptions():
    before = num_aborted()
    slow = {"extra_body": {"policy": "confidence_order"}}
    ear = await turn(service(OpenAILLMService, max_tokens=200, extra=slow), "x = [", interrupts=True)
    assert ear.text
    await asyncio.to_thread(require_freed, before)


asyncio.run(turns(OpenAILLMService))
asyncio.run(turns(InceptionLLMService))
asyncio.run(interruptions())
