import assert from "node:assert/strict";
import { type Clock, Fault, systemClock, systemRng } from "@ultracloud/base";
import { Health, noopLogger, Registry } from "@ultracloud/observe";
import { PolicyService } from "@ultracloud/proto/iam/v1";
import { bind, startRpcServer } from "@ultracloud/rpc";
import {
  createAuthenticator,
  createAuthorizer,
  createWorkloadSigner,
  generateIdentity,
  loadTrust,
  openPolicyClient,
  type PolicySnapshot,
  policySnapshotTyp,
  policyStaleMsMax,
  standardGrants,
  svcId,
} from "./mod.ts";

const clusterId = "test";
const user = { kind: "user", id: "user:ann" } as const;
const snapshot = (version: number, role: string): PolicySnapshot => ({
  version,
  issuedAtMs: 0,
  issuer: "http://iam.test",
  keys: [],
  roles: [],
  bindings: [{ id: "b1", principal: user.id, role, scope: "acme", deny: false }],
  revokedBefore: {},
});

async function until(holds: () => boolean): Promise<void> {
  for (const end = Date.now() + 10_000; !holds();) {
    if (Date.now() > end) throw new Error("Waited too long");
    await systemClock.sleep(5);
  }
}

/** An iam that answers what the test puts in `next`, and a client of it. */
async function world() {
  const stack = new AsyncDisposableStack();
  const dir = await Deno.makeTempDir();
  stack.defer(() => Deno.remove(dir, { recursive: true }));
  const principals: Record<string, unknown> = {};
  for (const name of ["iam", "prismnet", "evil"]) {
    const { publicKey, privateKey } = await generateIdentity();
    await Deno.writeTextFile(`${dir}/${name}.key`, JSON.stringify(privateKey));
    principals[svcId(clusterId, name)] = { publicKey, grants: standardGrants(name) };
  }
  await Deno.writeTextFile(`${dir}/trust.json`, JSON.stringify({ clusterId, principals }));
  let aheadMs = 0;
  const clock: Clock = { ...systemClock, monotonicMs: () => performance.now() + aheadMs };
  const trust = await loadTrust(`${dir}/trust.json`, { clock });
  const signer = (name: string) => createWorkloadSigner({ clusterId, name, keyFile: `${dir}/${name}.key` }, { clock });
  const iam = { jws: "", asked: 0 };
  const common = { clock, rng: systemRng, log: noopLogger };
  const server = stack.use(
    await startRpcServer({ name: "iam", version: "0", listen: "127.0.0.1:0" }, {
      ...common,
      services: [bind(PolicyService, {
        async getPolicySnapshot(_request, { signal }) {
          iam.asked++;
          // A pause, as the real one waits for news.
          await systemClock.sleep(5, signal).catch(() => {});
          return { version: 0n, snapshotJws: iam.jws };
        },
      }, { getPolicySnapshot: { resource: "policy", action: "get", scope: () => "" } })],
      authenticator: createAuthenticator({ audience: svcId(clusterId, "iam") }, { trust, clock }),
      authorizer: createAuthorizer({ trust }),
      registry: new Registry(),
      health: new Health(),
    }),
  );
  return {
    trust,
    iam,
    dir,
    advance: (ms: number) => aheadMs += ms,
    sign: async (by: string, content: PolicySnapshot, typ = policySnapshotTyp) =>
      await (await signer(by)).sign({ snapshot: content }, typ),
    async client(endpoint = server.url) {
      const health = new Health();
      const options = { endpoints: [endpoint], file: `${dir}/policy.jws` };
      const policy = await openPolicyClient(options, { ...common, signer: await signer("prismnet"), trust, health });
      return {
        policy,
        health,
        authorizer: createAuthorizer({ trust, policy }),
        [Symbol.asyncDispose]: () => policy[Symbol.asyncDispose](),
      };
    },
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

Deno.test("openPolicyClient() takes snapshots that iam signed, newer ones only", async () => {
  await using w = await world();
  w.iam.jws = await w.sign("iam", snapshot(5, "viewer"));
  await using c = await w.client();
  await until(() => c.policy.version === 5);
  const kept = await Deno.readTextFile(`${w.dir}/policy.jws`);
  const forged = await w.sign("iam", snapshot(9, "admin"));
  for (
    const bad of [
      await w.sign("evil", snapshot(9, "admin")),
      await w.sign("iam", snapshot(9, "admin"), "wl+jwt"),
      await w.sign("iam", snapshot(4, "admin")),
      forged.slice(0, -4),
      "junk",
    ]
  ) {
    w.iam.jws = bad;
    const from = w.iam.asked;
    await until(() => w.iam.asked >= from + 2);
    assert.equal(c.policy.version, 5);
    // A good answer in between, else the client waits longer each time.
    w.iam.jws = "";
    const failed = w.iam.asked;
    await until(() => w.iam.asked >= failed + 2);
  }
  assert.equal(await Deno.readTextFile(`${w.dir}/policy.jws`), kept);
  assert.equal(((await Deno.stat(`${w.dir}/policy.jws`)).mode! & 0o777).toString(8), "600");
  w.iam.jws = await w.sign("iam", snapshot(6, "admin"));
  await until(() => c.policy.version === 6);
});

Deno.test("a restart without iam reads by the kept snapshot and refuses changes; a forged one is not read", async () => {
  await using w = await world();
  w.iam.jws = await w.sign("iam", snapshot(5, "admin"));
  {
    await using c = await w.client();
    await until(() => c.policy.version === 5);
  }
  const nowhere = "http://127.0.0.1:9";
  {
    await using c = await w.client(nowhere);
    const ask = (mutating: boolean) => c.authorizer.authorize(user, "plasmavmc.vm.get", "acme", mutating);
    assert.deepEqual((await ask(false)).allow, true);
    assert.throws(() => ask(true), (error: Fault) => error.code === "policy_stale" && error.kind === "unavailable");
  }
  await Deno.writeTextFile(`${w.dir}/policy.jws`, await w.sign("evil", snapshot(9, "admin")));
  await using c = await w.client(nowhere);
  assert.equal(c.policy.version, 0);
  assert.throws(
    () => c.authorizer.authorize(user, "plasmavmc.vm.get", "acme", false),
    (error: Fault) => error.code === "policy_missing",
  );
});

Deno.test("policy is stale after a minute without iam, and fresh again as soon as iam answers", async () => {
  await using w = await world();
  w.iam.jws = await w.sign("iam", snapshot(5, "admin"));
  await using c = await w.client();
  await until(() => c.policy.version === 5);
  assert.equal(c.policy.stale(), false);
  w.advance(policyStaleMsMax + 1);
  await until(() => !c.policy.stale());
  assert.equal(c.health.snapshot().parts.policy?.state, "ready");
});

Deno.test("authorize() asks the trust file about components, and what was bound to them", async () => {
  await using w = await world();
  const bound = snapshot(5, "viewer");
  const prismnet = { kind: "workload", id: svcId(clusterId, "prismnet") } as const;
  w.iam.jws = await w.sign("iam", {
    ...bound,
    bindings: [{ id: "b2", principal: prismnet.id, role: "viewer", scope: "acme", deny: false }],
  });
  await using c = await w.client();
  await until(() => c.policy.version === 5);
  const ask = async (permission: string, scope: string) =>
    (await c.authorizer.authorize(prismnet, permission, scope, false)).allow;
  assert.equal(await ask("iam.policy.get", ""), true);
  assert.equal(await ask("plasmavmc.vm.get", "acme/prod"), true);
  assert.equal(await ask("plasmavmc.vm.create", "acme/prod"), false);
  assert.equal(await ask("plasmavmc.vm.get", "other"), false);
});
