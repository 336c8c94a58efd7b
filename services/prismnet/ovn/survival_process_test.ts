import assert from "node:assert/strict";
import { systemClock } from "@ultracloud/base";
import { Direction, Protocol } from "@ultracloud/proto/prismnet/v1";
import { testUnless } from "@ultracloud/testing";
import { NorthboundReconciler } from "./reconciler.ts";
import { noPackets } from "./test_netns.ts";
import { everyMs, pingStream } from "./test_traffic.ts";
import { project, until, World } from "./test_world.ts";

testUnless("every daemon and the agent may be killed under traffic, and all ends as it was", noPackets, async (t) => {
  await using world = await World.make(2);
  await world.vpcs.createVpc({ project, name: "net" });
  await world.subnets.createSubnet({ project, name: "a", vpc: "net", cidr: "10.1.0.0/24" });
  const rules = [
    { direction: Direction.INGRESS, protocol: Protocol.ICMP },
    { direction: Direction.EGRESS, protocol: Protocol.UNSPECIFIED },
  ];
  await world.groups.createSecurityGroup({ project, name: "ping", rules });
  const one = await world.guest({ name: "one", subnet: "a", hv: 0, groups: ["ping"] });
  const two = await world.guest({ name: "two", subnet: "a", hv: 1, groups: ["ping"] });
  await using pings = pingStream(one.ns, two.port.ipAddress);
  await until("traffic flows", () => pings.last() > 10);
  await world.settled();
  const before = world.reconciler.dump();

  const survives = async (what: string, hurt: () => Promise<void>) => {
    const from = pings.last();
    await hurt();
    // What is lost is lost by now, or traffic stands: either way it must flow again.
    await systemClock.sleep(1_000);
    const at = pings.last();
    await until(`traffic flows after ${what}`, async () => {
      await Promise.all([world.applyHost(0), world.applyHost(1)]).catch(() => {});
      return pings.last() > at + 20;
    });
    console.log(`    ${what}: ${pings.missing(from) * everyMs} ms of traffic lost`);
    await world.settled();
    assert.deepEqual(world.reconciler.dump(), before, `state differs after ${what}`);
  };

  for (const daemon of ["controller", "northd", "nb", "sb", "conf", "vswitchd"]) {
    await t.step(`kill -9 of ${daemon}`, () =>
      survives(`kill -9 of ${daemon}`, async () => {
        const view = () => world.hosts[0]!.supervisor.views().find(({ name }) => name === daemon)!;
        const { pid, starts } = view();
        Deno.kill(pid, "SIGKILL");
        await until("it is started again", () => view().starts > starts && view().state === "running");
      }));
  }
  await t.step("the agent goes and another adopts its daemons", () =>
    survives("the agent's restart", async () => {
      const old = world.hosts[0]!;
      await old[Symbol.asyncDispose]();
      world.hosts[0] = await world.openHost(0);
      await until("all but the locked one are adopted", () =>
        world.hosts[0]!.supervisor.views().filter(({ state }) => state === "adopted").length === 6);
      world.gone[0]!.push(old);
    }));
  await t.step(
    "a prismnet that knows nothing finds nothing to write",
    () =>
      survives("prismnet's restart", async () => {
        const fresh = new NorthboundReconciler({ platform: world.platform, db: world.nb, records: world.records });
        assert.equal((await fresh.once()).operations, 0);
      }),
  );
  await t.step("what somebody else broke is mended", () =>
    survives("rows removed by hand", async () => {
      await world.nb.transact([{ op: "delete", table: "Port_Group", where: [["name", "==", "uc_guests"]] }]);
      await world.nb.transact([{ op: "delete", table: "Logical_Router", where: [] }]);
    }));
});
