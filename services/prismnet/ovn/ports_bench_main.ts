import { Direction, Protocol } from "@ultracloud/proto/prismnet/v1";
import { noPackets } from "./test_netns.ts";
import { fenceOf } from "./reconciler.ts";
import { project, until, World } from "./test_world.ts";

/** The contract's figures: 1 000 ports made and realised, an unchanged network compared, one port made. */
const portsCount = 1_000;
const limits = { realisedMs: 60_000, unchangedMs: 1_000, createP50Ms: 10 } as const;
/** Creates in flight: what a few busy controllers would have. */
const inFlight = 16;

if (noPackets !== undefined) {
  console.log(`prismnet ports: not measured here: ${noPackets}`);
} else {
  await using world = await World.make(1);
  await world.vpcs.createVpc({ project, name: "net" });
  for (let i = 0; i < 4; i++) {
    await world.subnets.createSubnet({ project, name: `s${i}`, vpc: "net", cidr: `10.${i}.0.0/22` });
  }
  await world.groups.createSecurityGroup({
    project,
    name: "web",
    rules: [{ direction: Direction.INGRESS, protocol: Protocol.TCP, portMin: 80, portMax: 80 }],
  });
  await world.settled();

  const latencies: number[] = [];
  const begin = performance.now();
  let next = 0;
  await Promise.all(Array.from({ length: inFlight }, async () => {
    for (let i = next++; i < portsCount; i = next++) {
      const at = performance.now();
      await world.ports.createPort({ project, name: `p${i}`, subnet: `s${i % 4}`, securityGroups: ["web"] });
      latencies.push(performance.now() - at);
      await world.ports.bindPort({ project, port: `p${i}`, host: "hv0" });
    }
  }));
  const createdMs = performance.now() - begin;
  await until("the database has all of them", async () => (await world.reconciler.once()).operations === 0);
  await until("the host's flows are those", () => {
    const { written, realised } = fenceOf(world.nb);
    return realised >= written;
  });
  const realisedMs = performance.now() - begin;
  const at = performance.now();
  const { operations, planMs } = await world.reconciler.once();
  const unchangedMs = performance.now() - at;
  // One at a time: what a person waits for.
  const single: number[] = [];
  for (let i = 0; i < 50; i++) {
    const from = performance.now();
    await world.ports.createPort({ project, name: `one${i}`, subnet: "s0", securityGroups: ["web"] });
    single.push(performance.now() - from);
  }
  const p50 = (values: number[]) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)]!;
  const line = (what: string, ms: number, limit?: number) =>
    console.log(
      `${what.padEnd(52)} ${ms.toFixed(1).padStart(9)} ms${limit === undefined ? "" : `   limit ${limit} ms`}`,
    );
  line(`${portsCount} ports created and bound, ${inFlight} in flight`, createdMs);
  line(`${portsCount} ports realised on the host`, realisedMs, limits.realisedMs);
  line(`unchanged network compared (${operations} operations)`, unchangedMs, limits.unchangedMs);
  line("  of it the plan", planMs);
  line(`create p50, ${inFlight} in flight`, p50(latencies));
  line("create p50, one at a time, store in memory", p50(single), limits.createP50Ms);
  if (operations !== 0) throw new Error(`An unchanged network was written to: ${operations} operations`);
}
