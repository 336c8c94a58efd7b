import { Direction, Protocol } from "@ultracloud/proto/prismnet/v1";
import { atomsOf } from "@ultracloud/ovsdb";
import { ip, Netns, noPackets } from "./test_netns.ts";
import { fenceOf } from "./reconciler.ts";
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
  const taps = async () => (await ip("-br", "link", "show", "type", "tun")).trim().split("\n").length;

  const latencies: number[] = [];
  const begin = performance.now();
  let next = 0, bound = 0;
  const trouble = setInterval(async () => {
    const { written, realised } = fenceOf(nb);
    console.log(
      `  ${((performance.now() - begin) / 1e3).toFixed(0)} s: ${latencies.length} made, ${bound} bound, ${
        nb.replica.rows("Logical_Switch_Port").size
      } rows, ${await taps()} taps, ${up()} up, fence ${realised}/${written}`,
    );
  }, 5_000);
  await Promise.all(Array.from({ length: inFlight }, async () => {
    for (let i = next++; i < portsCount; i = next++) {
      const at = performance.now();
      await ports.createPort({ project, name: `p${i}`, subnet: `s${i % 4}`, securityGroups: ["web"] });
      latencies.push(performance.now() - at);
      await ports.bindPort({ project, port: `p${i}`, host: "local" });
      bound++;
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
  clearInterval(trouble);
  line(`${portsCount} ports created and bound, ${inFlight} in flight`, createdMs);
  line(`${portsCount} taps made, joined and claimed`, upMs);
  line(`${portsCount} ports realised on the host`, realisedMs, limits.realisedMs);
  line(`create p50, ${inFlight} in flight`, p50(latencies));
  // One at a time: what a person waits for.
  const single: number[] = [];
  for (let i = 0; i < 50; i++) {
    const from = performance.now();
    await ports.createPort({ project, name: `one${i}`, subnet: "s0", securityGroups: ["web"] });
    single.push(performance.now() - from);
  }
  line("create p50, one at a time", p50(single), limits.createP50Ms);
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
