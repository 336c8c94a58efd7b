import assert from "node:assert/strict";
import { type Library, openFlake, testWithLibraries } from "./_flake.ts";

/** Planted mistakes: each is an edit that somebody might make, and what the evaluation must say of it. */

interface Mistake {
  readonly name: string;
  /** The system that is changed. */
  readonly system: string;
  /** A NixOS module; `cluster` is that of the system, `lib` nixpkgs'. */
  readonly module: string;
  readonly says: RegExp;
}

const withCluster = (change: string) =>
  `{ ultracloud.cluster = lib.mkForce (let edit = lib.recursiveUpdate cluster; in ${change}); }`;
/** The same component list for a node, without one name. */
const without = (node: string, name: string) =>
  `nodes.${node}.components = builtins.filter (it: it != "${name}") cluster.nodes.${node}.components;`;

const mistakes: readonly Mistake[] = [
  {
    name: "a wrong port",
    system: "node01",
    module: `{ ultracloud.components.chainfire.settings = lib.mkForce { rpc.listen = "10.77.0.11:7999"; }; }`,
    says:
      /^ultracloud\.components\.chainfire\.settings\.rpc\.listen is 10\.77\.0\.11:7999: wanted port 7100 of services\/chainfire\/component\.json/,
  },
  {
    name: "a wrong peer port",
    system: "node01",
    module: `{ ultracloud.components.flaredb.settings = lib.mkForce { peer.listen = "10.77.0.11:7101"; }; }`,
    says: /^ultracloud\.components\.flaredb\.settings\.peer\.listen is 10\.77\.0\.11:7101: wanted port 7111 /,
  },
  {
    name: "no deployer in the HA control plane",
    system: "node01",
    module: withCluster(`edit { ${without("node01", "deployer")} }`),
    says: /^ultracloud\.cluster: ha-control-plane requires deployer, which runs on no node$/,
  },
  {
    name: "a control-plane node without iam",
    system: "node02",
    module: withCluster(`edit { ${without("node02", "iam")} }`),
    says: /^ultracloud\.cluster: ha-control-plane requires iam on each control-plane node, and node02 lacks it$/,
  },
  {
    name: "a control-plane node without nix-agent",
    system: "node03",
    module: withCluster(`edit { ${without("node03", "nix-agent")} }`),
    says: /requires nix-agent on each control-plane node, and node03 lacks it$/,
  },
  {
    name: "a bare-metal cluster without first-boot-automation",
    system: "baremetal-qemu-worker",
    module: withCluster(
      `edit { ${without("baremetal-qemu-worker", "first-boot-automation")} ${
        without("baremetal-qemu-control-plane", "first-boot-automation")
      } }`,
    ),
    says: /^ultracloud\.cluster: bare-metal-bootstrap requires first-boot-automation, which runs on no node$/,
  },
  {
    name: "a single node with deployer",
    system: "single-node-quickstart",
    module: withCluster(
      `edit { nodes.single-node.components = cluster.nodes.single-node.components ++ [ "deployer" ]; }`,
    ),
    says: /^ultracloud\.cluster: deployer on single-node is no part of single-node-dev: wanted one of chainfire, /,
  },
  {
    name: "a single node with node-agent",
    system: "single-node-quickstart",
    module: withCluster(`edit { nodes.single-node.standby = [ "node-agent" ]; }`),
    says: /^ultracloud\.cluster: node-agent on single-node is no part of single-node-dev/,
  },
  {
    name: "a component of the profile that this workspace does not have",
    system: "single-node-quickstart",
    module: withCluster(
      `edit { nodes.single-node.components = cluster.nodes.single-node.components ++ [ "nightlight" ]; }`,
    ),
    says:
      /^ultracloud\.cluster: nightlight on single-node is not in this workspace: no services\/nightlight or agents\/nightlight$/,
  },
  {
    name: "a component that the cluster says nothing of",
    system: "node03",
    module: `{ ultracloud.components.deployer.enable = true; }`,
    says: /^ultracloud\.components\.deployer is enabled here, but ultracloud\.cluster says nothing of it on node03$/,
  },
  {
    name: "a duplicate node id",
    system: "node01",
    module: withCluster(`edit { nodes.node02.member = 1; }`),
    says: /^ultracloud\.cluster: nodes\.node02\.member: is the member of node01$/,
  },
  {
    name: "a duplicate address",
    system: "node01",
    module: withCluster(`edit { nodes.node02.address = "10.77.0.11"; }`),
    says: /^ultracloud\.cluster: nodes\.node02\.address: is the address of node01$/,
  },
  {
    name: "an address outside the network",
    system: "node01",
    module: withCluster(`edit { nodes.node02.address = "10.78.0.12"; }`),
    says: /^ultracloud\.cluster: nodes\.node02\.address: must be inside 10\.77\.0\.0\/24$/,
  },
  {
    name: "a class that is not there",
    system: "node01",
    module: withCluster(`edit { nodes.node04.class = "ghost"; }`),
    says: /^ultracloud\.cluster: nodes\.node04\.class: names the class ghost, which is not there/,
  },
  {
    name: "two rollouts over one node",
    system: "node01",
    module: withCluster(`edit { rollouts.again = { nodes = [ "node04" ]; }; }`),
    says: /^ultracloud\.cluster: rollouts\.workers: covers node04, which again covers already$/,
  },
  {
    name: "a misspelt field of the cluster",
    system: "node01",
    module: withCluster(`edit { nodes.node01.adress = "10.77.0.11"; }`),
    says: /^ultracloud\.cluster: nodes\.node01\.adress: is not known: wanted one of /,
  },
  {
    name: "a disk by a name that changes",
    system: "baremetal-qemu-worker",
    module: withCluster(`edit { classes.worker.install_plan.target_disk_by_id = "/dev/sda"; }`),
    says: /target_disk_by_id: "\/dev\/sda" does not have the form /,
  },
  {
    name: "a node that is not in the cluster",
    system: "node01",
    module: `{ ultracloud.node = lib.mkForce "node99"; }`,
    says: /^ultracloud\.node: node99 is no node of the cluster: wanted one of node01, node02, /,
  },
  {
    name: "a VLAN on an interface that is not described",
    system: "node01",
    module: `{ nix-nos.vlans.storage = { id = 20; interface = "eno9"; }; nix-nos.interfaces.eno1 = { }; }`,
    says: /^nix-nos\.vlans\.storage\.interface is eno9: wanted one of eno1$/,
  },
  {
    name: "two VLANs of one id on one interface",
    system: "node01",
    module:
      `{ nix-nos.interfaces.eno1 = { }; nix-nos.vlans.a = { id = 20; interface = "eno1"; }; nix-nos.vlans.b = { id = 20; interface = "eno1"; }; }`,
    says: /^nix-nos\.vlans\.a\.id is 20, which another VLAN of eno1 has$/,
  },
  {
    name: "a static route by an unknown interface",
    system: "node01",
    module:
      `{ nix-nos.staticRoutes = [ { destination = "10.1.0.0/16"; gateway = "10.77.0.1"; interface = "eno7"; } ]; }`,
    says: /^nix-nos\.staticRoutes: 10\.1\.0\.0\/16 leaves by eno7/,
  },
  {
    name: "BGP without an AS number",
    system: "node01",
    module: `{ nix-nos.bgp = { enable = true; routerId = "10.77.0.11"; }; }`,
    says: /^nix-nos\.bgp needs asn and routerId$/,
  },
];

/** What the assertions of each changed system say, and whether its toplevel can still be had. */
const judge = `systems: builtins.mapAttrs (_: { system, change }:
  let
    original = systems.\${system};
    changed = original.extendModules { modules = [ ({ lib, ... }: change lib original.config.ultracloud.cluster) ]; };
  in {
    says = map (it: it.message) (builtins.filter (it: !it.assertion) changed.config.assertions);
    builds = (builtins.tryEval changed.config.system.build.toplevel.drvPath).success;
  })`;

async function judged(library: Library): Promise<Record<string, { says: string[]; builds: boolean }>> {
  using flake = await openFlake(library);
  const cases = mistakes.map(({ name, system, module }) =>
    `${JSON.stringify(name)} = { system = "${system}"; change = lib: cluster: ${module}; };`
  );
  const none = `none = { system = "node01"; change = lib: cluster: { }; };`;
  return await flake.eval("nixosConfigurations", `systems: (${judge}) systems { ${none} ${cases.join(" ")} }`);
}

testWithLibraries("each planted mistake trips its assertion, and the system with it", async (library) => {
  const verdicts = await judged(library);
  assert.deepEqual(verdicts.none, { says: [], builds: true }, "without a mistake nothing is said");
  for (const { name, says } of mistakes) {
    const verdict = verdicts[name]!;
    assert.ok(verdict.says.some((text) => says.test(text)), `${name}: ${verdict.says.join("; ") || "nothing is said"}`);
    assert.equal(verdict.builds, false, `${name}: its system can be built`);
  }
  console.log(`    ${mistakes.length} mistakes, each refused by its name`);
});

testWithLibraries("what is no option, or of a wrong type, is refused by name", async (library) => {
  using flake = await openFlake(library);
  const refused: readonly [string, RegExp][] = [
    [`{ ultracloud.components.etcd.enable = true; }`, /option `ultracloud\.components\.etcd' does not exist/],
    [`{ ultracloud.components.iam.lisenAddress = "::1"; }`, /iam\.lisenAddress' does not exist/],
    [`{ nix-nos.cluster = { }; }`, /option `nix-nos\.cluster' does not exist/],
    [`{ nix-nos.vlans.x = { id = 5000; interface = "eno1"; }; }`, /nix-nos\.vlans\.x\.id' is not of type/],
    [`{ ultracloud.node = 7; }`, /ultracloud\.node' is not of type/],
  ];
  for (const [module, says] of refused) {
    const apply =
      `system: let c = (system.extendModules { modules = [ ${module} ]; }).config; in builtins.seq c.nix-nos.interfaces (builtins.deepSeq (builtins.attrNames c.ultracloud.components) (builtins.toJSON [ c.system.build.toplevel.drvPath ]))`;
    await assert.rejects(flake.eval("nixosConfigurations.node01", apply), says, module);
  }
});

testWithLibraries(
  "a manifest that names an unknown program, or another component, stops the evaluation",
  async (library) => {
    {
      using flake = await openFlake(library);
      await flake.edit("services/iam/component.json", (text) => text.replace(`"kind"`, `"run": ["telnet"], "kind"`));
      await assert.rejects(
        flake.eval("nixosConfigurations.node01.config.systemd.services.iam.serviceConfig.User", "user: user"),
        /Cannot say what iam needs: nix\/lib\/programs\.json has no telnet/,
      );
    }
    using flake = await openFlake(library);
    await flake.edit("services/iam/component.json", (text) => text.replace(`"name": "iam"`, `"name": "mai"`));
    await assert.rejects(flake.eval("lib.fleet", "fleet: fleet.iam.dir"), /its name is mai, wanted iam/);
  },
);

testWithLibraries("an archived helper that comes back is refused by the surface guard", async (library) => {
  using flake = await openFlake(library);
  await flake.edit(
    "nix/systems/default.nix",
    (text) => text.replace("  ultracloud-iso =", "  netboot-worker = single-node-quickstart;\n  ultracloud-iso ="),
  );
  await assert.rejects(
    flake.eval("checks.x86_64-linux.supported-surface-guard.drvPath", "path: path"),
    /The flake offers what is archived: netboot-worker/,
  );
});
