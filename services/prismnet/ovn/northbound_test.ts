import assert from "node:assert/strict";
import { seededRng, systemClock, uniform } from "@ultracloud/base";
import { noopLogger } from "@ultracloud/observe";
import { openOvsdb } from "@ultracloud/ovsdb";
import { memoryBackend, openPlatform } from "@ultracloud/platform";
import { PortService, SecurityGroupService, SubnetService, VpcService } from "@ultracloud/proto/prismnet/v1";
import { inProcessClient } from "@ultracloud/testing";
import { createPrismnet } from "../service.ts";
import { ovnEngine } from "./engine.ts";
import { desiredRows, northboundTables, ownTables } from "./northbound.ts";
import { readNetwork } from "../network_records.ts";

const project = "acme/prod";

function world() {
  const kv = memoryBackend({ clock: systemClock });
  const platform = openPlatform({ service: "prismnet" }, {
    kv,
    clock: systemClock,
    rng: seededRng(3),
    log: noopLogger,
  });
  const { services } = createPrismnet({ platform, engine: ovnEngine() });
  return {
    platform,
    vpcs: inProcessClient(VpcService, services),
    subnets: inProcessClient(SubnetService, services),
    groups: inProcessClient(SecurityGroupService, services),
    ports: inProcessClient(PortService, services),
  };
}

Deno.test("every row has a key of its own, and every reference names a row", async () => {
  const { platform, vpcs, subnets, groups, ports } = world();
  const rng = seededRng(11);
  for (const vpc of ["x", "y"]) {
    await vpcs.createVpc({ project, name: vpc });
    for (let i = 0; i < 3; i++) {
      const v6 = i === 0 ? { cidrV6: `fd00:${vpc === "x" ? 1 : 2}::/64` } : {};
      await subnets.createSubnet({ project, name: `${vpc}${i}`, vpc, cidr: `10.${i}.0.0/24`, ...v6 });
    }
  }
  const group = await groups.createSecurityGroup({ project, name: "g" });
  await groups.addRule({ project, securityGroup: "g", rule: { direction: 1, remoteGroupId: group.meta!.id } });
  for (let i = 0; i < 20; i++) {
    const subnet = `${uniform(rng, 2) ? "x" : "y"}${uniform(rng, 3)}`;
    await ports.createPort({ project, name: `p${i}`, subnet, securityGroups: uniform(rng, 2) ? ["g"] : [] });
    if (i > 0) await ports.bindPort({ project, port: `p${i}`, host: "h0" });
  }
  const rows = desiredRows((await readNetwork(platform)).state);
  const keys = new Set(rows.map((row) => row.key));
  assert.equal(keys.size, rows.length, "two rows share a key");
  const switchPorts = rows.filter(({ table, columns }) => table === "Logical_Switch_Port" && columns.type === "");
  assert.equal(switchPorts.length, 19, "one for each port that has a host");
  for (const row of rows) {
    assert.ok(ownTables.includes(row.table), row.table);
    for (const [column, value] of Object.entries(row.columns)) {
      assert.ok(northboundTables[row.table]!.includes(column), `${row.table}.${column} is not compared`);
      if (typeof value !== "object" || !("refs" in value)) continue;
      for (const ref of value.refs) assert.ok(keys.has(ref), `${row.key} refers to ${ref}`);
    }
  }
});

Deno.test("of 100 ports made at once in a /26 each has an address of its own, and the rest is told why", async () => {
  const { vpcs, subnets, ports } = world();
  await vpcs.createVpc({ project, name: "net" });
  await subnets.createSubnet({ project, name: "small", vpc: "net", cidr: "10.9.0.0/26" });
  const results = await Promise.allSettled(
    Array.from({ length: 100 }, (_, i) => ports.createPort({ project, name: `p${i}`, subnet: "small" })),
  );
  const made = results.flatMap((result) => result.status === "fulfilled" ? [result.value.ipAddress] : []);
  const refused = results.flatMap((result) =>
    result.status === "rejected" ? [(result.reason as { code: string }).code] : []
  );
  assert.equal(new Set(made).size, 61);
  assert.equal(made.length, 61);
  assert.deepEqual([...new Set(refused)], ["subnet_exhausted"]);
});

Deno.test("a binding names one tap per port, short enough for a device", async () => {
  const { vpcs, subnets, ports } = world();
  await vpcs.createVpc({ project, name: "net" });
  await subnets.createSubnet({ project, name: "a", vpc: "net", cidr: "10.9.0.0/24" });
  const devices = new Set<string>();
  for (let i = 0; i < 50; i++) {
    await ports.createPort({ project, name: `p${i}`, subnet: "a" });
    const { binding } = await ports.bindPort({ project, port: `p${i}`, host: "node01" });
    assert.equal(binding?.engine.case, "tap");
    const { device } = binding.engine.value as { device: string };
    assert.match(device, /^ut[0-9a-z]{12}$/);
    devices.add(device);
  }
  assert.equal(devices.size, 50);
});

Deno.test("a northbound database that is not there is said, not thrown", async () => {
  await using db = openOvsdb({
    endpoint: { transport: "unix", path: "/nonexistent/nb.sock" },
    database: "OVN_Northbound",
    tables: northboundTables,
  }, { clock: systemClock, rng: seededRng(1), log: noopLogger });
  for (const deadline = performance.now() + 20_000; !/Cannot connect/.test(db.reason);) {
    assert.ok(performance.now() < deadline, db.reason);
    await systemClock.sleep(5);
  }
  assert.equal(db.connected, false);
});
