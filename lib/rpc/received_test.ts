import { create, toBinary } from "@bufbuild/protobuf";
import assert from "node:assert/strict";
import { fault, systemClock, systemRng } from "@ultracloud/base";
import { Health, noopLogger, Registry } from "@ultracloud/observe";
import { GetOperationRequestSchema, OperationService } from "@ultracloud/proto/common/v1";
import { authenticator, authorizer, operationPath } from "./_fixture.ts";
import { bind, type CallContext, startRpcServer } from "./mod.ts";

Deno.test("a handler sees the bytes of a request that came in binary, of no other", async () => {
  const seen: { received: CallContext["received"]; request: unknown }[] = [];
  const unused = () => {
    throw fault("unimplemented", "unused", "Cannot call this here");
  };
  const scope = () => "acme";
  const service = bind(OperationService, {
    getOperation: (request, context) => {
      seen.push({ received: context.received, request });
      return { id: request.id };
    },
    listOperations: unused,
    waitOperation: unused,
    cancelOperation: unused,
  }, {
    getOperation: { resource: "operation", action: "get", scope },
    listOperations: { resource: "operation", action: "list", scope },
    waitOperation: { resource: "operation", action: "get", scope },
    cancelOperation: { resource: "operation", action: "cancel", scope },
  });
  await using server = await startRpcServer({ name: "test-svc", version: "1", listen: "127.0.0.1:0" }, {
    services: [service],
    authenticator,
    authorizer,
    registry: new Registry(),
    health: new Health(),
    log: noopLogger,
    clock: systemClock,
    rng: systemRng,
  });
  const bytes = toBinary(GetOperationRequestSchema, create(GetOperationRequestSchema, { id: "x" }));
  const post = async (type: string, body: Uint8Array<ArrayBuffer> | string) => {
    const headers = { "content-type": type, authorization: "Bearer alice" };
    const response = await fetch(`${server.url}${operationPath}GetOperation`, { method: "POST", headers, body });
    assert.equal(response.status, 200, await response.text());
  };
  await post("application/proto", bytes as Uint8Array<ArrayBuffer>);
  await post("application/json", '{"id":"x"}');
  assert.equal(seen[0]!.received!.message, seen[0]!.request);
  assert.deepEqual(seen[0]!.received!.bytes, bytes);
  assert.equal(seen[1]!.received, undefined);
});
