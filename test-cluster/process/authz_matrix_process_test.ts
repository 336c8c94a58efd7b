import assert from "node:assert/strict";
import { netAgentService } from "@ultracloud/net-agent";
import { builtinRoles, grantedPrincipals, permissionMatches, standardGrants } from "@ultracloud/authz";
import { loadFleet, type Stack } from "@ultracloud/launch";
import type { AuthorisationRow } from "@ultracloud/rpc";
import { serveLocally, startTestStack, workspaceRoot } from "@ultracloud/testing";
import { singleNodeComponents } from "@ultracloud/cli";

const goldenFile = new URL("../../docs/reference/authz-matrix.txt", import.meta.url);
const startMsMax = 60_000;
const roles = ["admin", "operator", "editor", "viewer", "auditor"];
/** Served by every component, and public: they tell nothing of anybody. */
const everywhere = /^\/grpc\.(health|reflection)\.v1\./;

/** Every RPC of every contract, from the .proto files themselves. */
async function rpcsOfContracts(): Promise<Set<string>> {
  const found = new Set<string>();
  const walk = async (dir: string): Promise<void> => {
    for await (const entry of Deno.readDir(dir)) {
      if (entry.isDirectory) await walk(`${dir}/${entry.name}`);
      else if (entry.name.endsWith(".proto")) {
        const text = (await Deno.readTextFile(`${dir}/${entry.name}`)).replaceAll(/\/\/.*$/gm, "");
        const name = /^package ([\w.]+);/m.exec(text)![1];
        for (const [, service, body] of text.matchAll(/^service (\w+) \{([^]*?)^\}/gm)) {
          for (const [, rpc] of body!.matchAll(/\brpc (\w+)\(/g)) found.add(`/${name}.${service}/${rpc}`);
        }
      }
    }
  };
  await walk(`${workspaceRoot}/proto/ultracloud`);
  return found;
}

/** What a component says about its RPCs, as soon as it listens; undefined when it ends instead. */
async function rowsOf(stack: Stack, name: string): Promise<Record<string, AuthorisationRow> | undefined> {
  let ended = false;
  void stack.start(name).ended.then(() => ended = true);
  for (const end = performance.now() + startMsMax; performance.now() < end && !ended;) {
    try {
      const response = await fetch(`${stack.endpoint(name)}/authz`, { signal: AbortSignal.timeout(2_000) });
      if (response.ok) return await response.json();
      await response.body?.cancel();
    } catch {
      // Not yet.
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  return undefined;
}

/** Components of the cluster that its trust file grants the permission to, somewhere. */
function workloadsWith(permission: string): string {
  const names = grantedPrincipals.filter((name) =>
    standardGrants(name).some((grant) => permissionMatches(grant.permission, permission))
  );
  return names.length === 0 ? "none" : names.join(",");
}

Deno.test("every RPC of every contract has an authorisation row, and the matrix of roles is that of the golden file", async () => {
  const fleet = await loadFleet(workspaceRoot);
  const hosts = ["mtls-agent", "deployer", "fleet-scheduler", "node-agent", "nix-agent"];
  const components = [...singleNodeComponents, ...hosts, "fetcher"];
  await using test = await startTestStack({ components, start: false });
  const all = await Promise.all(components.map(async (name) => [name, await rowsOf(test.stack, name)] as const));
  // As a process it would start daemons of the host's network: its rows come from its service alone.
  await using netAgent = await serveLocally("net-agent", [netAgentService(undefined as never)]);
  all.push(["net-agent", await (await fetch(`${netAgent.url}/authz`)).json()]);
  const covered = new Set<string>();
  const lines: string[] = [];
  for (const [name, rows] of all) {
    assert.ok(rows, `${name} does not start: ${await Deno.readTextFile(test.stack.logFile(name)).catch(() => "")}`);
    // Components that do not follow iam's policy let no person in, whatever their roles.
    const people = name === "iam" || fleet.get(name)!.manifest.calls.includes("iam.rpc");
    for (const [path, row] of Object.entries(rows)) {
      if (everywhere.test(path)) continue;
      covered.add(path);
      const asks = [row.permission, row.public, row.authenticated].filter((x) => x !== undefined && x !== "");
      assert.equal(asks.length, 1, `${name} ${path} has no authorisation row`);
      const head = `${name} ${path.slice(1).replace("ultracloud.", "")}`;
      if (row.public !== undefined) lines.push(`${head} public: ${row.public}`);
      else if (row.authenticated !== undefined) lines.push(`${head} any caller: ${row.authenticated}`);
      else {
        const may = roles.map((role) =>
          `${role}=${
            people && builtinRoles[role]!.some((p) => permissionMatches(p, row.permission!)) ? "allow" : "deny"
          }`
        );
        lines.push(`${head} ${row.permission} ${may.join(" ")} workloads=${workloadsWith(row.permission!)}`);
      }
    }
  }
  for (const path of await rpcsOfContracts()) {
    if (!covered.has(path)) lines.push(`nobody ${path.slice(1).replace("ultracloud.", "")} is on no client listener`);
  }
  const text =
    `# Every RPC: who serves it, what it asks for, which built-in role has that, and which components do by the trust file.
# UC_UPDATE_GOLDEN=1 deno test -A test-cluster/process/authz_matrix_process_test.ts writes it anew.
${lines.sort().join("\n")}
`;
  if (Deno.env.get("UC_UPDATE_GOLDEN")) await Deno.writeTextFile(goldenFile, text);
  assert.deepEqual((await Deno.readTextFile(goldenFile).catch(() => "")).split("\n"), text.split("\n"));
});
