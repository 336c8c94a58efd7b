import assert from "node:assert/strict";
import { type Fault, seededRng, systemClock } from "@ultracloud/base";
import { noopLogger } from "@ultracloud/observe";
import { memoryBackend, openPlatform } from "@ultracloud/platform";
import { EventService, EventType } from "@ultracloud/proto/common/v1";
import { PortService, SubnetService, VpcService } from "@ultracloud/proto/prismnet/v1";
import { serveLocally } from "@ultracloud/testing";
import { createPrismnet } from "./service.ts";
import { userEngine } from "./user_engine.ts";

const project = "acme/prod";

async function serve() {
  const kv = memoryBackend({ clock: systemClock });
  const deps = { kv, clock: systemClock, rng: seededRng(3), log: noopLogger };
  const platform = openPlatform({ service: "prismnet" }, deps);
  const engine = userEngine({ hostPortMin: 20000, hostPortMax: 20099 }, deps);
  const { services } = createPrismnet({ platform, engine });
  return { kv, services, server: await serveLocally("prismnet", services) };
}

Deno.test("over the wire a network is made, its changes are told in order, and calls are asked for by resource", async () => {
  const { server, kv } = await serve();
  await using _ = server;
  const start = await kv.write([], []);
  assert.ok(start.committed);
  await server.client(VpcService).createVpc({ project, name: "net" });
  await server.client(SubnetService).createSubnet({ project, name: "front", vpc: "net", cidr: "10.1.0.0/24" });
  const ports = server.client(PortService);
  await ports.createPort({ project, name: "p", subnet: "front" });
  await ports.deletePort({ project, port: "p" });
  assert.deepEqual(server.asked.at(-1), { permission: "prismnet.port.delete", scope: `${project}/prismnet/port/p` });
  const seen: string[] = [];
  const events = server.client(EventService).watchEvents({ project, cursor: String(start.version) });
  for await (const event of events) {
    seen.push(`${EventType[event.type]} ${event.ref!.kind} ${event.ref!.name}`);
    if (seen.length === 4) break;
  }
  assert.deepEqual(seen, ["CREATED vpc net", "CREATED subnet front", "CREATED port p", "DELETED port p"]);
});

Deno.test("every method refuses an empty request and a caller who may not, and nothing changes", async () => {
  const { server, services, kv } = await serve();
  await using _ = server;
  const version = async () => (await kv.write([], []) as { version: number }).version;
  const before = await version();
  for (const bound of services) {
    for (const method of bound.service.methods) {
      const client = server.client(bound.service) as unknown as Record<string, (input: unknown) => unknown>;
      const outcome = async () => {
        try {
          const answer = client[method.localName]!({});
          if (method.methodKind === "unary") await answer;
          else for await (const _ of answer as AsyncIterable<unknown>) break;
          return "ok";
        } catch (error) {
          return (error as Fault).kind;
        }
      };
      const name = `${bound.service.name}.${method.name}`;
      // These ask for nothing that could be missing.
      const complete = ["GetEngine", "WatchEvents", "ListOperations", "ListAddressPools"].includes(method.name);
      server.who = { ...server.who, allow: true };
      if (!complete) assert.match(await outcome(), /^(invalid_argument|not_found)$/, name);
      server.who = { ...server.who, allow: false };
      if (method.name !== "GetEngine") assert.match(await outcome(), /^(invalid_argument|permission_denied)$/, name);
    }
  }
  assert.equal(await version(), before + 1);
});
