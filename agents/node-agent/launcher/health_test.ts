import assert from "node:assert/strict";
import { serviceSchema } from "@ultracloud/cluster-state";
import { askHealth } from "./health.ts";
import type { Prepared } from "./prepare.ts";

const prepared: Prepared = { program: "/bin/true", args: [], env: { PATH: "/usr/bin:/bin" } };

/** One look at a service on this port with this check. */
async function ask(port: number, healthCheck: Record<string, unknown>): Promise<string | undefined> {
  const spec = {
    command: ["/bin/true"],
    ports: { main: { port } },
    healthCheck: { timeoutMs: 10_000, ...healthCheck },
  };
  return await askHealth(serviceSchema.parse(spec), prepared);
}

Deno.test("health over HTTP is an answer below 400, over TCP a connection, by a program its exit code", async () => {
  let status = 200;
  const server = Deno.serve(
    { hostname: "127.0.0.1", port: 0, onListen: () => {} },
    () => new Response("x", { status }),
  );
  const { port } = server.addr;
  const http = { kind: "http", port: "main", path: "/healthz" };
  assert.equal(await ask(port, http), undefined);
  status = 503;
  assert.equal(await ask(port, http), "/healthz answered 503");
  assert.equal(await ask(port, { kind: "tcp", port: "main" }), undefined);
  await server.shutdown();
  assert.match(await ask(port, { kind: "tcp", port: "main" }) ?? "", /refused/i);
  assert.notEqual(await ask(port, http), undefined);
  assert.equal(await ask(port, { kind: "exec", command: ["/bin/sh", "-c", "exit 0"] }), undefined);
  const ill = await ask(port, { kind: "exec", command: ["/bin/sh", "-c", "echo no disk >&2; exit 3"] });
  assert.equal(ill, "/bin/sh ended with 3: no disk");
  assert.equal(
    await ask(port, { kind: "exec", command: ["/bin/sleep", "60"], timeoutMs: 50 }),
    "/bin/sleep took too long",
  );
});
