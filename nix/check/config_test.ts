import assert from "node:assert/strict";
import type { ComponentManifest } from "@ultracloud/base";
import { type ClusterState, parseClusterState } from "@ultracloud/cluster-state";
import { type ClusterFile, loadFleet } from "@ultracloud/launch";
import { workspaceRoot } from "@ultracloud/testing";
import { parse } from "smol-toml";
import type { z } from "zod";
import { configOf } from "../../test-cluster/harness/node_config.ts";
import { askOnce, testWithLibraries } from "./_flake.ts";

/** config.toml of each component on each host: taken by the component, and what the test cluster would write. */

interface Host {
  readonly node: string | null;
  readonly cluster: unknown;
  /** config.toml by component. */
  readonly texts: Record<string, string>;
}

const hosts = `builtins.mapAttrs (_: { config, ... }:
  let here = builtins.filter (name: config.ultracloud.components.\${name}.enable) (builtins.attrNames config.ultracloud.components);
  in {
    inherit (config.ultracloud) node;
    cluster = config.ultracloud.clusterState;
    texts = builtins.listToAttrs (map (name: {
      inherit name;
      value = config.environment.etc."ultracloud/\${name}/config.toml".text;
    }) here);
  })`;

const systemsOf = askOnce<Record<string, Host>>("nixosConfigurations", hosts);
const fleet = await loadFleet(workspaceRoot);
const manifests: ReadonlyMap<string, ComponentManifest> = new Map(
  [...fleet].map(([name, { manifest }]) => [name, manifest]),
);

async function schemaOf(component: string): Promise<z.ZodType> {
  const { configSchema } = await import(`${fleet.get(component)!.dir}/config.ts`) as { configSchema: z.ZodType };
  return configSchema;
}

testWithLibraries("each component takes the configuration that its host gives it", async (library) => {
  const systems = await systemsOf(library);
  let count = 0;
  for (const [host, { texts }] of Object.entries(systems)) {
    for (const [component, text] of Object.entries(texts)) {
      const result = (await schemaOf(component)).safeParse(parse(text));
      assert.ok(result.success, `${component} on ${host}: ${result.error?.message}`);
      count++;
    }
  }
  console.log(`    ${count} configurations`);
});

/** What the test cluster writes, with secrets where systemd puts them and without what is its own. */
function asOnAHost(config: Record<string, unknown>, component: string, state: ClusterState): unknown {
  const etc = "/etc/ultracloud";
  const credentials = `/run/credentials/${component}.service`;
  const secrets = ["admin.token", "signing.key", "master.key", "authority.crt", "authority.key", "identity.key"];
  const moved = JSON.parse(JSON.stringify(config), (key, value) => {
    if (typeof value !== "string" || !value.startsWith(`${etc}/`)) return value;
    const [owner, file] = value.slice(etc.length + 1).split("/") as [string, string | undefined];
    if (!secrets.includes(file ?? "")) return value;
    // mtls-agent has the identities of all others, each under its owner's name.
    return key === "identityKeyFile" && owner !== component
      ? `${credentials}/${owner}.${file}`
      : `${credentials}/${file}`;
  });
  if (component === "mtls-agent") {
    for (const one of moved.certificates) {
      if (one.identity === "svc/mtls-agent") one.identityKeyFile = `${credentials}/mtls-agent.identity.key`;
    }
  }
  // Several hosts on one machine; here the agent has the whole one.
  if (component === "nix-agent") { for (const key of ["root", "bootIdFile"]) delete moved[key]; }
  if (component === "deployer" && state.deployer.url) moved.bootstrap.url = state.deployer.url;
  return moved;
}

testWithLibraries("a node is configured as the test cluster configures it", async (library) => {
  const systems = await systemsOf(library);
  const dirs = { etc: "/etc/ultracloud", state: "/var/lib/ultracloud", run: "/run/ultracloud" };
  let count = 0;
  for (const host of ["node01", "node02", "node03"]) {
    const { cluster, node, texts } = systems[host]!;
    const state = parseClusterState(JSON.stringify(cluster), host);
    for (const [component, text] of Object.entries(texts)) {
      const wanted = configOf(
        state as ClusterFile,
        manifests,
        node!,
        component,
        dirs as Parameters<typeof configOf>[4],
      );
      assert.deepEqual(
        JSON.parse(JSON.stringify(parse(text))),
        asOnAHost(wanted, component, state),
        `${component} on ${host}`,
      );
      count++;
    }
  }
  console.log(`    ${count} configurations, equal to the harness's`);
});
