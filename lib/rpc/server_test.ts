import assert from "node:assert/strict";
import { Fault, fault } from "@ultracloud/base";
import { OperationService } from "@ultracloud/proto/common/v1";
import { operationPath, post, startFixture, until } from "./_fixture.ts";
import { gzip } from "./body.ts";
import { createRpcClient, parseAddress } from "./mod.ts";
import { acceptedRequestId } from "./request_id.ts";

const get = operationPath + "GetOperation";
const good = '{"project":"acme/prod","id":"x"}';

Deno.test("operators see health, readiness, metrics and version without credentials", async () => {
  await using fixture = await startFixture();
  await post(fixture.url, get, good);
  const page = async (path: string) => {
    const response = await fetch(fixture.url + path);
    return { status: response.status, text: await response.text() };
  };
  assert.equal((await page("/readyz")).status, 200);
  assert.deepEqual(JSON.parse((await page("/version")).text).version, "1.2.3");
  const metrics = (await page("/metrics")).text;
  assert.match(metrics, /uc_build_info\{component="test-svc",version="1\.2\.3"/);
  assert.match(metrics, /rpc_server_duration_seconds_count\{method="\/ultracloud[^}]*GetOperation",code="ok"\} 1/);
  fixture.health.set("flaredb", "starting", "no leader yet");
  assert.equal((await page("/readyz")).status, 503);
  const alive = await page("/healthz");
  assert.equal(alive.status, 200);
  assert.equal(JSON.parse(alive.text).parts.flaredb.reason, "no leader yet");
});

Deno.test("a plain listener refuses any address that other machines reach", async () => {
  for (const listen of ["0.0.0.0:0", "[::]:0", "10.0.0.1:0", "example.com:0"]) {
    await assert.rejects(startFixture({ listen }), (error: unknown) => {
      assert.ok(error instanceof Fault);
      assert.equal(error.code, "plain_listener_exposed");
      assert.match(error.message, /^Cannot listen on .* without TLS: wanted loopback, a unix socket, or rpc\.tls$/);
      return true;
    });
  }
});

Deno.test("an address in use is a sentence, not a stack", async () => {
  await using fixture = await startFixture();
  await assert.rejects(startFixture({ listen: fixture.server.address }), /Cannot listen on 127\.0\.0\.1:\d+$/);
});

Deno.test("parseAddress() refuses what is no address", () => {
  for (
    const text of [
      "",
      "7100",
      "127.0.0.1",
      "127.0.0.1:70000",
      "unix:relative",
      "http://a:1",
      `unix:/${"x".repeat(108)}`,
    ]
  ) {
    assert.throws(() => parseAddress(text), /Cannot use/, text);
  }
  assert.deepEqual(parseAddress("[::1]:7100"), { kind: "tcp", host: "::1", port: 7100 });
});

Deno.test("a unix socket serves, and the file of a killed server is replaced", async () => {
  const dir = await Deno.makeTempDir();
  try {
    const path = `${dir}/rpc.sock`;
    // A listener that is closed without removing its file looks like a killed process.
    const child = new Deno.Command(Deno.execPath(), {
      args: [
        "eval",
        `Deno.listen({ transport: "unix", path: ${JSON.stringify(path)} }); Deno.kill(Deno.pid, "SIGKILL");`,
      ],
      stdout: "null",
      stderr: "null",
    });
    await child.output();
    assert.ok((await Deno.lstat(path)).isSocket);
    await using _fixture = await startFixture({ listen: `unix:${path}` });
    using client = createRpcClient(OperationService, {
      endpoints: [`unix:${path}`],
      authorization: () => "Bearer alice",
    });
    assert.equal((await client.getOperation({ project: "a/b", id: "x" })).id, "x");
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});

Deno.test("handlers see principal, request id and idempotency key", async () => {
  await using fixture = await startFixture();
  const answer = await post(fixture.url, get, good, { "x-request-id": "abc", "idempotency-key": "k1" });
  assert.equal(answer.header.get("x-request-id"), "abc");
  assert.deepEqual(fixture.seen[0], {
    principal: "user:alice",
    requestId: "abc",
    idempotencyKey: "k1",
    aborted: false,
  });
  const made = (await post(fixture.url, get, good, { "x-request-id": "not ok!" })).header.get("x-request-id")!;
  assert.match(made, /^req_[0-9A-HJKMNP-TV-Z]{26}$/);
});

Deno.test("acceptedRequestId() takes printable ids of bounded length only", () => {
  assert.equal(acceptedRequestId("a-1"), "a-1");
  for (const bad of [null, "", "a b", "é", "x".repeat(129)]) assert.equal(acceptedRequestId(bad), undefined);
});

Deno.test("every mutating call leaves an audit record, reads leave none", async () => {
  await using fixture = await startFixture();
  await post(fixture.url, get, good);
  await post(fixture.url, operationPath + "CancelOperation", good, { "x-request-id": "r1" });
  await post(fixture.url, operationPath + "CancelOperation", good, { authorization: "Bearer bob" });
  assert.equal(fixture.audit.length, 2);
  const { timeMs, durationMs, ...first } = fixture.audit[0]!;
  assert.ok(timeMs > 0 && durationMs >= 0);
  assert.deepEqual(first, {
    requestId: "r1",
    principal: "user:alice",
    method: operationPath + "CancelOperation",
    scope: "acme/prod",
    outcome: "ok",
  });
  assert.equal(fixture.audit[1]!.outcome, "permission_denied");
});

Deno.test("JSON with a charset, gzip in and gzip out are understood", async () => {
  await using fixture = await startFixture();
  const answer = await fetch(fixture.url + get, {
    method: "POST",
    headers: {
      "content-type": "application/json; charset=utf-8",
      "content-encoding": "gzip",
      authorization: "Bearer alice",
    },
    body: await gzip(new TextEncoder().encode(good)),
  });
  assert.equal((await answer.json()).id, "x");
  const list = operationPath + "ListOperations";
  for (
    const [accept, encoding] of [["gzip", "gzip"], ["br, gzip;q=0.5", "gzip"], ["gzip;q=0", null], ["identity", null]]
  ) {
    const large = await post(fixture.url, list, "{}", { "accept-encoding": accept! });
    assert.equal(large.header.get("content-encoding"), encoding, accept!);
    assert.equal((large.json.operations as unknown[]).length, 40);
    assert.equal(large.header.get("x-extra"), "yes");
  }
});

Deno.test("one caller's calls above its share are refused, those of others are not", async () => {
  await using fixture = await startFixture({ limits: { callerCallsMax: 2 } });
  const wait = operationPath + "WaitOperation";
  const held = [1, 2].map(() => post(fixture.url, wait, '{"project":"a/b","id":"w","timeoutMs":600}'));
  await until(() => fixture.seen.length === 2, "two calls are under way");
  const refused = await post(fixture.url, get, good);
  assert.equal(refused.status, 429);
  assert.match(refused.text, /too_many_calls/);
  assert.equal((await post(fixture.url, get, good, { authorization: "Bearer carol" })).status, 200);
  for (const answer of await Promise.all(held)) assert.equal(answer.status, 200);
  assert.equal((await post(fixture.url, get, good)).status, 200);
});

Deno.test("calls above the bound in flight are refused at once and the others finish", async () => {
  await using fixture = await startFixture({ limits: { inFlightMax: 2 } });
  const wait = operationPath + "WaitOperation";
  const held = [1, 2].map(() => post(fixture.url, wait, '{"project":"a/b","id":"w","timeoutMs":600}'));
  await until(() => fixture.seen.length === 2, "two calls are under way");
  const refused = await post(fixture.url, get, good);
  assert.equal(refused.status, 429);
  assert.match(refused.text, /too_many_calls/);
  assert.deepEqual((await Promise.all(held)).map((answer) => answer.status), [200, 200]);
  assert.equal((await post(fixture.url, get, good)).status, 200);
});

Deno.test("a deadline is answered in time and aborts the handler", async () => {
  await using fixture = await startFixture();
  const started = performance.now();
  const answer = await post(
    fixture.url,
    operationPath + "WaitOperation",
    '{"project":"a/b","timeoutMs":30000}',
    { "connect-timeout-ms": "40" },
  );
  assert.equal(answer.status, 504);
  assert.ok(performance.now() - started < 5_000);
  await until(() => fixture.seen[0]!.aborted, "the handler was told");
});

Deno.test("a deadline is answered even when the handler ignores its signal, whose place stays taken", async () => {
  let finish = () => {};
  const held = new Promise<void>((resolve) => finish = resolve);
  await using fixture = await startFixture({ limits: { inFlightMax: 1 } }, {}, {
    operation: { getOperation: async () => (await held, { id: "late" }) },
  });
  assert.equal((await post(fixture.url, get, good, { "connect-timeout-ms": "30" })).status, 504);
  assert.equal((await post(fixture.url, operationPath + "ListOperations", "{}")).status, 429);
  finish();
  let status = 0;
  for (let i = 0; i < 200 && status !== 200; i++) {
    status = (await post(fixture.url, operationPath + "ListOperations", "{}")).status;
  }
  assert.equal(status, 200);
});

Deno.test("dispose lets unary calls finish, ends late ones and refuses new connections", async () => {
  const fixture = await startFixture({ limits: { drainMs: 300 } });
  const wait = operationPath + "WaitOperation";
  const short = post(fixture.url, wait, '{"project":"a/b","id":"w","timeoutMs":60}');
  const long = post(fixture.url, wait, '{"project":"a/b","id":"w","timeoutMs":60000}');
  await until(() => fixture.seen.length === 2, "two calls are under way");
  await fixture[Symbol.asyncDispose]();
  assert.equal((await short).status, 200);
  const ended = await long;
  assert.equal(ended.status, 503);
  assert.match(ended.text, /"stopping"/);
  await assert.rejects(fetch(fixture.url + "/healthz"));
});

Deno.test("browsers of allowed origins may call, others get no permission", async () => {
  await using fixture = await startFixture({ limits: { origins: ["https://console.example"] } });
  const preflight = async (origin: string) => {
    const response = await fetch(fixture.url + get, { method: "OPTIONS", headers: { origin } });
    await response.body?.cancel();
    return [response.status, response.headers.get("access-control-allow-origin")];
  };
  assert.deepEqual(await preflight("https://console.example"), [204, "https://console.example"]);
  assert.deepEqual(await preflight("http://localhost:5173"), [204, "http://localhost:5173"]);
  assert.deepEqual(await preflight("https://evil.example"), [403, null]);
  assert.deepEqual(await preflight("http://localhost.evil.example"), [403, null]);
  const answer = await post(fixture.url, get, good, { origin: "https://console.example" });
  assert.equal(answer.header.get("access-control-allow-origin"), "https://console.example");
  assert.equal(
    (await post(fixture.url, get, good, { origin: "https://evil.example" })).header.get("access-control-allow-origin"),
    null,
  );
});

Deno.test("REST beside RPC is asked for paths that are no RPC", async () => {
  await using fixture = await startFixture({}, {
    http: (request) => new URL(request.url).pathname === "/v1/ping" ? new Response("pong") : undefined,
  });
  assert.equal(await (await fetch(fixture.url + "/v1/ping")).text(), "pong");
  const missing = await fetch(fixture.url + "/v1/none");
  await missing.body?.cancel();
  assert.equal(missing.status, 404);
});

Deno.test("a callee's view of our credentials never reaches our caller, its unavailability does", async () => {
  await using callee = await startFixture({}, {}, {
    operation: {
      getOperation: () => {
        throw fault("unavailable", "no_quorum", "Cannot reach a quorum", { leaderHint: "10.0.0.1:1", retryAfterMs: 5 });
      },
    },
  });
  using anonymous = createRpcClient(OperationService, { endpoints: [callee.url], retries: 0 });
  using alice = createRpcClient(OperationService, {
    endpoints: [callee.url],
    retries: 0,
    authorization: () => "Bearer alice",
  });
  await using front = await startFixture({}, {}, {
    operation: {
      getOperation: (request) => request.id === "bad" ? anonymous.getOperation(request) : alice.getOperation(request),
    },
  });
  const hidden = await post(front.url, get, '{"project":"a/b","id":"bad"}');
  assert.equal(hidden.status, 500);
  assert.match(hidden.text, /internal error/);
  const passed = await post(front.url, get, '{"project":"a/b","id":"x"}');
  assert.equal(passed.status, 503);
  assert.match(passed.text, /no_quorum/);
  assert.ok(!passed.text.includes("10.0.0.1"));
});

Deno.test("grpc.health.v1 follows the health of the process", async () => {
  await using fixture = await startFixture();
  const check = (service: string) =>
    post(fixture.url, "/grpc.health.v1.Health/Check", JSON.stringify({ service }), { authorization: "" });
  assert.equal((await check("")).json.status, "SERVING");
  assert.equal((await check("ultracloud.common.v1.OperationService")).json.status, "SERVING");
  assert.equal((await check("none")).status, 404);
  fixture.health.set("rpc", "stopping");
  assert.equal((await check("")).json.status, "NOT_SERVING");
  assert.equal(fixture.audit.length, 0);
});

Deno.test("calls are shed while the event loop lags, and taken again after", async () => {
  await using fixture = await startFixture({ limits: { loopLagMsMax: 50 } });
  const end = performance.now() + 600;
  while (performance.now() < end);
  let status = 200;
  for (let i = 0; i < 400 && status === 200; i++) status = (await post(fixture.url, get, good)).status;
  assert.equal(status, 429);
  assert.equal((await post(fixture.url, "/grpc.health.v1.Health/Check", "{}")).status, 200);
  const deadline = performance.now() + 5_000;
  while (status !== 200 && performance.now() < deadline) status = (await post(fixture.url, get, good)).status;
  assert.equal(status, 200);
});

Deno.test("methods without side effects answer GET, others do not", async () => {
  await using fixture = await startFixture();
  const ask = async (method: string) => {
    const query = `?connect=v1&encoding=json&message=${encodeURIComponent(good)}`;
    const response = await fetch(fixture.url + operationPath + method + query, {
      headers: { authorization: "Bearer alice" },
    });
    return { status: response.status, text: await response.text() };
  };
  const read = await ask("GetOperation");
  assert.deepEqual([read.status, JSON.parse(read.text).id], [200, "x"]);
  assert.equal((await ask("CancelOperation")).status, 405);
  assert.equal(fixture.audit.length, 0);
});
