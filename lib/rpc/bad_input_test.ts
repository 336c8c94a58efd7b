import assert from "node:assert/strict";
import { asyncAuth, eventPath, operationPath, post, startFixture } from "./_fixture.ts";
import { gzip } from "./body.ts";

const get = operationPath + "GetOperation";
const good = '{"project":"acme/prod","id":"x"}';
const big = JSON.stringify({ project: "acme/prod", id: "x".repeat(70_000) });
const bomb = await gzip(new TextEncoder().encode(JSON.stringify({ project: "a".repeat(3_000_000) })));

interface Case {
  readonly name: string;
  readonly path?: string;
  readonly body?: BodyInit;
  readonly header?: Record<string, string>;
  readonly status: number;
  /** Code of the ErrorDetail. */
  readonly code?: string;
  readonly field?: string;
}

const cases: Case[] = [
  { name: "a content type nobody speaks", header: { "content-type": "text/plain" }, status: 415 },
  { name: "XML", header: { "content-type": "application/xml" }, status: 415 },
  { name: "broken JSON", body: '{"project":', status: 400, code: "bad_message" },
  { name: "JSON that is no object", body: "[]", status: 400, code: "bad_message" },
  { name: "an empty body", body: "", status: 400, code: "bad_message" },
  { name: "text that is not UTF-8", body: new Uint8Array([0x7b, 0xff, 0x7d]), status: 400, code: "bad_message" },
  { name: "a field of the wrong type", body: '{"project":5}', status: 400, code: "bad_message", field: "project" },
  { name: "an unknown field", body: '{"projct":"a/b"}', status: 400, code: "unknown_field", field: "projct" },
  {
    name: "a prototype as field",
    body: '{"__proto__":{"project":"a/b"}}',
    status: 400,
    code: "unknown_field",
    field: "__proto__",
  },
  {
    name: "broken binary",
    body: new Uint8Array([0x0a, 0xff, 0xff]),
    header: { "content-type": "application/proto" },
    status: 400,
    code: "bad_message",
  },
  { name: "a message above the limit", body: big, status: 429, code: "message_too_large" },
  {
    name: "a chunked message above the limit",
    body: new Blob([big]).stream(),
    status: 429,
    code: "message_too_large",
  },
  {
    name: "a gzip bomb",
    body: bomb,
    header: { "content-encoding": "gzip" },
    status: 429,
    code: "message_too_large",
  },
  {
    name: "what only claims to be gzip",
    body: good,
    header: { "content-encoding": "gzip" },
    status: 400,
    code: "bad_compression",
  },
  { name: "an unknown compression", header: { "content-encoding": "zstd" }, status: 501, code: "unknown_compression" },
  {
    name: "a timeout that is no number",
    header: { "connect-timeout-ms": "soon" },
    status: 400,
    code: "bad_timeout",
    field: "connect-timeout-ms",
  },
  { name: "a negative timeout", header: { "connect-timeout-ms": "-1" }, status: 400, code: "bad_timeout" },
  {
    name: "a timeout of too many digits",
    header: { "connect-timeout-ms": "99999999999" },
    status: 400,
    code: "bad_timeout",
  },
  {
    name: "an idempotency key that is too long",
    header: { "idempotency-key": "k".repeat(129) },
    status: 400,
    code: "invalid_idempotency_key",
    field: "idempotency-key",
  },
  { name: "an empty idempotency key", header: { "idempotency-key": "" }, status: 400, code: "invalid_idempotency_key" },
  {
    name: "an idempotency key with a space",
    header: { "idempotency-key": "a b" },
    status: 400,
    code: "invalid_idempotency_key",
  },
  { name: "a token that does not verify", header: { authorization: "Bearer 123" }, status: 401, code: "token_invalid" },
  { name: "an empty token", header: { authorization: "" }, status: 401, code: "token_invalid" },
  { name: "a caller who sees nothing", header: { authorization: "Bearer eve" }, status: 404, code: "not_found" },
  {
    name: "a caller who may not change",
    path: operationPath + "CancelOperation",
    header: { authorization: "Bearer bob" },
    status: 403,
    code: "permission_denied",
  },
  { name: "an unknown method", path: operationPath + "DropOperation", status: 501, code: "unknown_method" },
  { name: "an unknown service", path: "/ultracloud.none.v1.NoneService/Get", status: 404 },
  { name: "a path that is no RPC", path: "//", status: 404 },
  { name: "a stream called as unary", path: eventPath, status: 415 },
  {
    name: "a fault of the handler",
    body: '{"project":"a/b","id":"missing"}',
    status: 404,
    code: "operation_not_found",
    field: "id",
  },
  { name: "a crash of the handler", body: '{"project":"a/b","id":"crash"}', status: 500, code: "internal" },
  { name: "a rejection of the handler", body: '{"project":"a/b","id":"reject"}', status: 500, code: "internal" },
];

for (const [kind, deps] of [["synchronous", {}], ["asynchronous", asyncAuth]] as const) {
  Deno.test(`the server answers bad input with a typed error and goes on (${kind} authentication)`, async (t) => {
    await using fixture = await startFixture({ limits: { messageBytesMax: 65_536 } }, deps);
    for (const c of cases) {
      await t.step(c.name, async () => {
        const answer = await post(
          fixture.url,
          c.path ?? get,
          c.body instanceof ReadableStream ? new Blob([big]).stream() : c.body ?? good,
          c.header,
        );
        assert.equal(answer.status, c.status, answer.text);
        assert.ok(!answer.text.includes("secret of the database"));
        if (c.code === undefined) return;
        const detail = (answer.json.details as { debug: Record<string, string> }[])[0]!.debug;
        assert.equal(detail.code, c.code);
        if (c.field !== undefined) assert.equal(detail.field, c.field);
        assert.equal(detail.requestId, answer.header.get("x-request-id"));
      });
    }
    const after = await post(fixture.url, get, good);
    assert.equal(after.status, 200, after.text);
    const gauge = fixture.registry.gauge("rpc_server_in_flight", "", ["kind"]);
    fixture.registry.expose();
    assert.equal(gauge.value({ kind: "unary" }), 0);
    assert.equal(gauge.value({ kind: "stream" }), 0);
  });
}

Deno.test("a call without credentials is refused, and so is an anonymous principal", async () => {
  await using fixture = await startFixture();
  const response = await fetch(fixture.url + get, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: good,
  });
  assert.equal(response.status, 401);
  assert.match(await response.text(), /token_missing/);
  await using open = await startFixture({}, {
    authenticator: { authenticate: () => ({ kind: "anonymous", id: "anonymous" }) },
  });
  assert.equal((await post(open.url, get, good)).status, 401);
  assert.equal((await post(open.url, operationPath + "ListOperations", "{}")).status, 401);
});

Deno.test("an internal error is logged with its cause under the request id the caller got", async () => {
  await using fixture = await startFixture();
  const answer = await post(fixture.url, get, '{"project":"a/b","id":"crash"}', { "x-request-id": "mine-1" });
  assert.equal(answer.json.message, "internal error");
  assert.equal(answer.header.get("x-request-id"), "mine-1");
  const line = fixture.errors[0]!;
  assert.equal(line.fields.requestId, "mine-1");
  assert.match(String(line.fields.error), /secret of the database/);
});

Deno.test("a body that stops arriving is answered when the deadline passes", async () => {
  await using fixture = await startFixture();
  const { port } = new URL(fixture.url);
  using connection = await Deno.connect({ hostname: "127.0.0.1", port: Number(port) });
  const head = `POST ${get} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nauthorization: Bearer alice\r\n` +
    `connect-timeout-ms: 50\r\ncontent-length: 100\r\n\r\n{"proj`;
  await connection.write(new TextEncoder().encode(head));
  const into = new Uint8Array(4096);
  const n = await connection.read(into);
  assert.match(new TextDecoder().decode(into.subarray(0, n ?? 0)), /^HTTP\/1\.1 504 [^]*deadline_exceeded/);
});
