import assert from "node:assert/strict";
import { utf8 } from "@ultracloud/base";
import { EventService, OperationService } from "@ultracloud/proto/common/v1";
import { TokenService } from "@ultracloud/proto/iam/v1";
import { asyncAuth, type Fixture, post, startFixture, until } from "./_fixture.ts";
import { type Caller, type HttpHandler, type RpcServerDeps, streamedResponse, type UnaryWire } from "./mod.ts";

/** Plain words in, plain words out. */
const wordWire: UnaryWire = {
  contentType: "text/plain",
  decode: (body) => ({ $typeName: "ultracloud.common.v1.GetOperationRequest", project: "a/b", id: utf8.decode(body) }),
  encode: (output) => `operation ${(output as { id: string }).id}`,
  failure: (error, { requestId }) => new Response(`${error.code} of ${requestId}`, { status: 418 }),
};

const http: HttpHandler = (request, peer, calls) => {
  const left = new AbortController();
  const signal = AbortSignal.any([request.signal, left.signal]);
  const caller: Caller = { headers: request.headers, signal, peer };
  switch (new URL(request.url).pathname) {
    case "/word":
      return calls.serve(OperationService.method.getOperation, wordWire, request, peer);
    case "/unserved":
      return calls.serve(TokenService.method.whoAmI, wordWire, request, peer);
    case "/twice":
      return (async () => {
        const words = async () => utf8.decode(await calls.body(request));
        try {
          const read = async () => wordWire.decode(utf8.encode(await words()) as never, {} as never) as never;
          const first = await calls.unary(OperationService.method.getOperation, caller, read);
          const second = await calls.unary(OperationService.method.getOperation, caller, () => first as never);
          return new Response(`${first.id} ${second.id}`);
        } catch (error) {
          return new Response((error as { code: string }).code, { status: 418 });
        }
      })();
    case "/stream": {
      const events = async function* () {
        const read = async () => ({ project: "a/b", cursor: utf8.decode(await calls.body(request)) } as never);
        try {
          for await (const { cursor } of calls.stream(EventService.method.watchEvents, caller, read)) {
            yield utf8.encode(`${cursor}\n`);
          }
        } catch (error) {
          yield utf8.encode((error as { code: string }).code);
        }
      };
      return streamedResponse(events(), { headers: { "content-type": "text/plain" } }, () => left.abort());
    }
  }
  return undefined;
};

const start = (deps: Partial<RpcServerDeps> = {}, limits = {}): Promise<Fixture> =>
  startFixture({ limits }, { ...deps, http });

for (const [kind, deps] of [["synchronous", {}], ["asynchronous", asyncAuth]] as const) {
  Deno.test(`another wire reaches the same handler through the same chain (${kind} authentication)`, async () => {
    await using fixture = await start(deps);
    for (const [path, answer] of [["/word", "operation x"], ["/twice", "x x"], ["/stream", "0\n1\n2\n"]] as const) {
      const alice = await post(fixture.url, path, "x");
      assert.deepEqual([alice.status, alice.text], [200, answer], path);
      assert.match((await post(fixture.url, path, "x", { authorization: "Bearer eve" })).text, /^not_found/, path);
      assert.match((await post(fixture.url, path, "x", { authorization: "nobody" })).text, /^token_invalid/, path);
    }
    assert.equal((await post(fixture.url, "/elsewhere", "x")).status, 404);
    assert.match(await (await fetch(`${fixture.url}/metrics`)).text(), /GetOperation",code="ok"\} 3/);
  });
}

Deno.test("failures of another wire say what the caller may see, and hide the rest", async () => {
  await using fixture = await start();
  const failed = await post(fixture.url, "/word", "missing", { "x-request-id": "r1" });
  assert.deepEqual([failed.status, failed.text], [418, "operation_not_found of r1"]);
  assert.equal((await post(fixture.url, "/word", "crash", { "x-request-id": "r2" })).text, "internal of r2");
  assert.equal((await post(fixture.url, "/twice", "crash")).text, "internal");
  assert.match((await post(fixture.url, "/unserved", "x")).text, /^not_served/);
  assert.equal((await post(fixture.url, "/stream", "crash")).text, "0\n1\n2\ninternal");
  assert.equal(
    (await post(fixture.url, "/word", "x", { "connect-timeout-ms": "soon" })).text.slice(0, 11),
    "bad_timeout",
  );
});

Deno.test("a body is not read for nobody, and never beyond the bound", async () => {
  await using fixture = await start({}, { messageBytesMax: 10 });
  for (const path of ["/word", "/twice", "/stream"]) {
    assert.match((await post(fixture.url, path, "x".repeat(11))).text, /^message_too_large/, path);
    assert.match((await post(fixture.url, path, "x".repeat(11), { authorization: "no" })).text, /^token_inv/, path);
  }
});

Deno.test("calls of another wire take the places of one caller, and give them back", async () => {
  await using fixture = await start({}, { callerStreamsMax: 1 });
  const stay = await fetch(`${fixture.url}/stream`, {
    method: "POST",
    headers: { authorization: "Bearer alice" },
    body: "stay",
  });
  const reader = stay.body!.getReader();
  await reader.read();
  assert.equal((await post(fixture.url, "/stream", "x")).text, "too_many_calls");
  assert.equal((await post(fixture.url, "/stream", "x", { authorization: "Bearer carol" })).text, "0\n1\n2\n");
  await reader.cancel();
  await until(() => fixture.seen[0]!.aborted, "the handler was told that its caller left");
  let text = "";
  for (const end = performance.now() + 5_000; text !== "0\n1\n2\n" && performance.now() < end;) {
    text = (await post(fixture.url, "/stream", "x")).text;
  }
  assert.equal(text, "0\n1\n2\n", "the place is free again");
});
