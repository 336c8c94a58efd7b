import assert from "node:assert/strict";
import { BackupService, DatabaseService, SqlService } from "@ultracloud/proto/flaredb/v1";
import { ClusterService } from "@ultracloud/proto/chainfire/v1";
import { Fault } from "@ultracloud/base";
import { waitFor } from "../harness/wait.ts";
import { findSecrets, type Secret, secretsBelow } from "@ultracloud/testing";
import { operatorDir } from "../harness/keys.ts";
import type { Ops } from "./control_plane_ops_place.ts";

/** What changes members, and nothing else does. */
const memberCalls = ["MemberAdd", "MemberList", "MemberPromote", "MemberRemove", "MemberReplace", "MemberUpdate"];

/** RPCs that are served at an address, as its own page of authorisation rows names them. */
async function rpcsAt(ops: Ops, url: string): Promise<string[]> {
  const response = await fetch(`${url}/authz`, { client: ops.cluster.clients.http });
  return Object.keys(await response.json()).sort();
}

/** Tries where support ends, and writes it down. */
export async function boundaries(ops: Ops): Promise<void> {
  const { cluster, run } = ops;
  let chainfire: Record<string, unknown> = {};
  let flaredb: Record<string, unknown> = {};
  await run.check("chainfire: members change by ClusterService alone", async () => {
    const node = cluster.nodesWith("chainfire")[0]!;
    const rpcs = await rpcsAt(ops, cluster.endpoint(node, "chainfire"));
    const raftTransport = (await rpcsAt(ops, `https://${cluster.peerListener(node, "chainfire").listen}`))
      .filter((rpc) => rpc.includes("Raft"));
    assert.ok(raftTransport.length > 0, "the peer listener serves no Raft");
    const management = rpcs.filter((rpc) => rpc.includes(".ClusterService/"));
    const names = management.map((rpc) => rpc.slice(rpc.lastIndexOf("/") + 1));
    for (const call of memberCalls) assert.ok(names.includes(call), `${call} is not served`);
    const elsewhere = rpcs.filter((rpc) => /\/Member/.test(rpc) && !management.includes(rpc));
    assert.deepEqual(elsewhere, []);
    const { members } = await cluster.clients.of(ClusterService, "chainfire").memberList({});
    assert.deepEqual(members.map((m) => m.name).sort(), cluster.nodesWith("chainfire"));
    chainfire = {
      clusterManagement: management,
      raftTransport,
      members: members.length,
      provenBy: "chainfire-live-membership-proof",
      outside: ["swaps of several voters at once", "clusters above five members", "automatic membership"],
    };
    return `${management.length} calls, ${members.length} members`;
  });
  await run.check("flaredb: what adds is migrated while readers go on, what loses data is refused", async () => {
    const patient = { timeoutMs: 60_000, retries: 30 };
    const sql = cluster.clients.of(SqlService, "flaredb", patient);
    const table = `ops_${ops.project.split("-")[1]}`;
    const database = `sys_ops_${ops.project.split("-")[1]}`;
    const databases = cluster.clients.of(DatabaseService, "flaredb", patient);
    await databases.createDatabase({ name: database });
    const one = { version: 1n, name: "items", statements: [`CREATE TABLE ${table} (id INTEGER PRIMARY KEY)`] };
    const two = { version: 2n, name: "price", statements: [`ALTER TABLE ${table} ADD COLUMN price INTEGER`] };
    const three = { version: 3n, name: "gone", statements: [`ALTER TABLE ${table} DROP COLUMN price`] };
    const wait = { timeoutMs: 60_000, what: "the new database", signal: run.signal };
    await waitFor(wait, () => sql.migrate({ database, migrations: [one] }));
    let over = false;
    let reads = 0;
    const failures: string[] = [];
    const reading = (async () => {
      while (!over) {
        try {
          await sql.query({ database, statement: { sql: `SELECT id FROM ${table}` } });
          reads++;
        } catch (error) {
          failures.push(String(error));
        }
      }
    })();
    const additive = await sql.migrate({ database, migrations: [one, two] });
    const codeOf = async (allowDestructive: boolean) => {
      try {
        await sql.migrate({ database, migrations: [one, two, three], allowDestructive });
        return "ok";
      } catch (error) {
        return error instanceof Fault ? error.code : String(error);
      }
    };
    const refused = await codeOf(false);
    const withoutBackup = await codeOf(true);
    // A replica that cannot give it names the one that can, which the next try asks.
    await waitFor({ ...wait, what: "a backup" }, async () => {
      for await (const _ of cluster.clients.of(BackupService, "flaredb", patient).backup({ database })) {
        // That there is a young one is all that is wanted.
      }
      return true;
    });
    const withBackup = await codeOf(true);
    over = true;
    await reading;
    assert.deepEqual([refused, withoutBackup, withBackup], ["migration_destructive", "backup_needed", "ok"]);
    assert.deepEqual([additive.applied.map(({ name }) => name), failures], [["price"], []]);
    await databases.deleteDatabase({ name: database });
    flaredb = {
      additive: "applied while readers go on",
      destructive: { refused, withoutBackup, withBackup },
      outside: ["online rewrite of a table", "an automatic way back but the backup"],
    };
    return `additive applied over ${reads} reads; destructive: ${refused}, ${withoutBackup} without a backup, ${withBackup} with one`;
  });
  const iam = {
    bootstrap: "production refuses without an explicit admin token, signing key and 32-byte master key",
    rotations: ["signing key", "credentials", "master key", "certificate authority"],
    replicas: ops.iamNodes.length,
    outside: ["passkeys", "TOTP", "SCIM"],
  };
  await run.evidence("scope-fixed-contract.json", {
    lane: "core-control-plane-ops-proof",
    page: "docs/control-plane-ops.md",
    chainfire,
    flaredb,
    iam,
  });
  for (const [component, scope] of Object.entries({ chainfire, flaredb, iam })) {
    await run.evidence(`${component}-scope-fixed.txt`, scopeText(component, scope));
  }
}

function scopeText(component: string, scope: Readonly<Record<string, unknown>>): string {
  const lines = Object.entries(scope).map(([what, value]) =>
    `${what}: ${Array.isArray(value) ? value.join(", ") : typeof value === "object" ? JSON.stringify(value) : value}`
  );
  return `${component}: scope fixed to what this run has shown\n${lines.join("\n")}\n`;
}

/** No log of any process and no artifact of the lane holds a secret. */
export async function noSecrets(ops: Ops, known: readonly string[]): Promise<void> {
  const { cluster, run } = ops;
  await run.check("no log and no artifact holds a secret", async () => {
    const secrets: Secret[] = [
      ...known.map((text) => ({ what: "a secret of the lane", text })),
      ...await secretsBelow(operatorDir(cluster.home.stateDir)),
    ];
    for (const node of cluster.nodes) secrets.push(...await secretsBelow(cluster.substrate.etcDir(node)));
    assert.ok(secrets.length > known.length, "no secret file was found, so nothing would be looked for");
    let bytes = 0;
    let files = 0;
    const found: string[] = [];
    const look = (name: string, text: string) => {
      if (text === "") return;
      files++;
      bytes += text.length;
      found.push(...findSecrets(name, text, secrets));
    };
    for (const node of cluster.nodes) {
      const { components, standby } = cluster.file.nodes[node]!;
      for (const component of [...components, ...standby]) {
        look(
          `the log of ${component} on ${node}`,
          await cluster.substrate.readFile(node, cluster.logFile(node, component)),
        );
      }
    }
    for await (const { name, isFile } of Deno.readDir(run.artifactsDir)) {
      if (isFile) look(name, await Deno.readTextFile(`${run.artifactsDir}/${name}`));
    }
    assert.ok(bytes > 0, "no log was written, so nothing was looked at");
    // The scan must be able to find what it looks for.
    assert.equal(findSecrets("a planted line", `x ${secrets[0]!.text} y`, secrets).length > 0, true);
    assert.deepEqual(found, []);
    return `${bytes} bytes in ${files} files hold none of ${secrets.length} secrets and nothing that looks like one`;
  });
}
