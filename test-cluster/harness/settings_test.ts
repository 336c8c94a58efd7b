import assert from "node:assert/strict";
import { parseClusterFile } from "@ultracloud/launch";
import { readSettings, without, withSettings } from "./settings.ts";

const file = parseClusterFile(
  JSON.stringify({
    version: 1,
    clusterId: "test",
    profile: "ha-control-plane",
    network: { cidr: "10.77.0.0/24", operatorAddress: "10.77.0.1" },
    nodes: {
      node01: { role: "control-plane", address: "10.77.0.11", member: 1, components: ["chainfire", "prismnet"] },
      node02: { role: "control-plane", address: "10.77.0.12", member: 2, components: ["chainfire"], standby: ["iam"] },
    },
    config: { chainfire: { tickMs: 100, electionTicks: 12 }, prismnet: {} },
  }),
  "cluster.json",
);
const none = { patience: 1, placement: {}, config: {} };

Deno.test("withSettings() moves what runs once, and leaves replicas and nodes that are not there alone", () => {
  const moved = withSettings(file, { ...none, placement: { prismnet: "node02", chainfire: "node02", iam: "node02" } });
  assert.deepEqual(moved.nodes.node01!.components, ["chainfire"]);
  assert.deepEqual(moved.nodes.node02!.components, ["chainfire", "prismnet"]);
  assert.deepEqual(withSettings(file, { ...none, placement: { prismnet: "node09" } }).nodes, file.nodes);
});

Deno.test("withSettings() puts its settings over those of components that the cluster has", () => {
  const { config } = withSettings(file, { ...none, config: { chainfire: { tickMs: 900 }, flaredb: { tickMs: 900 } } });
  assert.deepEqual(config, { chainfire: { tickMs: 900, electionTicks: 12 }, prismnet: {} });
});

Deno.test("without() leaves components out of nodes, standby and configuration", () => {
  const { nodes, config } = without(file, ["prismnet", "iam"]);
  assert.deepEqual(nodes.node01!.components, ["chainfire"]);
  assert.deepEqual(nodes.node02!.standby, []);
  assert.deepEqual(Object.keys(config), ["chainfire"]);
});

Deno.test("readSettings() reads the settings of both substrates", async () => {
  assert.equal((await readSettings("netns")).patience, 1);
  assert.ok((await readSettings("qemu")).vm);
});
