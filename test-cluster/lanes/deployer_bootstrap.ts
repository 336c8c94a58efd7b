import assert from "node:assert/strict";
import { SystemState } from "@ultracloud/proto/deployer/v1";
import type { Lane, LaneRun } from "../harness/lane.ts";
import { waitFor } from "../harness/wait.ts";
import { factsOf, prepareNix, rolledOut, serialOf, sick, Site, workers } from "./deployer_site.ts";

const [first, second] = workers;
const target = `/nix/store/${"a".repeat(32)}-nixos-system`;

/** A machine becomes a node: over TLS, by token, serial and plan; and the writer may go at any moment. */
export const deployerBootstrapE2e: Lane = {
  name: "deployer-bootstrap-e2e",
  summary: "enrolment over TLS: one-shot tokens, pending and approval, plan refusals; the writer dies in between",
  profile: "deployer",
  prepare: prepareNix,
  async run(run) {
    await using site = await Site.open(run);
    const token = await enrolment(run, site);
    await run.check("the writer is paused: a standby takes over, and the old one commits nothing", async () => {
      const old = await site.writer();
      const { epoch } = (await site.deployer.getStatus({})).writer!;
      await run.cluster.substrate.signal(old, "deployer", "SIGSTOP");
      const fresh = await waitFor({ timeoutMs: 60_000, what: "another writer", signal: run.signal }, async () => {
        const writer = await site.writer();
        return writer === old ? undefined : writer;
      });
      await run.cluster.substrate.signal(old, "deployer", "SIGCONT");
      const now = (await site.deployer.getStatus({})).writer!;
      assert.ok(now.epoch > epoch);
      await waitFor({ timeoutMs: 60_000, what: "a refusal of the old writer", signal: run.signal }, async () => {
        const answer = await site.phoneHome(old, token, factsOf(first)).catch(() => undefined);
        return answer?.status === 503 || undefined;
      });
      const again = await site.phoneHome(fresh, token, factsOf(first));
      assert.deepEqual([again.status, again.body.again], [200, true]);
      return `${old} epoch ${epoch}, then ${fresh} epoch ${now.epoch}`;
    });
    await site.scope(
      "enrolment, refusals and the hand-over of the writer",
      "a real installer: the machine is the lane",
    );
  },
};

async function enrolment(run: LaneRun, site: Site): Promise<string> {
  let token = "";
  const at = await site.writer();
  await run.check("an apply tells what it changes, and the same again changes nothing", async () => {
    const { changes, revision } = await site.apply(target);
    assert.equal((await site.apply(target)).applied, false);
    await run.evidence("apply.json", changes);
    return `revision ${revision}, ${changes.length} changes`;
  });
  await run.check("a machine with its token gets its plan; nobody else does with the same token", async () => {
    const announced = await site.nodes.preRegister({ node: first, serial: serialOf(first) });
    token = announced.token;
    const refused = async (code: string, secret: string, facts: Record<string, unknown>) => {
      const { status, body } = await site.phoneHome(at, secret, facts);
      assert.equal(body.code, code);
      return status;
    };
    assert.equal(await refused("token_unknown", "ucb_forged", factsOf(first)), 401);
    assert.equal(await refused("identity_mismatch", token, factsOf(second)), 403);
    const { status, body } = await site.phoneHome(at, token, factsOf(first));
    assert.deepEqual([status, body.install_plan.target_system], [200, target]);
    assert.equal(await refused("token_used", token, factsOf("other")), 401);
    await run.evidence("phone-home.json", body);
    return `${body.node}, cache ${body.cache.binary_cache_url}`;
  });
  await run.check("a plan that must not be carried out is not told", async () => {
    const own = (await site.nodes.preRegister({ node: second })).token;
    const codes = [];
    for (
      const disk of [
        { boot_medium: true },
        { signatures: ["ntfs"] },
        { owner_node: first },
        {
          by_id: ["/dev/disk/by-id/x"],
        },
        { serial: "D-other" },
        { bytes_count: 2 ** 30 },
        { bytes_count: 2 ** 40 },
      ]
    ) {
      const { body } = await site.phoneHome(at, own, factsOf(second, disk));
      assert.equal(body.install_plan, undefined);
      codes.push(body.install_refused.code);
    }
    assert.deepEqual(codes, [
      "disk_is_boot_medium",
      "disk_foreign_data",
      "disk_holds_node",
      "disk_not_found",
      "disk_serial_mismatch",
      "disk_too_small",
      "disk_too_large",
    ]);
    assert.equal((await site.phoneHome(at, own, factsOf(second))).body.install_refused, undefined);
    return codes.join(", ");
  });
  await run.check("an unknown machine waits until it is approved", async () => {
    const unbound = (await site.nodes.rotateToken({})).token;
    assert.equal((await site.phoneHome(at, unbound, factsOf("stranger"))).status, 202);
    assert.deepEqual((await site.nodes.listPending({})).machines.map(({ id }) => id), ["SN-stranger"]);
    await site.nodes.approve({ machine: "SN-stranger", node: "node09", class: "worker" });
    const { status, body } = await site.phoneHome(at, unbound, factsOf("stranger", { serial: "D-stranger" }));
    assert.deepEqual([status, body.node], [200, "node09"]);
    return body.node;
  });
  return token;
}

/** The whole life of a host, from its first call to the day it is taken out. */
export const hostLifecycleE2e: Lane = {
  name: "host-lifecycle-e2e",
  summary: "announced, enrolled, active, drained for a change, rolled back, forgotten: one host from end to end",
  profile: "deployer",
  prepare: prepareNix,
  async run(run) {
    await using site = await Site.open(run);
    const a = await site.system("system-a");
    let token = "";
    await run.check("announced, enrolled, and active: the token is spent", async () => {
      await site.apply(a);
      token = (await site.nodes.preRegister({ node: first, serial: serialOf(first) })).token;
      const at = await site.writer();
      assert.equal((await site.phoneHome(at, token, factsOf(first))).status, 200);
      await site.boot(first, "boot-1");
      await site.boot(second, "boot-1");
      const seen = await rolledOut(site, a);
      const { status, body } = await site.phoneHome(await site.writer(), token, factsOf(first));
      assert.deepEqual([status, body.code], [401, "token_spent"]);
      return seen;
    });
    await run.check("with nobody to grant the drain there is no switch, and the status says why", async () => {
      await run.cluster.stop("node01", "fleet-scheduler");
      const b = await site.system("system-b");
      await site.apply(b, { drain: "required", drain_timeout_ms: 3_000 });
      const { observed } = await site.observed(first, SystemState.PREFLIGHT, b, /drain was not granted within/);
      assert.deepEqual(await site.activations(first), ["switch system-a"]);
      await run.cluster.start("node01", "fleet-scheduler");
      await run.cluster.waitReady("node01", "fleet-scheduler", run.signal);
      return observed!.reason;
    });
    await run.check("a drain that fleet-scheduler grants lets the switch through", async () => {
      await run.cluster.start(first, "node-agent");
      await run.cluster.waitReady(first, "node-agent", run.signal);
      const b = await site.system("system-b");
      await site.apply(b, { drain: "required", drain_timeout_ms: 60_000, intent: "again" });
      await site.observed(first, SystemState.ACTIVE, b);
      return (await site.activations(first)).join(", ");
    });
    await run.check("a bad generation is rolled back", async () => {
      const bad = await site.system("system-bad", sick);
      await site.apply(bad);
      return (await site.observed(first, SystemState.ROLLED_BACK, bad)).observed!.reason;
    });
    await run.check("forgotten: its name is free, its token is worth nothing", async () => {
      await site.nodes.removeNode({ node: first });
      const { body } = await site.phoneHome(await site.writer(), token, factsOf(first));
      assert.equal(body.code, "token_unknown");
      return body.code;
    });
    await site.scope("one host from announcement to removal", "an installation on a disk: no installer takes part");
  },
};
