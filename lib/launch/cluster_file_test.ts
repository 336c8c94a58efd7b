import assert from "node:assert/strict";
import { nodesWith, parseClusterFile } from "./mod.ts";

const good = {
  version: 1,
  clusterId: "test",
  profile: "ha-control-plane",
  network: { cidr: "10.77.0.0/24", operatorAddress: "10.77.0.1" },
  nodes: {
    node01: { role: "control-plane", address: "10.77.0.11", member: 1, components: ["chainfire", "iam"] },
    node02: { role: "worker", address: "10.77.0.12", member: 2, components: ["vm-agent"], standby: ["chainfire"] },
  },
};

Deno.test("parseClusterFile() reads a cluster and nodesWith() finds who runs a component", () => {
  const cluster = parseClusterFile(JSON.stringify(good), "c.json");
  assert.deepEqual(nodesWith(cluster, "chainfire"), ["node01"]);
  assert.deepEqual(nodesWith(cluster, "flaredb"), []);
});

Deno.test("parseClusterFile() names what is wrong with a cluster", () => {
  const cases: [change: (file: typeof good) => void, wanted: RegExp][] = [
    [(f) => f.nodes.node02.address = "10.78.0.12", /must be inside 10\.77\.0\.0\/24/],
    [(f) => f.nodes.node02.address = "10.77.0.11", /is the address of node01/],
    [(f) => f.nodes.node02.address = "10.77.0.1", /is the address of the operator/],
    [(f) => f.nodes.node02.member = 1, /is the member of node01/],
    [(f) => f.nodes.node02.components.push("chainfire"), /chainfire runs here already/],
    [(f) => f.network.operatorAddress = "192.168.0.1", /must be inside/],
    [(f) => f.clusterId = "Test", /clusterId/],
    [(f) => Object.assign(f, { extra: 1 }), /extra/],
  ];
  for (const [change, wanted] of cases) {
    const file = structuredClone(good);
    change(file);
    assert.throws(() => parseClusterFile(JSON.stringify(file), "c.json"), wanted);
  }
  assert.throws(() => parseClusterFile("{", "c.json"), /Cannot read c\.json as JSON/);
});
