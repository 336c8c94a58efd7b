import { anyPack } from "@bufbuild/protobuf/wkt";
import assert from "node:assert/strict";
import { create, toBinary } from "@bufbuild/protobuf";
import { noopLogger, Registry } from "@ultracloud/observe";
import { fault, systemClock, systemRng } from "@ultracloud/base";
import { GetOperationRequestSchema, OperationService, ResourceRefSchema } from "@ultracloud/proto/common/v1";
import fc from "fast-check";
import { authenticator, authorizer } from "./_fixture.ts";
import { Chain } from "./chain.ts";
import { connectWire, serveUnary, unaryFormat } from "./fast.ts";
import { createGeneric } from "./generic.ts";
import { defaultLimits } from "./limits.ts";
import { buildRoutes } from "./routes.ts";
import { type AuditRecord, bind, type Peer } from "./types.ts";
import type { FaultKind } from "@ultracloud/base";
import { codeOf } from "./errors.ts";

const kinds = Object.keys(codeOf) as FaultKind[];
const nobody: Peer = { certificateId: undefined };

/** Both paths over the same handlers. What a handler does stands in the request's id. */
function bothPaths() {
  const audit: AuditRecord[] = [];
  const registry = new Registry();
  const chain = new Chain({ ...defaultLimits, messageBytesMax: 100_000 }, {
    authenticator,
    authorizer,
    registry,
    log: noopLogger,
    clock: systemClock,
    rng: systemRng,
    audit: (record) => void audit.push(record),
  });
  const act = (id: string) => {
    const kind = kinds.find((k) => id.startsWith(k));
    if (kind !== undefined) {
      throw fault(kind, `code_${id.length}`, `Cannot do ${id}`, { field: "id", retryAfterMs: 7, leaderHint: "a:1" });
    }
    if (id.startsWith("crash")) throw new Error(`secret ${id}`);
    // What an operation made is packed: JSON needs its type, binary does not.
    const result = id.startsWith("any")
      ? { result: anyPack(ResourceRefSchema, create(ResourceRefSchema, { id })) }
      : {};
    return { id, kind: id.repeat(40), metadata: {}, ...result };
  };
  const scope = (request: { project: string }) => request.project;
  const service = bind(OperationService, {
    getOperation: (request) => act(request.id),
    listOperations: () => ({}),
    waitOperation: async (request, context) => {
      context.responseHeader.set("x-seen", context.principal.id);
      return await Promise.resolve(act(request.id));
    },
    cancelOperation: (request) => Promise.resolve(act(request.id)),
  }, {
    getOperation: { resource: "operation", action: "get", scope },
    listOperations: { public: "to see a public row" },
    waitOperation: { authenticated: "to see such a row" },
    cancelOperation: { resource: "operation", action: "cancel", scope },
  });
  const routes = buildRoutes("parity", [service], registry.histogram("t_seconds", "T", ["method", "code"]));
  const generic = createGeneric(chain, routes);
  return {
    audit,
    fast: (method: string, request: Request) => {
      const binary = unaryFormat(request.headers.get("content-type"))!;
      return serveUnary(chain, routes.byPath.get(method)!, request, nobody, connectWire(binary));
    },
    generic: (method: string, request: Request) => generic(routes.byPath.get(method)!, request, nobody),
    close: () => chain.drain(),
  };
}

async function seenOf(response: Response) {
  const header = (name: string) => response.headers.get(name);
  return {
    status: response.status,
    type: header("content-type"),
    requestId: header("x-request-id"),
    extra: header("x-seen"),
    encoding: header("content-encoding"),
    body: [...await response.bytes()],
  };
}

Deno.test("fast and generic path answer the same bytes, status and audit for the same request", async () => {
  const paths = bothPaths();
  try {
    const call = fc.record({
      method: fc.constantFrom("GetOperation", "WaitOperation", "CancelOperation", "ListOperations"),
      binary: fc.boolean(),
      project: fc.constantFrom("acme/prod", "", "é/ü"),
      id: fc.oneof(fc.constantFrom(...kinds, "crash", "any", "x"), fc.string({ maxLength: 20 })),
      authorization: fc.constantFrom("Bearer alice", "Bearer bob", "Bearer eve", "Bearer 1", undefined),
      key: fc.constantFrom(undefined, "k1", "no good"),
      timeout: fc.constantFrom(undefined, "5000", "never", "9999999999"),
      accept: fc.constantFrom(undefined, "gzip", "identity"),
    });
    await fc.assert(
      fc.asyncProperty(call, async (c) => {
        const message = create(
          GetOperationRequestSchema,
          c.method === "ListOperations" ? {} : { project: c.project, id: c.id },
        );
        const body = c.binary
          ? toBinary(GetOperationRequestSchema, message) as Uint8Array<ArrayBuffer>
          : new TextEncoder().encode(
            c.method === "ListOperations" ? "{}" : JSON.stringify({ project: c.project, id: c.id }),
          );
        const headers = new Headers({
          "content-type": c.binary ? "application/proto" : "application/json",
          "x-request-id": "same",
          "content-length": String(body.length),
        });
        if (c.authorization !== undefined) headers.set("authorization", c.authorization);
        if (c.key !== undefined) headers.set("idempotency-key", c.key);
        if (c.timeout !== undefined) headers.set("connect-timeout-ms", c.timeout);
        if (c.accept !== undefined) headers.set("accept-encoding", c.accept);
        const path = `/ultracloud.common.v1.OperationService/${c.method}`;
        const request = () => new Request(`http://h${path}`, { method: "POST", headers, body });
        paths.audit.length = 0;
        const fast = await seenOf(await paths.fast(path, request()));
        const fastAudit = paths.audit.splice(0).map((record) => [record.outcome, record.principal, record.scope]);
        const generic = await seenOf(await paths.generic(path, request()));
        const genericAudit = paths.audit.splice(0).map((record) => [record.outcome, record.principal, record.scope]);
        // connect-es compresses large errors too; nobody minds, as they are read the same.
        if (fast.encoding === generic.encoding) assert.deepEqual(fast, generic);
        else assert.equal(fast.status, generic.status);
        assert.deepEqual(fastAudit, genericAudit);
      }),
      { numRuns: 400 },
    );
  } finally {
    await paths.close();
  }
});

Deno.test("an answer with a packed message is readable as JSON on both paths", async () => {
  const paths = bothPaths();
  try {
    const path = "/ultracloud.common.v1.OperationService/WaitOperation";
    const headers = { "content-type": "application/json", authorization: "Bearer alice" };
    for (const serve of [paths.fast, paths.generic]) {
      const response = await serve(
        path,
        new Request(`http://h${path}`, { method: "POST", headers, body: '{"id":"any"}' }),
      );
      assert.equal(response.status, 200);
      assert.deepEqual((await response.json()).result, {
        "@type": "type.googleapis.com/ultracloud.common.v1.ResourceRef",
        id: "any",
      });
    }
  } finally {
    await paths.close();
  }
});
