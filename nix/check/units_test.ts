import assert from "node:assert/strict";
import { permissionsOf } from "@ultracloud/base";
import { type FleetMember, loadFleet } from "@ultracloud/launch";
import { parseClusterState } from "@ultracloud/cluster-state";
import { workspaceRoot } from "@ultracloud/testing";
import { productionPlacement } from "../../cli/dev/_fleet_table.ts";
import { expectedUnit, type Programs } from "./_expected_unit.ts";
import { askOnce, openFlake, testWithLibraries } from "./_flake.ts";

/** What every system gives every component, held against its component.json. */

interface Unit {
  readonly serviceConfig: Record<string, unknown>;
  readonly path: readonly string[];
  readonly restartIfChanged: boolean;
  readonly stopIfChanged: boolean;
  readonly permissions: readonly string[];
  readonly listen: string;
}
interface Host {
  readonly units: Record<string, Unit>;
  readonly users: Record<string, { group: string; isSystemUser: boolean }>;
  readonly groups: readonly string[];
  readonly tcp: readonly number[];
  readonly udp: readonly number[];
  readonly tmpfiles: readonly string[];
  readonly peers: string;
  readonly cluster: unknown;
}

const hosts = `builtins.mapAttrs (_: system:
  let
    inherit (system) config;
    here = builtins.filter (name: config.ultracloud.components.\${name}.enable) (builtins.attrNames config.ultracloud.components);
    plain = builtins.unsafeDiscardStringContext;
  in {
    units = builtins.listToAttrs (map (name: {
      inherit name;
      value = {
        inherit (config.systemd.services.\${name}) serviceConfig restartIfChanged stopIfChanged;
        path = map (package: package.name) config.systemd.services.\${name}.path;
        inherit (config.ultracloud.components.\${name}.package.passthru) permissions;
        listen = config.ultracloud.components.\${name}.listenAddress;
      };
    }) here);
    users = builtins.mapAttrs (_: user: { inherit (user) group isSystemUser; }) config.users.users;
    groups = builtins.attrNames config.users.groups;
    tcp = config.networking.firewall.allowedTCPPorts;
    udp = config.networking.firewall.allowedUDPPorts;
    tmpfiles = config.systemd.tmpfiles.rules;
    peers = config.ultracloud.peersCidr;
    cluster = config.ultracloud.clusterState;
  })`;

const systemsOf = askOnce<Record<string, Host>>("nixosConfigurations", hosts);
const fleet = await loadFleet(workspaceRoot);
const programs: Programs = JSON.parse(await Deno.readTextFile(`${workspaceRoot}/nix/lib/programs.json`));
/** Lists of a unit have no order. */
const sorted = (value: unknown): unknown => Array.isArray(value) ? [...value].sort() : value;
const unordered = (set: Readonly<Record<string, unknown>>) =>
  Object.fromEntries(Object.entries(set).map(([key, value]) => [key, sorted(value)]));

function judgeUnit(host: string, member: FleetMember, unit: Unit): void {
  const { manifest } = member;
  const { name } = manifest;
  const at = `${name} on ${host}`;
  const expected = expectedUnit(manifest, fleet, programs);
  const { ExecStart, LoadCredential, ...rest } = unit.serviceConfig;
  const foreign = name === "installer" ? ["StandardOutput", "StandardError"] : [];
  for (const key of foreign) delete rest[key];
  assert.deepEqual(unordered(rest), unordered(expected.serviceConfig), at);
  assert.match(String(ExecStart), new RegExp(`/bin/${name} --config /etc/ultracloud/${name}/config\\.toml$`), at);
  // Only secrets, each from the directory that is root's alone; a tool has none.
  const credentials = LoadCredential as string[];
  if (manifest.kind === "tool") assert.deepEqual(credentials, [], at);
  else assert.ok(credentials.includes(`identity.key:/var/lib/ultracloud/credentials/${name}/identity.key`), at);
  for (const one of credentials) {
    assert.match(one, /^[a-z.-]+:\/var\/lib\/ultracloud\/credentials\/[a-z-]+\/[a-z.]+$/, at);
  }
  // The just-in-time compiler needs pages that it may write and then run.
  assert.ok(!("MemoryDenyWriteExecute" in unit.serviceConfig), at);
  for (const name of expected.packages) assert.ok(unit.path.includes(name), `${at}: its PATH lacks ${name}`);
  const extra = name === "installer" ? ["ultracloud-disko"] : [];
  assert.deepEqual(unit.path.filter((name) => !expected.packages.includes(name) && !extra.includes(name)), [], at);
  assert.equal(unit.restartIfChanged, expected.restartIfChanged, at);
  assert.equal(unit.stopIfChanged, expected.restartIfChanged, at);
}

testWithLibraries("each unit is hardened as its component.json says, in every system", async (library) => {
  using flake = await openFlake(library);
  const systems = await systemsOf(library);
  let count = 0;
  const seen = new Set<string>();
  for (const [host, { units, users, groups, tmpfiles }] of Object.entries(systems)) {
    for (const [name, unit] of Object.entries(units)) {
      judgeUnit(host, fleet.get(name)!, unit);
      const user = String(unit.serviceConfig.User);
      if (user !== "root") {
        assert.deepEqual(users[user], { group: user, isSystemUser: true }, `${user} on ${host}`);
        assert.ok(groups.includes(user), `${user} on ${host}`);
      }
      const group = String(unit.serviceConfig.Group);
      assert.ok(tmpfiles.includes(`d /etc/ultracloud/${name} 0750 ${user} ${group} -`), `${name} on ${host}`);
      seen.add(name);
      count++;
    }
  }
  console.log(`    ${count} units of ${seen.size} components in ${Object.keys(systems).length} systems`);
  // What no canonical system runs is tried in one that runs everything.
  const rest = [...fleet.keys()].filter((name) => !seen.has(name));
  const enable = rest.map((name) => `ultracloud.components.${name}.enable = true;`).join(" ");
  const all = await flake.eval<Record<string, Host>>(
    "nixosConfigurations.ultracloud-iso",
    `system: (${hosts}) { all = system.extendModules { modules = [ { ${enable} } ]; }; }`,
  );
  for (const name of rest) judgeUnit("a host with everything", fleet.get(name)!, all.all!.units[name]!);
  if (rest.length > 0) console.log(`    and of ${rest.join(", ")}, which no canonical system runs`);
});

testWithLibraries("a unit that is less confined than its manifest asks for is found", async (library) => {
  using flake = await openFlake(library);
  await flake.edit("nix/lib/unit.nix", (text) => text.replace("ProtectHome = true;", "ProtectHome = false;"));
  const systems = await flake.eval<Record<string, Host>>(
    "nixosConfigurations",
    `systems: (${hosts}) { inherit (systems) node01; }`,
  );
  const { chainfire } = systems.node01!.units;
  assert.throws(() => judgeUnit("node01", fleet.get("chainfire")!, chainfire!), /chainfire on node01/);
});

testWithLibraries("programs are compiled with exactly the permissions of their manifests", async (library) => {
  using flake = await openFlake(library);
  const systems = await systemsOf(library);
  for (const [host, { units, peers }] of Object.entries(systems)) {
    for (const [name, { permissions, listen }] of Object.entries(units)) {
      const { manifest } = fleet.get(name)!;
      const wanted = permissionsOf(manifest, productionPlacement(manifest, fleet, { listen, peers }));
      assert.deepEqual(permissions, wanted, `${name} on ${host}`);
    }
  }
  const packages = await flake.eval<Record<string, string[]>>(
    "packages.x86_64-linux",
    `packages: builtins.listToAttrs (map (name: { inherit name; value = packages.\${name}.passthru.permissions; }) (builtins.fromJSON ${
      JSON.stringify(JSON.stringify([...fleet.keys()]))
    }))`,
  );
  for (const [name, permissions] of Object.entries(packages)) {
    const { manifest } = fleet.get(name)!;
    // As `deno task build` bakes them.
    const site = { listen: "0.0.0.0", peers: "10.0.0.0/8" };
    assert.deepEqual(permissions, permissionsOf(manifest, productionPlacement(manifest, fleet, site)), name);
  }
});

testWithLibraries("the firewall opens what components listen on, on hosts that others reach", async (library) => {
  const systems = await systemsOf(library);
  for (const [host, { units, tcp, udp }] of Object.entries(systems)) {
    const open = Object.entries(units).filter(([, { listen }]) => !listen.startsWith("127."));
    const expected = open.map(([name]) => expectedUnit(fleet.get(name)!.manifest, fleet, programs));
    assert.deepEqual([...tcp].sort(), expected.flatMap((unit) => unit.tcp).sort(), host);
    assert.deepEqual([...udp].sort(), expected.flatMap((unit) => unit.udp).sort(), host);
  }
  assert.deepEqual(systems["single-node-quickstart"]!.tcp, [], "the trial machine is nobody else's");
});

testWithLibraries("the clusters of the systems are what the components' own schema makes of them", async (library) => {
  const systems = await systemsOf(library);
  let count = 0;
  for (const [host, { cluster }] of Object.entries(systems)) {
    if (cluster === null) continue;
    // Golden: the state that Nix generates is fixed under the parser of deployer, fleet-scheduler and test cluster.
    assert.deepEqual(JSON.parse(JSON.stringify(parseClusterState(JSON.stringify(cluster), host))), cluster, host);
    count++;
  }
  assert.equal(count, 6);
});
