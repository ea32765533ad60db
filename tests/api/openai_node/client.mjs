// OpenAI's own Node SDK goes all the way against a running server; what it saw goes to stdout.
import { readFileSync } from "node:fs";
import OpenAI from "openai";

const told = JSON.parse(readFileSync(0, "utf8"));
const client = new OpenAI({ baseURL: told.url, apiKey: told.key, maxRetries: 0 });
const ask = { model: told.model, messages: [{ role: "user", content: "hello there" }] };

async function refused(work) {
  try {
    await work();
    return null;
  } catch (error) {
    const { status, code, type, param } = error;
    return { kind: error.constructor.name, status, code, type, param };
  }
}

const models = [];
for await (const model of client.models.list()) models.push(model.id);

const { data: whole, response } = await client.chat.completions.create(ask).withResponse();

const pieces = [];
let usage = null;
let credits = null;
const stream = await client.chat.completions.create({
  ...ask,
  stream: true,
  stream_options: { include_usage: true },
});
for await (const chunk of stream) {
  pieces.push(chunk.choices[0]?.delta?.content ?? "");
  usage = chunk.usage ?? usage;
  credits = chunk.credits ?? credits;
}

const helper = client.chat.completions.stream(ask);
const helped = await helper.finalContent();

const stranger = new OpenAI({ baseURL: told.url, apiKey: "nonsense", maxRetries: 0 });
const errors = {
  model: await refused(() => client.chat.completions.create({ ...ask, model: "gpt-4o" })),
  field: await refused(() => client.chat.completions.create({ ...ask, n: 2 })),
  stranger: await refused(() => stranger.models.list()),
  credits: await refused(() => client.chat.completions.create({ ...ask, model: told.dear })),
};

console.log(
  JSON.stringify({
    models,
    text: whole.choices[0].message.content,
    charged: response.headers.get("x-credits-charged"),
    requestId: whole._request_id,
    id: whole.id,
    streamed: pieces.join(""),
    usage,
    credits,
    helped,
    errors,
  }),
);
