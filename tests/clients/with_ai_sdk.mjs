// The AI SDK with @ai-sdk/openai-compatible: chat and completion models, whole and as streams, errors, hang-up.
import assert from "node:assert/strict";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, generateText, streamText } from "ai";
import { KEY, MODEL, V1, numAborted, requireFreed } from "./served.mjs";

const provider = createOpenAICompatible({ name: "quicksilver", baseURL: V1, apiKey: KEY, includeUsage: true });
const common = { maxOutputTokens: 16, seed: 3, temperature: 0.5, maxRetries: 0 };

for (const model of [provider.chatModel(MODEL), provider.completionModel(MODEL)]) {
  const whole = await generateText({ ...common, model, prompt: "def mean(xs):" });
  assert.ok(whole.text);
  assert.ok(["stop", "length"].includes(whole.finishReason));
  assert.ok(whole.usage.outputTokens > 0);
  const stream = streamText({ ...common, model, prompt: "def mean(xs):" });
  let text = "";
  for await (const piece of stream.textStream) text += piece;
  assert.equal(text, whole.text);
  assert.equal((await stream.usage).outputTokens, whole.usage.outputTokens);
}

const messages = [{ role: "user", content: [{ type: "text", text: "def mean(xs):" }] }];
const parts = await generateText({ ...common, model: provider.chatModel(MODEL), system: "# statistics", messages });
assert.ok(parts.text);

await assert.rejects(generateText({ ...common, model: provider.chatModel("nobody"), prompt: "x" }), (error) => {
  assert.ok(APICallError.isInstance(error));
  return error.statusCode === 404 && !error.isRetryable && error.message.includes("nobody");
});

const before = await numAborted();
const hangUp = new AbortController();
const slow = streamText({
  model: provider.completionModel(MODEL),
  prompt: "x = [",
  maxOutputTokens: 200,
  providerOptions: { quicksilver: { policy: "confidence_order" } },
  abortSignal: hangUp.signal,
  onError: () => {},
});
for await (const _ of slow.textStream) {
  hangUp.abort();
  break;
}
await requireFreed(before);
