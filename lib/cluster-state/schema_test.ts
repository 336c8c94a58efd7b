import assert from "node:assert/strict";
import {
  bootstrapMetadata,
  type ClusterStateInput,
  desiredSystemOf,
  diffStates,
  installPlanOf,
  labelsOf,
  nodesWith,
  parseClusterState,
  rolloutNodes,
  rolloutOf,
} from "./mod.ts";

const system = (letter: string) => `/nix/store/${letter.repeat(32)}-nixos-system`;

const good = {
  version: 1,
  clusterId: "test",
  profile: "ha-control-plane",
  network: { cidr: "10.77.0.0/24", operatorAddress: "10.77.0.1" },
  nodes: {
    node01: { role: "control-plane", address: "10.77.0.11", member: 1, components: ["chainfire", "iam"] },
    node02: {
      role: "worker",
      address: "10.77.0.12",
      member: 2,
      components: ["vm-agent"],
      standby: ["chainfire"],
      class: "worker",
      pool: "general",
      serial: "SN-2",
      labels: { disk: "ssd" },
      install_plan: { target_disk_by_id: "/dev/disk/by-id/virtio-other" },
    },
    node03: { role: "worker", address: "10.77.0.13", member: 3, class: "worker", desired_system: { intent: "again" } },
  },
  classes: {
    worker: {
      labels: { tier: "work" },
      install_plan: {
        nixos_configuration: "worker",
        disko_config_path: "disko/worker.nix",
        target_disk_by_id: "/dev/disk/by-id/virtio-uc-worker-root",
        expected_disk_bytes_min: 1,
      },
      desired_system: { target_system: system("a"), health_check_command: ["/bin/health"] },
    },
  },
  pools: { general: { labels: { pooled: "yes" } } },
  rollouts: { workers: { classes: ["worker"], batchSize: 2 } },
  services: {
    web: { command: ["/bin/web"], ports: { http: { port: 8080 } }, healthCheck: { kind: "http", port: "http" } },
    cache: { closure: system("b"), affinity: [{ service: "web", rule: "prefer" }], pools: ["general"] },
  },
} satisfies ClusterStateInput;

const parse = (value: unknown) => parseClusterState(JSON.stringify(value), "c.json");

Deno.test("a node has its class's plan and system with its own values over them", () => {
  const cluster = parse(good);
  assert.deepEqual(nodesWith(cluster, "chainfire"), ["node01"]);
  assert.deepEqual(installPlanOf(cluster, "node02"), {
    ...good.classes.worker.install_plan,
    target_disk_by_id: "/dev/disk/by-id/virtio-other",
    wipe_existing_data: false,
    target_system: system("a"),
  });
  assert.equal(installPlanOf(cluster, "node01"), undefined);
  assert.equal(desiredSystemOf(cluster, "node03")?.intent, "again");
  assert.equal(desiredSystemOf(cluster, "node03")?.target_system, system("a"));
  assert.deepEqual(labelsOf(cluster, "node02"), {
    pooled: "yes",
    pool: "general",
    tier: "work",
    class: "worker",
    disk: "ssd",
    node: "node02",
    role: "worker",
  });
  assert.deepEqual(rolloutNodes(cluster, "workers"), ["node02", "node03"]);
  assert.equal(rolloutOf(cluster, "node01"), undefined);
  assert.equal(bootstrapMetadata(cluster, "node02")?.hostname, "node02");
  assert.equal(bootstrapMetadata(cluster, "node09"), undefined);
});

Deno.test("parseClusterState() names the path of what is wrong", () => {
  // deno-lint-ignore no-explicit-any -- the point is to write what the type forbids
  const cases: [change: (file: any) => void, wanted: RegExp][] = [
    [(f) => f.nodes.node02.address = "10.78.0.12", /must be inside 10\.77\.0\.0\/24\s+→ at nodes\.node02\.address/],
    [(f) => f.nodes.node02.address = "10.77.0.11", /is the address of node01/],
    [(f) => f.nodes.node02.address = "10.77.0.1", /is the address of the operator/],
    [(f) => f.nodes.node02.member = 1, /is the member of node01/],
    [(f) => f.nodes.node03.serial = "SN-2", /is the serial of node02\s+→ at nodes\.node03\.serial/],
    [(f) => f.nodes.node02.components.push("chainfire"), /chainfire runs here already/],
    [(f) => f.network.operatorAddress = "192.168.0.1", /must be inside/],
    [(f) => f.clusterId = "Test", /→ at clusterId/],
    [(f) => f.extra = 1, /extra/],
    [(f) => f.nodes = {}, /must have a node\s+→ at nodes/],
    [(f) => f.nodes.node03.class = "none", /names the class none, .* one of worker\s+→ at nodes\.node03\.class/],
    [(f) => f.nodes.node03.pool = "none", /→ at nodes\.node03\.pool/],
    [(f) => delete f.classes.worker.install_plan.nixos_configuration, /→ at nodes\.node02\.install_plan\.nixos_config/],
    [(f) => f.nodes.node01.desired_system = { drain: "skip" }, /→ at nodes\.node01\.desired_system\.target_system/],
    [(f) => f.classes.worker.install_plan.target_disk_by_id = "/dev/sda", /stable name.*\s+→ at classes\.worker\.inst/],
    [(f) => f.classes.worker.install_plan.disko_config_path = "../x", /→ at classes\.worker\.install_plan\.disko/],
    [(f) => f.classes.worker.install_plan.expected_disk_bytes_max = 0, /expected_disk_bytes_max/],
    [(f) => f.classes.worker.desired_system.target_system = "/nix/store/x", /wanted a store path/],
    [(f) => f.rollouts.workers.classes.push("none"), /→ at rollouts\.workers\.classes\[1\]/],
    [
      (f) => f.rollouts.more = { nodes: ["node02"] },
      /covers node02, which workers covers already\s+→ at rollouts\.more/,
    ],
    [(f) => f.rollouts.more = {}, /must name classes, pools or nodes\s+→ at rollouts\.more/],
    [(f) => f.services.web.closure = system("c"), /→ at services\.web\.command/],
    [(f) => f.services.web.healthCheck.port = "none", /must name a TCP port.*\s+→ at services\.web\.healthCheck\.port/],
    [(f) => f.services.cache.affinity[0].service = "db", /→ at services\.cache\.affinity\[0\]\.service/],
    [(f) => f.services.web.volumes = [{ path: "/a/../b" }], /→ at services\.web\.volumes\[0\]\.path/],
    [(f) => f.services.web.constraints = [{ label: "a" }], /→ at services\.web\.constraints\[0\]\.values/],
    [(f) => f.deployer = { trustedKeys: ["x"] }, /→ at deployer\.trustedKeys\[0\]/],
  ];
  for (const [change, wanted] of cases) {
    const file = structuredClone(good);
    change(file);
    assert.throws(
      () => parse(file),
      (error: Error) => wanted.test(error.message) || assert.fail(`${wanted}: ${error}`),
    );
  }
  assert.throws(() => parseClusterState("{", "c.json"), /Cannot read c\.json as JSON/);
  assert.throws(() => parseClusterState(" ".repeat(2 ** 23 + 1), "c.json"), /wanted at most/);
});

Deno.test("diffStates() tells paths with both values, whatever the order of keys", () => {
  const before = parse(good);
  const changed = structuredClone(good);
  changed.classes.worker.desired_system.target_system = system("c");
  Object.assign(changed.nodes, {
    node04: { role: "worker", address: "10.77.0.14", member: 4 },
  });
  const after = parse(Object.fromEntries(Object.entries(changed).reverse()));
  assert.deepEqual(diffStates(before, before), []);
  assert.deepEqual(diffStates(before, after), [
    { path: "classes.worker.desired_system.target_system", before: system("a"), after: system("c") },
    { path: "nodes.node04", after: after.nodes.node04 },
  ]);
  assert.deepEqual(diffStates(undefined, before), [{ path: "", after: before }]);
});
