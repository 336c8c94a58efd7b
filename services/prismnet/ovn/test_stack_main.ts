import assert from "node:assert/strict";
import { systemClock } from "@ultracloud/base";
import { Direction, PortState, Protocol } from "@ultracloud/proto/prismnet/v1";
import { deviceOf } from "./names.ts";
import { northboundTables, ownTables } from "./northbound.ts";
import { dumpRows } from "./rows.ts";
import { join, Netns } from "./test_netns.ts";
import { project, startNetworkStack } from "./test_stack.ts";
import { everyMs, pingStream } from "./test_traffic.ts";

/**
 * The real components under their pinned permissions, each process and each daemon killed by SIGKILL under traffic, with
 * a change made while it is gone, or (`unchanged`) nothing changed at all; started by its test in a network namespace of
 * its own.
 */
await using network = await startNetworkStack();
const { stack, runDir, stateDir, until, isReady, subnets, groups, ports, nb } = network;
const pidOf = async (daemon: string) => (await Deno.readTextFile(`${runDir}/${daemon}.pid`).catch(() => "")).trim();
// With IPv6, so that each port has flows of net-agent's own.
await subnets.createSubnet({ project, name: "lan", vpc: "net", cidr: "10.1.0.0/24", cidrV6: "fd00:1::/64" });
await using world = new AsyncDisposableStack();
const tag = `uc${Deno.pid}`;
/** A guest: a namespace joined by the very device that the port's binding names. */
async function guest(here: Netns, name: string): Promise<{ ns: Netns; ip: string }> {
  const port = await ports.createPort({ project, name, subnet: "lan", securityGroups: ["ping"] });
  const ns = world.use(await Netns.make(`${tag}-${name}`));
  await join([here, deviceOf(port.meta!.id)], [ns, "eth0"], 1400);
  await ns.run("ip", "link", "set", "dev", "eth0", "address", port.macAddress);
  await ns.run("ip", "address", "add", `${port.ipAddress}/24`, "dev", "eth0");
  await ports.bindPort({ project, port: name, host: "local" });
  return { ns, ip: port.ipAddress };
}
// This very namespace, by a name under which others can be joined to it.
const here = await Netns.current(`${tag}-here`);
world.use(here);
// The agent takes away devices of its kind that no port names: it is gone until the ports do.
await stack.process("net-agent")!.kill();
const one = await guest(here, "one");
const two = await guest(here, "two");
stack.start("net-agent");
for (const name of ["one", "two"]) {
  const { state, stateReason } = await ports.waitPort({ project, port: name, timeoutMs: 30_000 });
  assert.equal(state, PortState.ACTIVE, stateReason);
}

const dump = () => dumpRows(ownTables, nb.replica, northboundTables).map((row) => row.replace(/ up=\S+/, ""));

/** What `ovs-ofctl` does with the flows of net-agent's own on the integration bridge. */
async function guardFlows(verb: "dump-aggregate" | "del-flows"): Promise<string> {
  const args = [verb, `unix:${runDir}/uct-int.mgmt`, "cookie=0x5543000000000000/0xffff000000000000"];
  return new TextDecoder().decode((await new Deno.Command("ovs-ofctl", { args, stderr: "null" }).output()).stdout);
}
async function guards(): Promise<number> {
  const stdout = await guardFlows("dump-aggregate");
  return Number(/flow_count=(\d+)/.exec(stdout)?.[1] ?? 0);
}
await until("the ports are guarded", async () => await guards() > 0);
const guarded = await guards();

await using pings = pingStream(one.ns, two.ip);
await until("traffic flows", () => pings.last() > 20);
const desired = dump();
let port = 2_000;

/** Kills, changes the network meanwhile, waits until all of it is there, takes the change back, compares. */
async function survives(what: string, kill: () => Promise<void>, back: () => Promise<void>): Promise<void> {
  const from = pings.last();
  await kill();
  const number = port++;
  const rule = { direction: Direction.INGRESS, protocol: Protocol.TCP, portMin: number, portMax: number };
  let id = "";
  const changing = (async () => {
    for (const deadline = performance.now() + 60_000;;) {
      try {
        const group = await groups.addRule({ project, securityGroup: "ping", rule });
        id = group.rules.find((r) => r.portMin === number)!.id;
        return;
      } catch (error) {
        // prismnet itself may be the one that is gone.
        if (performance.now() > deadline) throw error;
        const { rules } = await groups.getSecurityGroup({ project, securityGroup: "ping" }).catch(() => ({
          rules: [],
        }));
        id = rules.find((r) => r.portMin === number)?.id ?? "";
        if (id !== "") return;
        await systemClock.sleep(100);
      }
    }
  })();
  await back();
  await changing;
  await until(`the rule made without ${what} is carried out`, () => dump().join().includes(`tcp.dst == ${number}`));
  await groups.removeRule({ project, securityGroup: "ping", ruleId: id });
  await until(`the network is as desired after ${what}`, () => dump().join("\n") === desired.join("\n"));
  const seen = pings.last();
  await until(`traffic flows after ${what}`, () => pings.last() > seen + 20);
  assert.deepEqual(dump(), desired);
  await until(`the ports are guarded after ${what}`, async () => await guards() === guarded);
  console.log(`kill -9 of ${what}: ${pings.missing(from) * everyMs} ms of traffic lost, state as desired`);
}

/** Transactions of ours in a database's log, which says who wrote. */
async function written(db: "nb" | "conf"): Promise<number> {
  const { stdout } = await new Deno.Command("ovsdb-tool", { args: ["show-log", `${stateDir}/${db}.db`] }).output();
  return [...new TextDecoder().decode(stdout).matchAll(/"ultracloud (prismnet|net-agent): /g)].length;
}

/** What stands costs no transaction, although every process that writes is started anew. */
async function unchanged(): Promise<void> {
  // Both compare everything anew when they start. A change of each kind behind it says that they have.
  const counts = await Promise.all([written("nb"), written("conf")]);
  for (const name of ["prismnet", "net-agent"]) {
    await stack.process(name)!.kill();
    stack.start(name);
  }
  for (const name of ["prismnet", "net-agent"]) await until(`${name} is ready again`, isReady(name));
  await ports.createPort({ project, name: "three", subnet: "lan", securityGroups: ["ping"] });
  await ports.bindPort({ project, port: "three", host: "local" });
  const { state, stateReason } = await ports.waitPort({ project, port: "three", timeoutMs: 30_000 });
  assert.equal(state, PortState.ACTIVE, stateReason);
  assert.deepEqual(await Promise.all([written("nb"), written("conf")]), [counts[0]! + 1, counts[1]! + 1]);
  await ports.unbindPort({ project, port: "three" });
  await ports.deletePort({ project, port: "three" });
  await until(
    "the network is as before",
    async () => dump().join("\n") === desired.join("\n") && await guards() === guarded,
  );
  console.log(
    `unchanged network, both processes anew: 0 of ${counts.join(" and ")} transactions; one port: 1 and 1 more`,
  );
}

/** Who wipes the flows that guard ports finds them there again. */
async function wiped(): Promise<void> {
  await guardFlows("del-flows");
  const begin = performance.now();
  await until("the ports are guarded again", async () => await guards() === guarded);
  console.log(`flows of ours wiped: guarded again within ${Math.round(performance.now() - begin)} ms`);
}

/** Every process and every daemon, one after the other. */
async function kills(): Promise<void> {
  for (const name of ["net-agent", "prismnet"]) {
    const before = await Promise.all(["vswitchd", "controller", "nb"].map(pidOf));
    await survives(name, async () => await stack.process(name)!.kill(), async () => {
      stack.start(name);
      await until(`${name} is ready again`, isReady(name));
    });
    const after = await Promise.all(["vswitchd", "controller", "nb"].map(pidOf));
    assert.deepEqual(after, before, `the daemons outlive ${name}`);
  }
  for (const daemon of ["controller", "northd", "nb", "sb", "conf", "vswitchd"]) {
    const pid = await pidOf(daemon);
    await survives(
      daemon === "nb" || daemon === "sb" || daemon === "conf" ? `ovsdb-server (${daemon})` : daemon,
      () => Promise.resolve(Deno.kill(Number(pid), "SIGKILL")),
      async () => {
        await until(`another ${daemon} runs`, async () => {
          const now = await pidOf(daemon);
          return now !== "" && now !== pid;
        });
        await until("the agent is ready", isReady("net-agent"));
      },
    );
  }
  console.log("stack on OVN: every process killed, every one back");
}

if (Deno.args[0] === "unchanged") await unchanged();
else await kills();
await wiped();
