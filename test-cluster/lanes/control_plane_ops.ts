import assert from "node:assert/strict";
import { fault } from "@ultracloud/base";
import { OrgService, ProjectService, RoleService, ServiceAccountService } from "@ultracloud/proto/iam/v1";
import type { Lane } from "../harness/lane.ts";
import { createLaneDatabase } from "../harness/stores.ts";
import { waitFor } from "../harness/wait.ts";
import { bootstrap } from "./control_plane_ops_bootstrap.ts";
import { authority, byHand, keepOperator, settle, startAgents } from "./control_plane_ops_authority.ts";
import { credential, masterKey, replaceMasterKey, signingKey } from "./control_plane_ops_keys.ts";
import { type HeldKey, ServiceLoad } from "./control_plane_ops_load.ts";
import { Ops, startIam } from "./control_plane_ops_place.ts";
import { boundaries, noSecrets } from "./control_plane_ops_scope.ts";

/** Short enough to see every phase of a rotation, long enough for a loaded machine to follow. */
const shortLives = {
  keysMaxAgeMs: 4_000,
  accessTtlMs: 15_000,
  authorityPublishMs: 12_000,
  certificateTtlMsMax: 60_000,
};
/** A program's grant reaches every service within this. */
const policyMsMax = 60_000;
/** So that a target that nobody called is noticed. */
const callsEachMin = 50;

/** The runbooks of docs/control-plane-ops.md, executed on a cluster that is being used. */
export const controlPlaneOps: Lane = {
  name: "core-control-plane-ops-proof",
  summary:
    "the runbooks of docs/control-plane-ops.md on a cluster in use: bootstrap, rotation of signing key, credentials, master key and authority, and what is not supported",
  profile: "ha-control-plane",
  async run(run) {
    const ops = await Ops.open(run);
    await bootstrap(ops);
    await run.check(
      "iam's replicas are restarted one by one with short lives, so that every phase is seen",
      async () => {
        for (const node of ops.iamNodes) await startIam(ops, node, shortLives);
        // A token of before lives longer than the keys of now.
        await ops.runbook("Bootstrap").run("uc login --admin-token-file admin.token");
        run.facts.lives = shortLives;
        return JSON.stringify(shortLives);
      },
    );
    await startAgents(ops);
    await using _operator = await keepOperator(ops);
    using load = await openLoad(ops);
    const old = await loadedKey(ops);
    load.useKey(old);
    await run.check("a program is let in by every service", async () => {
      await waitFor({ timeoutMs: policyMsMax, what: "an answer of every service", signal: run.signal }, async () => {
        const failed = await load.tryAll();
        if (failed.length > 0) throw new Error(failed.join("; "));
        return true;
      });
      return `${Object.keys(load.targets).length} targets`;
    });
    load.start();
    try {
      await signingKey(ops, load);
      await credential(ops, load, old);
      await masterKey(ops, load);
      await authority(ops, load);
      await byHand(ops, load);
    } finally {
      await load.stop();
      await run.evidence("load.json", { answered: load.answered, failures: load.failures });
    }
    await run.check("no call of any service failed while everything was replaced", () => {
      run.facts.calls = load.total;
      run.facts.failedCalls = load.failures.length;
      assert.deepEqual(load.failures, []);
      for (const target of load.targets) {
        const count = load.answered[target] ?? 0;
        assert.ok(count >= callsEachMin, `only ${count} calls of ${target} were answered`);
      }
      return `${load.total} calls to ${load.targets.length} targets, 0 failed`;
    });
    await replaceMasterKey(ops);
    await settle(ops);
    ops.renewClients();
    await boundaries(ops);
    await noSecrets(ops, load.secrets);
  },
};

async function openLoad(ops: Ops): Promise<ServiceLoad> {
  const { cluster } = ops;
  await createLaneDatabase(cluster);
  const [org, name] = ops.project.split("/") as [string, string];
  const orgs = cluster.clients.of(OrgService, "iam");
  const { orgs: present } = await orgs.listOrgs({});
  if (!present.some((o) => o.meta?.name === org)) await orgs.createOrg({ name: org });
  await cluster.clients.of(ProjectService, "iam").createProject({ org, name });
  const accounts = cluster.clients.of(ServiceAccountService, "iam");
  const account = await accounts.createServiceAccount({ project: ops.project, name: ops.account });
  await cluster.clients.of(RoleService, "iam").createBinding({
    scope: ops.project,
    role: "viewer",
    principal: `service_account:${account.meta!.id}`,
  });
  return await ServiceLoad.open(cluster, { project: ops.project, agents: ops.agentNodes });
}

async function loadedKey(ops: Ops): Promise<HeldKey> {
  const accounts = ops.cluster.clients.of(ServiceAccountService, "iam");
  const { key, secret } = await accounts.createApiKey({ project: ops.project, serviceAccount: ops.account });
  if (key === undefined) throw fault("internal", "no_key", "Cannot go on without the key that was made");
  return { id: key.id, secret };
}
