import assert from "node:assert/strict";
import { bootstrapMetadata, type ClusterState, clusterStateSchema, parseClusterState } from "@ultracloud/cluster-state";
import { openNixBox, testUnless, workspaceRoot } from "@ultracloud/testing";

/** The Nix schema beside the one of lib/cluster-state: what one takes the other takes, and both say the same of it. */

const box = await openNixBox();
const why = typeof box === "string" ? box : undefined;
const profiles = `${workspaceRoot}/test-cluster/profiles`;

interface Evaluated {
  readonly messages: readonly string[];
  readonly state: unknown;
  readonly bootstrap: unknown;
}

/** What Nix makes of each cluster, in one evaluation. */
async function evaluate(clusters: readonly unknown[]): Promise<Evaluated[]> {
  if (typeof box === "string") throw new Error(box);
  const file = await Deno.makeTempFile({ suffix: ".json" });
  try {
    await Deno.writeTextFile(file, JSON.stringify(clusters));
    const expression = `
      let evaluate = import ${workspaceRoot}/nix/lib/cluster-schema.nix { };
          one = cluster: let result = evaluate cluster; good = result.messages == [ ]; in {
            inherit (result) messages;
            state = if good then result.state else null;
            bootstrap = if good then result.bootstrap else null;
          };
      in map one (builtins.fromJSON (builtins.readFile ${file}))`;
    return JSON.parse(await box.nix("eval", "--impure", "--json", "--expr", expression));
  } finally {
    await Deno.remove(file);
  }
}

/** As JSON has it: what is undefined is absent. */
const plain = (value: unknown): unknown => JSON.parse(JSON.stringify(value));

/** A cluster with something in every part. */
const full = {
  version: 1,
  clusterId: "lab",
  profile: "ha-control-plane",
  network: { cidr: "10.0.0.0/24", operatorAddress: "10.0.0.1" },
  nodes: {
    cp1: { role: "control-plane", address: "10.0.0.11", member: 1, components: ["chainfire"], serial: "A1" },
    w1: { role: "worker", address: "10.0.0.12", member: 2, class: "worker", pool: "native", failureDomain: "r1" },
    w2: {
      role: "worker",
      address: "10.0.0.13",
      member: 3,
      class: "worker",
      pool: "native",
      hostname: "second",
      install_plan: { expected_disk_serial: "S2" },
      desired_system: { drain: "required" },
    },
  },
  classes: {
    worker: {
      labels: { disk: "ssd" },
      install_plan: {
        nixos_configuration: "baremetal-qemu-worker",
        disko_config_path: "disks/one.nix",
        target_disk_by_id: "/dev/disk/by-id/virtio-root",
      },
      desired_system: { target_system: `/nix/store/${"b".repeat(32)}-worker-1`, health_check_command: ["/bin/check"] },
    },
  },
  pools: { native: { labels: { tier: "one" }, readyMin: 1 } },
  rollouts: { workers: { classes: ["worker"] } },
  services: {
    web: {
      command: ["/bin/web"],
      ports: { main: { port: 80 } },
      healthCheck: { kind: "http", port: "main" },
      constraints: [{ label: "disk", values: ["ssd"] }],
      replicas: 2,
    },
    log: {
      closure: `/nix/store/${"a".repeat(32)}-log-1`,
      mode: "per-node",
      affinity: [{ service: "web", rule: "prefer" }],
    },
  },
};

type Change = (cluster: typeof full & Record<string, unknown>) => void;
// deno-lint-ignore no-explicit-any -- invalid on purpose
const set = (path: string, value: unknown): Change => (cluster: any) => {
  const parts = path.split("/");
  const last = parts.pop()!;
  const at = parts.reduce((part, key) => part[key], cluster);
  if (value === undefined) delete at[last];
  else at[last] = value;
};

/** Invalid inputs and what is said of each. */
const invalid: readonly [Change, RegExp][] = [
  [set("version", 2), /^version: wanted 1, not 2$/],
  [set("version", undefined), /^version: is missing$/],
  [set("clusterId", "Lab"), /^clusterId: "Lab" does not have the form /],
  [set("clusterId", 7), /^clusterId: wanted string, not integer 7$/],
  [set("profile", "huge"), /^profile: wanted one of "single-node-dev", .*, not "huge"$/],
  [set("colour", "red"), /^colour: is not known: wanted one of \$schema, classes, /],
  [set("network/cidr", "10.0.0.0"), /^network\.cidr: "10\.0\.0\.0" does not have the form /],
  [set("network/operatorAddress", "10.9.0.1"), /^network\.operatorAddress: must be inside 10\.0\.0\.0\/24$/],
  [set("nodes", {}), /^nodes: must have a node$/],
  [set("nodes/cp1/role", "boss"), /^nodes\.cp1\.role: wanted one of /],
  [set("nodes/cp1/address", "10.0.1.11"), /^nodes\.cp1\.address: must be inside 10\.0\.0\.0\/24$/],
  [set("nodes/cp1/address", "10.0.0.300"), /^nodes\.cp1\.address: "10\.0\.0\.300" does not have the form /],
  [set("nodes/w1/address", "10.0.0.11"), /^nodes\.w1\.address: is the address of cp1$/],
  [set("nodes/cp1/address", "10.0.0.1"), /^nodes\.cp1\.address: is the address of the operator$/],
  [set("nodes/w1/member", 1), /^nodes\.w1\.member: is the member of cp1$/],
  [set("nodes/w1/member", 0), /^nodes\.w1\.member: wanted at least 1, not 0$/],
  [set("nodes/w1/serial", "A1"), /^nodes\.w1\.serial: is the serial of cp1$/],
  [
    set("nodes/w1/class", "ghost"),
    /^nodes\.w1\.class: names the class ghost, which is not there: wanted one of worker$/,
  ],
  [set("nodes/w1/pool", "ghost"), /^nodes\.w1\.pool: names the pool ghost/],
  [set("nodes/cp1/standby", ["chainfire"]), /^nodes\.cp1\.standby: chainfire runs here already$/],
  [set("nodes/Bad_Name", { role: "worker", address: "10.0.0.20", member: 9 }), /^nodes\.Bad_Name: as a name: /],
  [
    set("classes/worker/install_plan", { nixos_configuration: "x" }),
    /^nodes\.w1\.install_plan\.disko_config_path: disko_config_path is missing or wrong here and in its class: is missing$/,
  ],
  [set("nodes/w2/desired_system", { activation: "later" }), /^nodes\.w2\.desired_system\.activation: wanted one of /],
  [
    set("nodes/w2/install_plan", { expected_disk_bytes_min: 5, expected_disk_bytes_max: 4 }),
    /^nodes\.w2\.install_plan\.expected_disk_bytes_max: must not be below expected_disk_bytes_min$/,
  ],
  [
    set("classes/worker/install_plan/target_disk_by_id", "/dev/sda"),
    /target_disk_by_id: "\/dev\/sda" does not have the form /,
  ],
  [set("pools/native/readyMin", -1), /^pools\.native\.readyMin: wanted at least 0, not -1$/],
  [set("rollouts/workers/classes", ["ghost"]), /^rollouts\.workers\.classes\.0: names the class ghost/],
  [set("rollouts/workers/classes", []), /^rollouts\.workers: must name classes, pools or nodes$/],
  [set("rollouts/again", { pools: ["native"] }), /^rollouts\.workers: covers w1, which again covers already$/],
  [
    set("services/web/command", undefined),
    /^services\.web\.command: must be there when closure is not, and only then$/,
  ],
  [set("services/log/closure", "/nix/store/short"), /^services\.log\.closure: .* does not have the form /],
  [set("services/web/replicas", 1.5), /^services\.web\.replicas: wanted integer, not number 1\.5$/],
  [set("services/web/ports/main/port", 70_000), /^services\.web\.ports\.main\.port: wanted at most 65535, not 70000$/],
  [
    set("services/web/healthCheck", { kind: "ping" }),
    /^services\.web\.healthCheck: wanted kind = "http" or kind = "tcp"/,
  ],
  [
    set("services/web/healthCheck/port", "none"),
    /^services\.web\.healthCheck\.port: must name a TCP port of the service, not none$/,
  ],
  [
    set("services/web/constraints", [{ label: "disk" }]),
    /^services\.web\.constraints\.0\.values: must hold what in compares with$/,
  ],
  [set("services/log/affinity/0/service", "ghost"), /^services\.log\.affinity\.0\.service: names the service ghost/],
  [
    set("services/web/restart", { backoffMsMin: 10, backoffMsMax: 5 }),
    /^services\.web\.restart\.backoffMsMax: must not be below backoffMsMin$/,
  ],
  [
    set("services/web/volumes", [{ path: "/a/../etc" }]),
    /^services\.web\.volumes\.0\.path: .* does not have the form /,
  ],
  [
    set("services/web/secrets", [{ name: "k", file: "/a" }, { name: "k", file: "/b" }]),
    /^services\.web\.secrets\.1\.name: k is there twice$/,
  ],
];

testUnless(
  "Nix fills in a cluster as the schema of the components does: equal states, equal bootstrap metadata",
  why,
  async () => {
    const files = [...Deno.readDirSync(profiles)].map(({ name }) => name).filter((name) => name.endsWith(".json"))
      .sort();
    const inputs = [full, ...files.map((name) => JSON.parse(Deno.readTextFileSync(`${profiles}/${name}`)))];
    const results = await evaluate(inputs);
    for (const [i, input] of inputs.entries()) {
      const ours: ClusterState = parseClusterState(JSON.stringify(input), files[i - 1] ?? "full");
      assert.deepEqual(results[i]!.messages, []);
      assert.deepEqual(results[i]!.state, plain(ours));
      const bootstrap = Object.fromEntries(
        Object.keys(ours.nodes).map((name) => [name, bootstrapMetadata(ours, name)]),
      );
      assert.deepEqual(results[i]!.bootstrap, plain(bootstrap));
    }
  },
);

testUnless("Nix refuses what the components refuse, each with the path and what was wanted", why, async () => {
  const clusters = invalid.map(([change]) => {
    const cluster = structuredClone(full);
    change(cluster);
    return cluster;
  });
  const results = await evaluate(clusters);
  for (const [i, [, wanted]] of invalid.entries()) {
    assert.ok(
      results[i]!.messages.some((message) => wanted.test(message)),
      `${wanted}: ${results[i]!.messages.join("; ")}`,
    );
    assert.equal(clusterStateSchema.safeParse(clusters[i]).success, false, `${wanted}: the components take it`);
  }
});
