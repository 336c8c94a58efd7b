import assert from "node:assert/strict";
import { fault, seededRng, systemClock, uniform } from "@ultracloud/base";
import { noopLogger } from "@ultracloud/observe";
import { type KvBackend, memoryBackend, openPlatform } from "@ultracloud/platform";
import { HostService, PortService, SubnetService, VpcService } from "@ultracloud/proto/prismnet/v1";
import { inProcessClient } from "@ultracloud/testing";
import { readNetwork } from "./network_records.ts";
import { ovnEngine } from "./ovn/engine.ts";
import { createPrismnet } from "./service.ts";

const project = "acme/prod";

function world(kv: KvBackend = memoryBackend({ clock: systemClock }), seed = 9) {
  const deps = { kv, clock: systemClock, rng: seededRng(seed), log: noopLogger };
  const platform = openPlatform({ service: "prismnet" }, deps);
  const prismnet = createPrismnet({ platform, engine: ovnEngine(), addressGraceMs: 0 });
  const { services } = prismnet;
  return {
    ...prismnet,
    platform,
    vpcs: inProcessClient(VpcService, services),
    subnets: inProcessClient(SubnetService, services),
    ports: inProcessClient(PortService, services),
    hosts: inProcessClient(HostService, services),
  };
}

async function until(what: string, look: () => boolean): Promise<void> {
  for (const deadline = performance.now() + 30_000; !look(); await systemClock.sleep(1)) {
    assert.ok(performance.now() < deadline, `waited in vain until ${what}`);
  }
}

/** The store, whose watches can be made to fail and to forget. */
function breakable() {
  const kv = memoryBackend({ clock: systemClock });
  const broken = new Set<AbortController>();
  let forgets = false;
  const watch: KvBackend["watch"] = async function* (bucket, prefix, after, signal) {
    if (forgets) {
      forgets = false;
      throw fault("out_of_range", "watch_index_gone", "Cannot watch from there");
    }
    const cut = new AbortController();
    broken.add(cut);
    try {
      yield* kv.watch(bucket, prefix, after, AbortSignal.any([signal, cut.signal]));
    } finally {
      broken.delete(cut);
    }
  };
  return {
    kv: { ...kv, watch },
    cut(forget: boolean) {
      forgets = forget;
      for (const cut of broken) cut.abort(fault("unavailable", "gone", "Cannot go on"));
    },
  };
}

for (const seed of [1, 2, 3]) {
  const name = `records that are followed are those of the store, whatever happens to the watch, seed ${seed}`;
  Deno.test(name, () => followed(seed));
}

async function followed(seed: number): Promise<void> {
  const { kv, cut } = breakable();
  const { records, follow, vpcs, subnets, ports, platform } = world(kv);
  const rng = seededRng(seed);
  await vpcs.createVpc({ project, name: "net" });
  await subnets.createSubnet({ project, name: "lan", vpc: "net", cidr: "10.1.0.0/24" });
  await using _following = follow();
  const there = new Set<string>();
  for (let i = 0; i < 120; i++) {
    const name = `p${uniform(rng, 30)}`;
    const host = `h${uniform(rng, 3)}`;
    if (!there.has(name)) {
      await ports.createPort({ project, name, subnet: "lan" });
      there.add(name);
      await ports.bindPort({ project, port: name, host });
    } else if (uniform(rng, 2) === 0) {
      await ports.unbindPort({ project, port: name });
      await ports.bindPort({ project, port: name, host });
    } else {
      await ports.unbindPort({ project, port: name });
      await ports.deletePort({ project, port: name });
      there.delete(name);
    }
    if (uniform(rng, 20) === 0) cut(uniform(rng, 2) === 0);
  }
  const { state, version } = await readNetwork(platform);
  await until("the records are as new as the store", () => records.reaches(version));
  assert.deepEqual(records.state, state);
  for (const host of ["h0", "h1", "h2"]) {
    const wanted = state.ports.filter((port) => port.value.host === host).map(({ id }) => id).sort();
    assert.deepEqual(records.hostPorts!.since(host, undefined).ports.map((p) => p.portId).sort(), wanted);
  }
}

Deno.test("a record that did not change stays the same object", async () => {
  const { records, follow, vpcs } = world();
  await vpcs.createVpc({ project, name: "one" });
  await using _following = follow();
  await until("the records are read", () => records.state !== undefined);
  const before = records.state!.vpcs[0];
  await vpcs.createVpc({ project, name: "two" });
  await until("the change is told", () => records.state!.vpcs.length === 2);
  assert.ok(records.state!.vpcs[0] === before);
});

Deno.test("an agent that does what it is told has its ports, across replicas of prismnet and their readings", async () => {
  const kv = memoryBackend({ clock: systemClock });
  const replicas = [world(kv, 1), world(kv, 2)];
  const [one] = replicas as [ReturnType<typeof world>, ReturnType<typeof world>];
  await using stack = new AsyncDisposableStack();
  for (const replica of replicas) stack.use(replica.follow());
  await one.vpcs.createVpc({ project, name: "net" });
  await one.subnets.createSubnet({ project, name: "lan", vpc: "net", cidr: "10.1.0.0/24" });
  const rng = seededRng(4);
  const has = new Set<string>();
  let fingerprint = "", complete = 0;
  const sync = async (at: ReturnType<typeof world>) => {
    const answer = await at.hosts.syncHost({ host: "h0", agentUrl: "http://h0", fingerprint, waitMs: 0 });
    if (!answer.partial) {
      has.clear();
      complete++;
    }
    for (const { portId } of answer.ports) has.add(portId);
    for (const portId of answer.removedPortIds) has.delete(portId);
    fingerprint = answer.fingerprint;
  };
  const wanted = async () =>
    (await readNetwork(one.platform)).state.ports.filter(({ value }) => value.host === "h0").map(({ id }) => id).sort();
  for (let i = 0; i < 40; i++) {
    await one.ports.createPort({ project, name: `p${i}`, subnet: "lan" });
    await one.ports.bindPort({ project, port: `p${i}`, host: `h${uniform(rng, 2)}` });
    if (i % 3 === 2) await one.ports.unbindPort({ project, port: `p${i - uniform(rng, 3)}` });
    const { version } = await readNetwork(one.platform);
    const at = replicas[i < 20 ? 0 : 1]!;
    await until("the replica has seen it", () => at.records.reaches(version));
    await sync(at);
    assert.deepEqual([...has].sort(), await wanted());
  }
  assert.equal(complete, 2, "all ports are told once by each replica");
});

Deno.test("a replica that has read nothing tells no host that it has no ports", async () => {
  const { hosts } = world();
  await assert.rejects(hosts.syncHost({ host: "h0", agentUrl: "http://h0" }), { code: "records_behind" });
});

Deno.test("a port that changes while the records are read is told, though later records were read already", async () => {
  const kv = memoryBackend({ clock: systemClock });
  const writer = world(kv, 1);
  await writer.vpcs.createVpc({ project, name: "net" });
  await writer.subnets.createSubnet({ project, name: "lan", vpc: "net", cidr: "10.1.0.0/24" });
  const port = await writer.ports.createPort({ project, name: "web", subnet: "lan" });
  const watching = Promise.withResolvers<void>();
  let raced = false;
  const { hosts, records, follow } = world({
    ...kv,
    async scan(bucket, scan, signal) {
      const items = await kv.scan(bucket, scan, signal);
      // Ports are read before subnets: the one below is in the reading, what happened to the port before it is not.
      if (scan.prefix === "port|" && !raced) {
        raced = true;
        await writer.ports.bindPort({ project, port: "web", host: "h0" });
        await writer.subnets.createSubnet({ project, name: "late", vpc: "net", cidr: "10.2.0.0/24" });
      }
      return items;
    },
    async *watch(bucket, prefix, after, signal) {
      await watching.promise;
      yield* kv.watch(bucket, prefix, after, signal);
    },
  }, 2);
  await using _following = follow();
  await until("the records are read", () => records.state !== undefined);
  assert.deepEqual(records.state!.subnets.map(({ name }) => name).sort(), ["lan", "late"]);
  const before = await hosts.syncHost({ host: "h0", agentUrl: "http://h0", waitMs: 0 });
  assert.deepEqual(before.ports, []);
  watching.resolve();
  const after = await hosts.syncHost({
    host: "h0",
    agentUrl: "http://h0",
    fingerprint: before.fingerprint,
    waitMs: 10_000,
  });
  assert.deepEqual(after.ports.map(({ portId }) => portId), [port.meta!.id]);
});
