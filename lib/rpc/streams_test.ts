import assert from "node:assert/strict";
import { createClient } from "@connectrpc/connect";
import { createFetchClient } from "@connectrpc/connect/protocol";
import { createTransport as createGrpcWeb } from "@connectrpc/connect/protocol-grpc-web";
import { Fault } from "@ultracloud/base";
import { EventService, OperationService } from "@ultracloud/proto/common/v1";
import { Health as HealthService, HealthCheckResponse_ServingStatus as Status } from "@ultracloud/proto/grpc/health/v1";
import { ServerReflection } from "@ultracloud/proto/grpc/reflection/v1";
import { RaftPeerService } from "@ultracloud/proto/raft/v1";
import { asyncAuth, startFixture, until } from "./_fixture.ts";
import { createRpcClient, toFault } from "./mod.ts";

const as = (name: string) => () => `Bearer ${name}`;

async function cursors(stream: AsyncIterable<{ cursor: string }>): Promise<string[]> {
  const all: string[] = [];
  for await (const event of stream) all.push(event.cursor);
  return all;
}

async function failureOf(work: Promise<unknown>): Promise<Fault> {
  try {
    await work;
  } catch (error) {
    assert.ok(error instanceof Fault, String(error));
    return error;
  }
  throw new Error("Cannot find a failure: the call succeeded");
}

for (const [kind, deps] of [["synchronous", {}], ["asynchronous", asyncAuth]] as const) {
  Deno.test(`a server stream is authorised by its request (${kind} authentication)`, async () => {
    await using fixture = await startFixture({}, deps);
    const client = (name: string) =>
      createRpcClient(EventService, { endpoints: [fixture.url], authorization: as(name), retries: 0 });
    assert.deepEqual(await cursors(client("alice").watchEvents({ project: "a/b" })), ["0", "1", "2"]);
    assert.equal((await failureOf(cursors(client("eve").watchEvents({ project: "a/b" })))).kind, "not_found");
    assert.equal((await failureOf(cursors(client("x1").watchEvents({ project: "a/b" })))).kind, "unauthenticated");
  });
}

Deno.test("a stream's failure carries its detail, a crash stays bare", async () => {
  await using fixture = await startFixture();
  const client = createRpcClient(EventService, { endpoints: [fixture.url], authorization: as("alice"), retries: 0 });
  const cut = await failureOf(cursors(client.watchEvents({ project: "a/b", cursor: "fail" })));
  assert.deepEqual([cut.kind, cut.code], ["data_loss", "log_cut"]);
  const crash = await failureOf(cursors(client.watchEvents({ project: "a/b", cursor: "crash" })));
  assert.equal(crash.message, "internal error");
  assert.match(String(fixture.errors.at(-1)!.fields.error), /secret of the database/);
});

Deno.test("a consumer that leaves the loop ends the stream on the server", async () => {
  await using fixture = await startFixture();
  const client = createRpcClient(EventService, { endpoints: [fixture.url], authorization: as("alice") });
  for await (const event of client.watchEvents({ project: "a/b", cursor: "stay" })) if (event.cursor === "2") break;
  await until(() => fixture.seen[0]!.aborted, "the handler was told");
});

Deno.test("a cancelled stream ends on both sides", async () => {
  await using fixture = await startFixture();
  const client = createRpcClient(EventService, { endpoints: [fixture.url], authorization: as("alice") });
  const cancel = new AbortController();
  const failure = await failureOf((async () => {
    for await (const event of client.watchEvents({ project: "a/b", cursor: "stay" }, { signal: cancel.signal })) {
      if (event.cursor === "2") cancel.abort();
    }
  })());
  assert.equal(failure.kind, "cancelled");
  await until(() => fixture.seen[0]!.aborted, "the handler was told");
});

Deno.test("a stream with a deadline ends with deadline_exceeded", async () => {
  await using fixture = await startFixture();
  const client = createRpcClient(EventService, { endpoints: [fixture.url], authorization: as("alice") });
  const failure = await failureOf(cursors(client.watchEvents({ project: "a/b", cursor: "stay" }, { timeoutMs: 60 })));
  assert.equal(failure.kind, "deadline_exceeded");
  await until(() => fixture.seen[0]!.aborted, "the handler was told");
});

Deno.test("a stopping server ends its streams with unavailable", async () => {
  const fixture = await startFixture();
  const client = createRpcClient(EventService, { endpoints: [fixture.url], authorization: as("alice") });
  const seen: string[] = [];
  const failure = await failureOf((async () => {
    for await (const event of client.watchEvents({ project: "a/b", cursor: "stay" })) {
      seen.push(event.cursor);
      if (event.cursor === "2") void fixture[Symbol.asyncDispose]();
    }
  })());
  assert.deepEqual([seen.length, failure.kind, failure.code], [3, "unavailable", "stopping"]);
  await fixture[Symbol.asyncDispose]();
});

Deno.test("a stream whose server dies in the middle is unavailable, not a failure of this side", async () => {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  const dying = (async () => {
    using connection = await listener.accept();
    await connection.read(new Uint8Array(65_536));
    const head = "HTTP/1.1 200 OK\r\ncontent-type: application/connect+proto\r\ntransfer-encoding: chunked\r\n\r\n";
    // One event with the cursor "0", and not the end.
    const message = [0x0a, 0x01, 0x30];
    const chunk = new Uint8Array([0, 0, 0, 0, message.length, ...message]);
    const text = new TextEncoder();
    for (const part of [text.encode(`${head}${chunk.length}\r\n`), chunk, text.encode("\r\n")]) {
      await connection.write(part);
    }
  })();
  const client = createRpcClient(EventService, { endpoints: [`http://127.0.0.1:${port}`], retries: 0 });
  const seen: string[] = [];
  const failure = await failureOf((async () => {
    for await (const event of client.watchEvents({ project: "a/b" })) seen.push(event.cursor);
  })());
  await dying;
  listener.close();
  assert.deepEqual([seen, failure.kind, failure.code], [["0"], "unavailable", "connection_lost"]);
});

Deno.test("streams above the bound are refused", async () => {
  await using fixture = await startFixture({ limits: { streamsMax: 1 } });
  const client = createRpcClient(EventService, { endpoints: [fixture.url], authorization: as("alice"), retries: 0 });
  for await (const event of client.watchEvents({ project: "a/b", cursor: "stay" })) {
    if (event.cursor !== "2") continue;
    assert.equal((await failureOf(cursors(client.watchEvents({ project: "a/b" })))).code, "too_many_calls");
    break;
  }
});

Deno.test("a client stream delivers every message and is authorised by its first", async () => {
  await using fixture = await startFixture();
  async function* parts(count: number) {
    for (let i = 0; i < count; i++) {
      yield await Promise.resolve({ messages: [{ entries: [{ data: new Uint8Array(70_000) }] }] });
    }
  }
  const client = (name: string) =>
    createRpcClient(RaftPeerService, { endpoints: [fixture.url], authorization: as(name), retries: 0 });
  await client("alice").send(parts(3));
  assert.equal((await failureOf(client("alice").send(parts(2)))).code, "wrong_count");
  assert.equal((await failureOf(client("bob").send(parts(3)))).kind, "permission_denied");
  assert.equal((await failureOf(client("alice").send(parts(0)))).code, "empty_stream");
  assert.equal(fixture.audit.length, 4);
});

Deno.test("gRPC-Web answers unary calls and streams like Connect does", async () => {
  await using fixture = await startFixture();
  const transport = createGrpcWeb({
    baseUrl: fixture.url,
    httpClient: createFetchClient(fetch),
    useBinaryFormat: true,
    interceptors: [(next) => (request) => {
      request.header.set("authorization", "Bearer alice");
      return next(request);
    }],
    acceptCompression: [],
    sendCompression: null,
    compressMinBytes: 1024,
    readMaxBytes: 1 << 20,
    writeMaxBytes: 1 << 20,
  });
  const operations = createClient(OperationService, transport);
  assert.equal((await operations.getOperation({ project: "a/b", id: "x" })).progressPercent, 50);
  const missing = toFault(await operations.getOperation({ project: "a/b", id: "missing" }).catch((e) => e));
  assert.deepEqual([missing.kind, missing.code, missing.detail.field], ["not_found", "operation_not_found", "id"]);
  const late = toFault(
    await operations.waitOperation({ project: "a/b", timeoutMs: 9_000 }, { timeoutMs: 40 }).catch((e) => e),
  );
  assert.equal(late.kind, "deadline_exceeded");
  assert.deepEqual(await cursors(createClient(EventService, transport).watchEvents({ project: "a/b" })), [
    "0",
    "1",
    "2",
  ]);
});

Deno.test("grpc.health.v1 Watch tells each change", async () => {
  await using fixture = await startFixture();
  const client = createRpcClient(HealthService, { endpoints: [fixture.url] });
  const statuses: Status[] = [];
  for await (const { status } of client.watch({})) {
    statuses.push(status);
    if (statuses.length === 1) fixture.health.set("rpc", "stopping");
    else break;
  }
  assert.deepEqual(statuses, [Status.SERVING, Status.NOT_SERVING]);
});

Deno.test("grpc.reflection.v1 lists services and describes them with what they import", async () => {
  await using fixture = await startFixture();
  const client = createRpcClient(ServerReflection, { endpoints: [fixture.url] });
  async function* ask() {
    yield { messageRequest: { case: "listServices" as const, value: "" } };
    yield { messageRequest: { case: "fileContainingSymbol" as const, value: "ultracloud.common.v1.OperationService" } };
    yield { messageRequest: { case: "fileByFilename" as const, value: "none.proto" } };
  }
  const answers = [];
  for await (const answer of client.serverReflectionInfo(ask())) answers.push(answer.messageResponse);
  assert.equal(answers.length, 3);
  const [list, file, none] = answers;
  assert.ok(list?.case === "listServicesResponse");
  assert.ok(list.value.service.some((service) => service.name === "ultracloud.common.v1.EventService"));
  assert.ok(file?.case === "fileDescriptorResponse");
  assert.equal(file.value.fileDescriptorProto.length, 3);
  assert.ok(none?.case === "errorResponse" && none.value.errorCode === 5);
});
