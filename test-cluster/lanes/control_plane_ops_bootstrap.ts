import assert from "node:assert/strict";
import { iamSecrets } from "../harness/keys.ts";
import { waitFor } from "../harness/wait.ts";
import type { Ops } from "./control_plane_ops_place.ts";
import { startIam } from "./control_plane_ops_place.ts";

const startMsMax = 60_000;

/** The setting of each secret, and how a start without it names it. */
const secrets: Readonly<Record<string, RegExp>> = {
  adminTokenFile: /an admin token \(adminTokenFile\)/,
  signingKeyFile: /a signing key \(signingKeyFile\)/,
  masterKeyFile: /a 32-byte master key \(IAM_CRED_MASTER_KEY/,
};

/** What iam's log says of a start with these settings that must fail. */
async function refusal(ops: Ops, node: string, changes: Readonly<Record<string, unknown>>): Promise<string> {
  const { cluster, run } = ops;
  const log = () => cluster.substrate.readFile(node, cluster.logFile(node, "iam"));
  await cluster.stop(node, "iam");
  const before = (await log()).length;
  await cluster.configure(node, "iam", changes);
  await cluster.start(node, "iam");
  return await waitFor({ timeoutMs: startMsMax, what: "the end of iam", signal: run.signal }, async () => {
    const running = await cluster.substrate.processes(node);
    return running.some(({ component }) => component === "iam") ? undefined : (await log()).slice(before);
  });
}

/** A production start with nothing, with all but one, with somebody else's, and with what the runbook makes. */
export async function bootstrap(ops: Ops): Promise<void> {
  const { cluster, run } = ops;
  const node = ops.iamNodes.at(-1)!;
  const book = ops.runbook("Bootstrap");
  await run.check("a production start refuses, naming each missing secret", async () => {
    const without = (names: readonly string[]) => Object.fromEntries(names.map((name) => [name, undefined]));
    const all = await refusal(ops, node, without(Object.keys(secrets)));
    for (const [name, says] of Object.entries(secrets)) assert.match(all, says, name);
    const lines = [all];
    for (const name of Object.keys(secrets)) {
      const one = await refusal(ops, node, without([name]));
      for (const [other, says] of Object.entries(secrets)) {
        if (other === name) assert.match(one, says);
        else assert.doesNotMatch(one, says, `${other} is not missing`);
      }
      lines.push(one);
    }
    await run.evidence("iam-bootstrap-refusals.log", lines.join("\n"));
    return `${node}: all three at once, and each by itself`;
  });
  await run.check("with the secrets of the runbook it starts and lets its administrator in", async () => {
    for (const command of ["umask 077", "openssl rand -base64 32 > admin.token", "openssl rand -hex 32 > master.key"]) {
      await book.run(command);
    }
    await book.run("uc iam keys make signing.key");
    const made: Record<string, string> = {};
    for (const name of ["admin.token", "signing.key", "master.key"]) {
      assert.equal((await Deno.stat(`${ops.dir}/${name}`)).mode! & 0o777, 0o600, name);
      made[name] = await ops.writeSecret(node, "iam", `made-${name}`, await Deno.readTextFile(`${ops.dir}/${name}`));
    }
    // The other replicas have another master key: this one must not seal with its own.
    await refusalOfMasterKey(ops, node, { masterKeyFile: made["master.key"] });
    await startIam(ops, node, { adminTokenFile: made["admin.token"], signingKeyFile: made["signing.key"] });
    await ops.useNode(node);
    await book.run("uc login --admin-token-file admin.token");
    book.done();
    await run.evidence("iam-bootstrap-tests.log", book.log);
    const ours = ops.iamNodes[0]!;
    await startIam(ops, node, {});
    await ops.useNode(ours);
    return `${node} started with a new admin token and signing key, and refused another master key`;
  });
  await run.check("the operator logs in again with the cluster's own admin token", async () => {
    const own = await Deno.readTextFile(
      `${cluster.substrate.etcDir(ops.iamNodes[0]!)}/iam/${iamSecrets.adminTokenFile}`,
    );
    await Deno.writeTextFile(`${ops.dir}/admin.token`, own, { mode: 0o600 });
    return (await ops.runbook("Bootstrap").run("uc login --admin-token-file admin.token")).trim() || "logged in";
  });
}

async function refusalOfMasterKey(ops: Ops, node: string, changes: Readonly<Record<string, unknown>>): Promise<void> {
  const { cluster, run } = ops;
  await cluster.stop(node, "iam");
  await cluster.configure(node, "iam", changes);
  await cluster.start(node, "iam");
  await readinessSays(ops, node, /master key/);
  assert.equal(await cluster.isReady(node, "iam"), false);
  run.step(`${node} with another master key is not ready`);
}

/** Waits until iam on the node is up, not ready, and says why. */
export async function readinessSays(ops: Ops, node: string, says: RegExp): Promise<string> {
  const { cluster, run } = ops;
  const url = `${cluster.endpoint(node, "iam")}/readyz`;
  ops.renewClients();
  return await waitFor(
    { timeoutMs: startMsMax, what: `iam on ${node} to say ${says}`, signal: run.signal },
    async () => {
      const response = await fetch(url, { client: cluster.clients.http, signal: AbortSignal.timeout(5_000) });
      const text = await response.text();
      return response.status === 503 && says.test(text) ? text.trim() : undefined;
    },
  );
}
