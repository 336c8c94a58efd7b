import { createWorkloadSigner } from "@ultracloud/authz";
import { systemClock, systemRng } from "@ultracloud/base";
import { noopLogger } from "@ultracloud/observe";
import { atomsOf } from "@ultracloud/ovsdb";
import { flaredbBackend, openPlatform } from "@ultracloud/platform";
import { DatabaseService, KvService } from "@ultracloud/proto/flaredb/v1";
import { Direction, Protocol } from "@ultracloud/proto/prismnet/v1";
import { createRpcClient } from "@ultracloud/rpc";
import { NetworkRecords } from "../network_records.ts";
import { Netns, noPackets } from "./test_netns.ts";
import { fenceOf, NorthboundReconciler } from "./reconciler.ts";
import { project, startNetworkStack } from "./test_stack.ts";

/**
 * The contract's figures, from the real components under their pinned permissions: 1 000 ports made, each a tap in the
 * switch of this host and a port of OVN, over flaredb on disk; what an unchanged network costs; one port made.
 */
const portsCount = 1_000;
const limits = { realisedMs: 60_000, unchangedMs: 1_000, createP50Ms: 10 } as const;
/** Creates in flight: what a few busy controllers would have. */
const inFlight = 16;

const line = (what: string, ms: number, limit?: number) =>
  console.log(
    `${what.padEnd(60)} ${ms.toFixed(1).padStart(9)} ms${limit === undefined ? "" : `   limit ${limit} ms`}`,
  );
const p50 = (values: number[]) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)]!;

type Network = Awaited<ReturnType<typeof startNetworkStack>>;

/** Reads and compares the whole network as prismnet does, beside it, with its identity. */
async function compare({ stack, nb }: Network): Promise<{ ms: number; operations: number }> {
  const keyFile = `${stack.placement("prismnet").configDir}/identity.key`;
  const signer = await createWorkloadSigner({ clusterId: "test", name: "prismnet", keyFile }, { clock: systemClock });
  const at = { endpoints: [stack.endpoint("flaredb")], authorization: signer.authorization("flaredb") };
  using kv = createRpcClient(KvService, at);
  using databases = createRpcClient(DatabaseService, at);
  const deps = { clock: systemClock, rng: systemRng, log: noopLogger };
  const backend = flaredbBackend({ kv, databases }, "sys_prismnet");
  const platform = openPlatform({ service: "prismnet" }, { ...deps, kv: backend });
  const reconciler = new NorthboundReconciler({ platform, db: nb, records: new NetworkRecords(platform) });
  // The first reading makes the connection.
  await reconciler.once();
  const begin = performance.now();
  const { operations } = await reconciler.once();
  return { ms: performance.now() - begin, operations };
}

async function measure(): Promise<void> {
  await using network = await startNetworkStack();
  const { subnets, groups, ports, nb, until } = network;
  for (let i = 0; i < 4; i++) {
    await subnets.createSubnet({ project, name: `s${i}`, vpc: "net", cidr: `10.${i}.0.0/22` });
  }
  await groups.createSecurityGroup({
    project,
    name: "web",
    rules: [{ direction: Direction.INGRESS, protocol: Protocol.TCP, portMin: 80, portMax: 80 }],
  });
  const up = () => {
    let count = 0;
    for (const row of nb.replica.rows("Logical_Switch_Port").values()) if (atomsOf(row.up)[0] === true) count++;
    return count;
  };

  const latencies: number[] = [];
  const begin = performance.now();
  let next = 0;
  await Promise.all(Array.from({ length: inFlight }, async () => {
    for (let i = next++; i < portsCount; i = next++) {
      const at = performance.now();
      await ports.createPort({ project, name: `p${i}`, subnet: `s${i % 4}`, securityGroups: ["web"] });
      latencies.push(performance.now() - at);
      await ports.bindPort({ project, port: `p${i}`, host: "local" });
    }
  }));
  const createdMs = performance.now() - begin;
  await until("every port is up", () => up() >= portsCount);
  const upMs = performance.now() - begin;
  await until("the host's flows are those", () => {
    const { written, realised } = fenceOf(nb);
    return realised >= written;
  });
  const realisedMs = performance.now() - begin;
  line(`${portsCount} ports created and bound, ${inFlight} in flight`, createdMs);
  line(`${portsCount} taps made, joined and claimed`, upMs);
  line(`${portsCount} ports realised on the host`, realisedMs, limits.realisedMs);
  line(`create p50, ${inFlight} in flight`, p50(latencies));
  const unchanged = await compare(network);
  line(`unchanged network read and compared, ${unchanged.operations} operations`, unchanged.ms, limits.unchangedMs);
  // One at a time: what a person waits for.
  const single: number[] = [];
  for (let i = 0; i < 50; i++) {
    const from = performance.now();
    await ports.createPort({ project, name: `one${i}`, subnet: "s0", securityGroups: ["web"] });
    single.push(performance.now() - from);
  }
  line("create p50, one at a time", p50(single), limits.createP50Ms);
  if (unchanged.operations > 0) throw new Error(`Cannot leave alone what stands: ${unchanged.operations} operations`);
}

if (noPackets !== undefined) {
  console.log(`prismnet ports: not measured here: ${noPackets}`);
} else if (Deno.args[0] === "inside") {
  await measure();
} else {
  // In a namespace of its own, as the agent makes bridges where it stands.
  await using ns = await Netns.make(`uc${Deno.pid}-bench`);
  const child = new Deno.Command("ip", {
    args: ["netns", "exec", ns.name, Deno.execPath(), "run", "-q", "-A", import.meta.url, "inside"],
  }).spawn();
  const { code } = await child.status;
  if (code !== 0) Deno.exit(code);
}
