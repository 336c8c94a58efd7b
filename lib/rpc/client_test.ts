import assert from "node:assert/strict";
import { Code, ConnectError } from "@connectrpc/connect";
import { Fault, fault, type FaultKind } from "@ultracloud/base";
import { OperationService } from "@ultracloud/proto/common/v1";
import { startFixture } from "./_fixture.ts";
import { codeOf, createRpcClient, detailOf, RemoteFault, toFault } from "./mod.ts";

/** A server whose calls fail as told, and the number of calls it saw. */
async function scripted(failures: () => Fault | undefined) {
  let calls = 0;
  const answer = () => {
    calls++;
    const failure = failures();
    if (failure !== undefined) throw failure;
    return { id: "done" };
  };
  const fixture = await startFixture({}, {}, { operation: { getOperation: answer, cancelOperation: answer } });
  return { fixture, calls: () => calls, [Symbol.asyncDispose]: () => fixture[Symbol.asyncDispose]() };
}

const unavailable = (code = "no_quorum", leaderHint?: string) =>
  fault("unavailable", code, "Cannot write", leaderHint === undefined ? {} : { leaderHint });
const request = { project: "a/b", id: "x" };
const authorization = () => Promise.resolve("Bearer alice");

async function kindOf(work: Promise<unknown>): Promise<FaultKind | "ok"> {
  try {
    await work;
    return "ok";
  } catch (error) {
    assert.ok(error instanceof Fault, String(error));
    return error.kind;
  }
}

Deno.test("a call without side effects is repeated on unavailable, as often as allowed", async () => {
  let left = 2;
  await using server = await scripted(() => left-- > 0 ? unavailable() : undefined);
  const client = createRpcClient(OperationService, { endpoints: [server.fixture.url], authorization });
  assert.equal((await client.getOperation(request)).id, "done");
  assert.equal(server.calls(), 3);
  left = 3;
  assert.equal(await kindOf(client.getOperation(request)), "unavailable");
});

Deno.test("a mutating call is repeated only when it carries an idempotency key or nothing was done", async () => {
  let failure = unavailable();
  let left = 1;
  await using server = await scripted(() => left-- > 0 ? failure : undefined);
  const client = createRpcClient(OperationService, { endpoints: [server.fixture.url], authorization });
  assert.equal(await kindOf(client.cancelOperation(request)), "unavailable");
  assert.equal(server.calls(), 1);
  left = 1;
  assert.equal(await kindOf(client.cancelOperation(request, { headers: { "idempotency-key": "k" } })), "ok");
  left = 1;
  failure = unavailable("not_leader");
  assert.equal(await kindOf(client.cancelOperation(request)), "ok");
});

Deno.test("other failures are not repeated", async () => {
  await using server = await scripted(() => fault("aborted", "conflict", "Cannot commit"));
  const client = createRpcClient(OperationService, { endpoints: [server.fixture.url], authorization });
  assert.equal(await kindOf(client.getOperation(request)), "aborted");
  assert.equal(server.calls(), 1);
});

Deno.test("a leader hint is followed and remembered, with or without scheme", async () => {
  await using leader = await scripted(() => undefined);
  let hint = leader.fixture.server.address;
  await using follower = await scripted(() => unavailable("not_leader", hint));
  await using other = await scripted(() => unavailable("not_leader", hint));
  for (const scheme of ["", "http://"]) {
    hint = scheme + leader.fixture.server.address;
    const client = createRpcClient(OperationService, {
      endpoints: [follower.fixture.url, other.fixture.url, leader.fixture.url],
      authorization,
      retries: 1,
    });
    for (let i = 0; i < 3; i++) assert.equal(await kindOf(client.cancelOperation(request)), "ok");
  }
  assert.deepEqual([follower.calls(), other.calls(), leader.calls()], [2, 0, 6]);
});

Deno.test("a hint to a place that is no endpoint gets no token, and followers that point at each other come to an end", async () => {
  const hints: string[] = [];
  await using a = await scripted(() => unavailable("not_leader", hints[1]));
  await using b = await scripted(() => unavailable("not_leader", hints[0]));
  await using stranger = await scripted(() => undefined);
  const client = createRpcClient(OperationService, { endpoints: [a.fixture.url, b.fixture.url], authorization });
  hints.push(stranger.fixture.url, stranger.fixture.url);
  assert.equal(await kindOf(client.getOperation(request)), "unavailable");
  assert.equal(stranger.calls(), 0);
  hints.splice(0, 2, a.fixture.url, b.fixture.url);
  assert.equal(await kindOf(client.getOperation(request)), "unavailable");
});

Deno.test("an endpoint that is down is passed over, for mutating calls too", async () => {
  await using up = await scripted(() => undefined);
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const down = `http://127.0.0.1:${listener.addr.port}`;
  listener.close();
  const client = createRpcClient(OperationService, { endpoints: [down, up.fixture.url], authorization });
  assert.equal(await kindOf(client.cancelOperation(request)), "ok");
  const alone = createRpcClient(OperationService, { endpoints: [down], authorization, retries: 0 });
  await assert.rejects(alone.getOperation(request), (error: unknown) => {
    assert.ok(error instanceof Fault);
    assert.deepEqual([error.kind, error.code, error.message], [
      "unavailable",
      "connect_failed",
      `Cannot reach ${down}`,
    ]);
    return true;
  });
});

Deno.test("the call after one that met silence asks another replica", async () => {
  await using server = await scripted(() => undefined);
  using silent = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = silent.addr as Deno.NetAddr;
  const endpoints = [`http://127.0.0.1:${port}`, server.fixture.url];
  const client = createRpcClient(OperationService, { endpoints, authorization, timeoutMs: 200 });
  assert.equal(await kindOf(client.getOperation(request)), "deadline_exceeded");
  assert.equal(await kindOf(client.getOperation(request, { timeoutMs: 10_000 })), "ok");
});

Deno.test("the deadline covers all tries", async () => {
  await using server = await scripted(() => unavailable());
  const client = createRpcClient(OperationService, { endpoints: [server.fixture.url], authorization, retries: 1_000 });
  const started = performance.now();
  assert.notEqual(await kindOf(client.getOperation(request, { timeoutMs: 200 })), "ok");
  assert.ok(performance.now() - started < 3_000);
});

Deno.test("a caller's abort ends the call with cancelled", async () => {
  await using fixture = await startFixture();
  const client = createRpcClient(OperationService, { endpoints: [fixture.url], authorization });
  const left = new AbortController();
  const call = kindOf(client.waitOperation({ ...request, timeoutMs: 30_000 }, { signal: left.signal }));
  left.abort();
  assert.equal(await call, "cancelled");
});

Deno.test("an answer that is not Connect is a failure, and leaves no open body", async () => {
  const server = Deno.serve(
    { port: 0, hostname: "127.0.0.1", onListen: () => {} },
    () => new Response("<html>", { status: 502 }),
  );
  const client = createRpcClient(OperationService, { endpoints: [`http://127.0.0.1:${server.addr.port}`], retries: 0 });
  assert.equal(await kindOf(client.getOperation(request)), "unavailable");
  await server.shutdown();
});

Deno.test("createRpcClient() refuses endpoints it cannot call", () => {
  for (const endpoints of [[], ["127.0.0.1:7100"], ["ftp://a:1"], ["http://a:1/path"]]) {
    assert.throws(() => createRpcClient(OperationService, { endpoints }), Fault);
  }
});

Deno.test("every kind of fault survives the wire with its detail", async () => {
  let kind: FaultKind = "internal";
  await using server = await scripted(() =>
    fault(kind, "a_code", "Cannot do it", { field: "a.b", metadata: { x: "y" } })
  );
  const client = createRpcClient(OperationService, { endpoints: [server.fixture.url], authorization, retries: 0 });
  for (kind of Object.keys(codeOf) as FaultKind[]) {
    const error = await client.getOperation(request).catch((e) => e);
    assert.ok(error instanceof RemoteFault);
    assert.equal(error.kind, kind);
    if (kind === "internal") assert.deepEqual([error.code, error.message], ["internal", "internal error"]);
    else assert.deepEqual([error.code, error.message, error.detail.field], ["a_code", "Cannot do it", "a.b"]);
    assert.match(detailOf(error)!.requestId, /^req_/);
    if (kind !== "internal") assert.deepEqual(detailOf(error)!.metadata, { x: "y" });
  }
});

Deno.test("toFault() keeps faults and names what it does not know internal", () => {
  const own = fault("aborted", "conflict", "Cannot commit");
  assert.equal(toFault(own), own);
  assert.equal(toFault(new ConnectError("gone", Code.NotFound)).kind, "not_found");
  assert.equal(toFault(new TypeError("x")).kind, "internal");
  assert.equal(toFault(new DOMException("late", "TimeoutError")).kind, "deadline_exceeded");
});
