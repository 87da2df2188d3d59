// The official openai client against a running server:
//
//   node test.mjs BASE_URL [API_KEY]        BASE_URL such as http://127.0.0.1:8000/v1
//
// Checks what holds for any model: shapes, limits, streams, errors, cancellation. Prints one line per
// check and exits 1 if any failed.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import OpenAI from 'openai';

const [baseURL, apiKey = 'none'] = process.argv.slice(2);
if (!baseURL) {
  console.error('expected a base URL, such as http://127.0.0.1:8000/v1');
  process.exit(2);
}
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 300_000 });
const images = process.env.TROUPE_IMAGES ?? fileURLToPath(new URL('../../fixtures/images', import.meta.url));
const dataUrl = (name, type) => `data:${type};base64,${readFileSync(join(images, name)).toString('base64')}`;
const png = dataUrl('000.png', 'image/png');
const jpeg = dataUrl('001.jpg', 'image/jpeg');
const webp = dataUrl('002.webp', 'image/webp');
const image = (url) => ({ type: 'image_url', image_url: { url } });
const text = (content) => ({ type: 'text', text: content });
const user = (...content) => [{ role: 'user', content: typeof content[0] === 'string' ? content[0] : content }];

let model;
const question = 'Count from 20 to 31.';
const ask = (extra = {}) => client.chat.completions.create(
  { model, messages: user(question), max_tokens: 16, temperature: 0, ...extra });

async function collect(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}
const contentOf = (chunks, index = 0) => chunks.flatMap((chunk) => chunk.choices)
  .filter((choice) => choice.index === index).map((choice) => choice.delta.content ?? '').join('');

async function rejection(promise) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  assert.fail('expected an error, got an answer');
}

function checkMistake(error, status, code, param) {
  assert.ok(error instanceof OpenAI.APIError, `expected an APIError, got ${error}`);
  assert.equal(error.status, status, error.message);
  assert.equal(error.code, code);
  assert.equal(typeof error.error.message, 'string');
  if (param !== undefined) assert.equal(error.param, param);
}

const checks = {
  async 'models: list and retrieve'() {
    const list = await client.models.list();
    assert.ok(list.data.length >= 1);
    const [first] = list.data;
    assert.equal(first.object, 'model');
    assert.equal(typeof first.root, 'string');
    assert.ok(first.max_model_len > 0);
    model = first.id;
    assert.equal((await client.models.retrieve(model)).id, model);
    checkMistake(await rejection(client.models.retrieve('no-such-model')), 404, 'model_not_found');
  },

  async 'chat: fields of an answer'() {
    const answer = await ask();
    assert.match(answer.id, /^chatcmpl-/);
    assert.equal(answer.object, 'chat.completion');
    assert.equal(answer.model, model);
    assert.ok(Math.abs(answer.created - Date.now() / 1000) < 60);
    const [choice] = answer.choices;
    assert.equal(choice.index, 0);
    assert.equal(choice.message.role, 'assistant');
    assert.ok(choice.message.content.length > 0);
    assert.equal(choice.message.refusal, null);
    assert.equal(choice.logprobs, null);
    assert.ok(['stop', 'length'].includes(choice.finish_reason));
    const { usage } = answer;
    assert.equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens);
    assert.ok(usage.completion_tokens >= 1 && usage.completion_tokens <= 16);
    assert.equal(usage.prompt_tokens_details.image_tokens, 0);
    assert.equal(usage.prompt_tokens_details.text_tokens, usage.prompt_tokens);
  },

  async 'chat: the response names its request'() {
    const { response, data } = await ask({ max_tokens: 1 }).withResponse();
    assert.ok(response.headers.get('x-request-id'));
    assert.equal(data._request_id, response.headers.get('x-request-id'));
    const echoed = await client.chat.completions.create(
      { model, messages: user('a'), max_tokens: 1 }, { headers: { 'x-request-id': 'mine-1' } }).withResponse();
    assert.equal(echoed.response.headers.get('x-request-id'), 'mine-1');
  },

  async 'stream: frames, usage and the same text'() {
    const whole = await ask();
    const chunks = await collect(await ask({ stream: true, stream_options: { include_usage: true } }));
    assert.equal(new Set(chunks.map((chunk) => `${chunk.id} ${chunk.created} ${chunk.model}`)).size, 1);
    assert.ok(chunks.every((chunk) => chunk.object === 'chat.completion.chunk'));
    assert.deepEqual(chunks[0].choices[0].delta, { role: 'assistant', content: '' });
    assert.ok(chunks.slice(1).every((chunk) => chunk.choices.every((choice) => !choice.delta.role)));
    assert.equal(contentOf(chunks), whole.choices[0].message.content);
    const last = chunks.at(-1);
    assert.deepEqual(last.choices, []);
    assert.equal(last.usage.completion_tokens, whole.usage.completion_tokens);
    assert.equal(last.usage.prompt_tokens, whole.usage.prompt_tokens);
    assert.equal(chunks.at(-2).choices[0].finish_reason, whole.choices[0].finish_reason);
    assert.ok(chunks.slice(0, -1).every((chunk) => !('usage' in chunk)));
  },

  async 'stream: no usage unless asked for'() {
    const chunks = await collect(await ask({ stream: true }));
    assert.ok(chunks.every((chunk) => !chunk.usage && chunk.choices.length === 1));
    assert.ok(chunks.at(-1).choices[0].finish_reason);
  },

  async 'stream: the SDK\'s own helper assembles it'() {
    const runner = client.chat.completions.stream(
      { model, messages: user(question), max_tokens: 16, temperature: 0, n: 2 });
    const final = await runner.finalChatCompletion();
    assert.equal(final.choices.length, 2);
    assert.equal(final.choices[0].message.content, (await ask()).choices[0].message.content);
    assert.ok(final.choices.every((choice) => choice.finish_reason));
  },

  async 'image: png, jpeg and webp, each as an answer and a stream'() {
    for (const url of [png, jpeg, webp]) {
      const messages = user(image(url), text('What is this?'));
      const whole = await ask({ messages });
      assert.ok(whole.choices[0].message.content.length > 0);
      assert.ok(whole.usage.prompt_tokens_details.image_tokens > 0);
      const chunks = await collect(await ask({ messages, stream: true }));
      assert.equal(contentOf(chunks), whole.choices[0].message.content);
    }
  },

  async 'image: several in one request cost the sum of each'() {
    const cost = async (...parts) => (await ask({ messages: user(...parts, text('Compare.')), max_tokens: 1 }))
      .usage.prompt_tokens_details.image_tokens;
    const each = [await cost(image(png)), await cost(image(jpeg))];
    assert.equal(await cost(image(png), image(jpeg), image(png)), 2 * each[0] + each[1]);
  },

  async 'image: bare string, wrong media type and detail are accepted'() {
    const mislabelled = png.replace('image/png', 'application/octet-stream');
    const parts = [{ type: 'image_url', image_url: png }, image(mislabelled),
      { type: 'image_url', image_url: { url: png, detail: 'high' } }];
    const answer = await ask({ messages: user(...parts, text('What?')), max_tokens: 1 });
    assert.ok(answer.usage.prompt_tokens_details.image_tokens > 0);
  },

  async 'video: a list of frames'() {
    const clip = { type: 'video', video: [png, png, png, png], sample_fps: 2.0 };
    const answer = await ask({ messages: user(clip, text('What happens?')) });
    assert.ok(answer.choices[0].message.content.length > 0);
    assert.ok(answer.usage.prompt_tokens_details.image_tokens > 0);
  },

  async 'stop: the text is cut before it'() {
    const { content } = (await ask()).choices[0].message;
    const stop = content.slice(2, 4);
    const cut = await ask({ stop: [stop, 'never to be seen'] });
    assert.equal(cut.choices[0].message.content, content.slice(0, content.indexOf(stop)));
    assert.equal(cut.choices[0].finish_reason, 'stop');
    const chunks = await collect(await ask({ stop, stream: true }));
    assert.equal(contentOf(chunks), cut.choices[0].message.content);
  },

  async 'max_tokens and max_completion_tokens: the newer name wins'() {
    const answer = await ask({ max_tokens: 9, max_completion_tokens: 2 });
    assert.equal(answer.usage.completion_tokens, 2);
    assert.equal(answer.choices[0].finish_reason, 'length');
  },

  async 'seed: the same seed gives the same answer'() {
    const sample = async (seed) => (await ask(
      { messages: user('[random]'), seed, temperature: 1.5, top_p: 1, top_k: -1, max_tokens: 24 }))
      .choices[0].message.content;
    assert.equal(await sample(7), await sample(7));
    assert.equal(new Set(await Promise.all([1, 2, 3, 4, 5, 6].map(sample))).size > 1, true);
  },

  async 'n: choices in order, the first as alone'() {
    const alone = (await ask()).choices[0].message.content;
    const answer = await ask({ n: 3 });
    assert.deepEqual(answer.choices.map((choice) => choice.index), [0, 1, 2]);
    assert.equal(answer.choices[0].message.content, alone);
    const chunks = await collect(await ask({ n: 3, stream: true }));
    const opened = chunks.filter((chunk) => chunk.choices[0]?.delta.role).map((chunk) => chunk.choices[0].index);
    assert.deepEqual(opened, [0, 1, 2]);
    assert.equal(contentOf(chunks, 0), alone);
    assert.equal(chunks.filter((chunk) => chunk.choices[0]?.finish_reason).length, 3);
  },

  async 'n: with a temperature the choices differ'() {
    const answer = await ask({ messages: user('[random]'), n: 4, seed: 3, temperature: 1.5, top_k: -1, top_p: 1,
      max_tokens: 24 });
    assert.ok(new Set(answer.choices.map((choice) => choice.message.content)).size > 1);
  },

  async 'logprobs: per token, with bytes and alternatives'() {
    const answer = await ask({ logprobs: true, top_logprobs: 3 });
    const { content } = answer.choices[0].logprobs;
    for (const entry of content) {
      assert.ok(entry.logprob <= 0);
      assert.equal(entry.top_logprobs.length, 3);
      assert.ok(entry.top_logprobs[0].logprob >= entry.top_logprobs[1].logprob);
      assert.ok(entry.bytes.every((byte) => Number.isInteger(byte) && byte >= 0 && byte < 256));
    }
    const bytes = Buffer.from(content.flatMap((entry) => entry.bytes)).toString('utf8');
    assert.ok(bytes.startsWith(answer.choices[0].message.content));
    const streamed = (await collect(await ask({ logprobs: true, top_logprobs: 3, stream: true })))
      .flatMap((chunk) => chunk.choices[0]?.logprobs?.content ?? []);
    assert.deepEqual(streamed.map((entry) => entry.token), content.map((entry) => entry.token));
  },

  async 'logit_bias: a forbidden token does not come'() {
    const first = async (extra) => (await ask({ max_tokens: 1, return_token_ids: true, ...extra })).choices[0].token_ids;
    const [usual] = await first();
    const [other] = await first({ logit_bias: { [usual]: -100 } });
    assert.notEqual(other, usual);
  },

  async 'return_token_ids: ids of prompt and answer'() {
    const answer = await ask({ return_token_ids: true, max_tokens: 5, ignore_eos: true });
    assert.equal(answer.choices[0].token_ids.length, 5);
    assert.equal(answer.choices[0].prompt_token_ids.length, answer.usage.prompt_tokens);
  },

  async 'completions: text and token ids as prompt'() {
    const answer = await client.completions.create({ model, prompt: 'Count: 20, 21, ', max_tokens: 4, temperature: 0 });
    assert.equal(answer.object, 'text_completion');
    assert.match(answer.id, /^cmpl-/);
    assert.equal(typeof answer.choices[0].text, 'string');
    const several = await client.completions.create({ model, prompt: [[65, 66], [67, 68]], max_tokens: 2, logprobs: 1 });
    assert.deepEqual(several.choices.map((choice) => choice.index), [0, 1]);
    assert.equal(several.choices[0].logprobs.tokens.length, several.choices[0].logprobs.token_logprobs.length);
    const chunks = await collect(await client.completions.create(
      { model, prompt: 'Count: 20, 21, ', max_tokens: 4, temperature: 0, stream: true }));
    assert.equal(chunks.map((chunk) => chunk.choices[0]?.text ?? '').join(''), answer.choices[0].text);
  },

  async 'tools: offered tools do not break an answer'() {
    const tools = [{ type: 'function', function: { name: 'f', description: 'd', parameters: { type: 'object', properties: {} } } }];
    const answer = await ask({ tools, tool_choice: 'auto' });
    assert.ok(answer.choices[0].message.content !== undefined);
    checkMistake(await rejection(ask({ tools, tool_choice: 'required' })), 400, 'unsupported_parameter', 'tool_choice');
  },

  async 'null means absent'() {
    await ask({ stop: null, logprobs: null, seed: null, tools: null, response_format: null, n: null });
  },

  async 'errors: what a client can do wrong'() {
    const mistakes = [
      [{ temperature: 9 }, 400, 'invalid_value', 'temperature'],
      [{ top_p: 0 }, 400, 'invalid_value', 'top_p'],
      [{ max_tokens: 0 }, 400, 'invalid_value', 'max_tokens'],
      [{ n: 1_000_000 }, 400, 'invalid_value', 'n'],
      [{ top_logprobs: 5 }, 400, 'invalid_value', 'top_logprobs'],
      [{ logprobs: true, top_logprobs: 1e9 }, 400, 'invalid_value', 'top_logprobs'],
      [{ stop: ['a', ''] }, 400, 'invalid_value', 'stop[1]'],
      [{ messages: [] }, 400, 'invalid_value', 'messages'],
      [{ messages: [{ role: 'king', content: 'a' }] }, 400, 'invalid_value', 'messages[0].role'],
      [{ model: 'gpt-4' }, 404, 'model_not_found', 'model'],
      [{ response_format: { type: 'json_object' } }, 400, 'unsupported_schema', 'response_format.type'],
      [{ messages: user(image('https://example.com/a.png'), text('?')) }, 400, 'unsupported_url',
        'messages[0].content[0].image_url.url'],
      [{ messages: user(image('data:image/png;base64,AAA!'), text('?')) }, 400, 'invalid_base64',
        'messages[0].content[0].image_url.url'],
      [{ messages: user(image('data:image/gif;base64,R0lGODlhAQABAAAAACw='), text('?')) }, 415,
        'unsupported_image_format', 'messages[0].content[0].image_url.url'],
      [{ messages: user({ type: 'video_url', video_url: { url: png } }) }, 400, 'unsupported_content',
        'messages[0].content[0].type'],
    ];
    for (const [body, status, code, param] of mistakes) {
      checkMistake(await rejection(ask(body)), status, code, param);
      checkMistake(await rejection(ask({ ...body, stream: true })), status, code, param);
    }
  },

  async 'errors: a mistake is not retried'() {
    let attempts = 0;
    const counting = new OpenAI({ baseURL, apiKey, maxRetries: 2,
      fetch: (...args) => { ++attempts; return fetch(...args); } });
    await rejection(counting.chat.completions.create({ model, messages: user('a'), temperature: 9 }));
    assert.equal(attempts, 1);
  },

  // "[delay 5]" slows the scripted engine of our own tests down and means nothing to a model.
  async 'abort: requests that are left do not disturb the others'() {
    const long = { messages: user(question + '[delay 5]'), max_tokens: 300, ignore_eos: true };
    const neighbour = ask(long);
    const stream = await ask({ ...long, stream: true });
    for await (const chunk of stream) if (chunk.choices[0].delta.content) break;  // leaving aborts
    const controller = new AbortController();
    setTimeout(() => controller.abort(), 30);
    const left = client.chat.completions.create(
      { model, temperature: 0, ...long, max_tokens: 3000 }, { signal: controller.signal });
    assert.ok(await rejection(left) instanceof OpenAI.APIUserAbortError);
    assert.equal((await neighbour).usage.completion_tokens, 300);
  },

  async 'many streams at once give the answers they give alone'() {
    const questions = [question, 'What is 18 plus 19?', 'What is 17 plus 2?'];
    const alone = await Promise.all(questions.map(async (each) =>
      (await ask({ messages: user(each) })).choices[0].message.content));
    await Promise.all(Array.from({ length: 12 }, async (_, i) => {
      const chunks = await collect(await ask({ messages: user(questions[i % 3]), stream: true }));
      assert.equal(contentOf(chunks), alone[i % 3]);
    }));
  },
};

let failures = 0;
for (const [name, check] of Object.entries(checks)) {
  try {
    await check();
    console.log(`ok      ${name}`);
  } catch (error) {
    ++failures;
    console.log(`FAILED  ${name}\n        ${String(error.stack ?? error).replaceAll('\n', '\n        ')}`);
  }
}
console.log(`${Object.keys(checks).length - failures} of ${Object.keys(checks).length} checks passed`);
process.exit(failures ? 1 : 0);
