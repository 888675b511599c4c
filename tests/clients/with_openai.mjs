// openai for Node: models, chats, streams with usage, fill-in-the-middle, error classes, hang-up.
import assert from "node:assert/strict";
import OpenAI from "openai";
import { CHAT, KEY, MODEL, PREFIX, SUFFIX, V1, numAborted, requireFreed } from "./served.mjs";

const client = new OpenAI({ baseURL: V1, apiKey: KEY, maxRetries: 0 });

const names = [];
for await (const model of client.models.list()) names.push(model.id);
assert.equal(names[0], MODEL);

const sent = { model: MODEL, messages: CHAT, max_tokens: 16, seed: 3, temperature: 0.5 };
const whole = await client.chat.completions.create({ ...sent, n: 2, logprobs: true });
assert.equal(whole.choices.length, 2);
assert.ok(whole.choices[0].logprobs.content.every((token) => token.logprob <= 0));
assert.equal(whole.usage.total_tokens, whole.usage.prompt_tokens + whole.usage.completion_tokens);
assert.ok(whole._request_id);

let text = "";
let usage = null;
const chunks = await client.chat.completions.create({ ...sent, stream: true, stream_options: { include_usage: true } });
for await (const chunk of chunks) {
  text += chunk.choices[0]?.delta.content ?? "";
  usage = chunk.usage ?? usage;
}
assert.equal(text, whole.choices[0].message.content);
assert.ok(usage.completion_tokens > 0);

const helper = client.chat.completions.stream(sent);
assert.equal(await helper.finalContent(), text);

const fill = { model: MODEL, prompt: PREFIX, suffix: SUFFIX, max_tokens: 16, temperature: 0, seed: 1 };
const filled = await client.completions.create(fill);
assert.ok(filled.choices[0].text);
let pieces = "";
for await (const chunk of await client.completions.create({ ...fill, stream: true })) pieces += chunk.choices[0].text;
assert.equal(pieces, filled.choices[0].text);

await assert.rejects(client.chat.completions.create({ ...sent, model: "nobody" }), (error) => {
  assert.ok(error instanceof OpenAI.NotFoundError);
  return error.code === "model_not_found" && error.param === "model";
});
await assert.rejects(client.chat.completions.create({ ...sent, temperature: 9 }), OpenAI.BadRequestError);

const before = await numAborted();
const slow = await client.completions.create({
  model: MODEL, prompt: "x = [", max_tokens: 200, stream: true, policy: "confidence_order",
});
for await (const _ of slow) break; // leaving the loop closes the connection
await requireFreed(before);
