import assert from "node:assert/strict";
import { EventService } from "@ultracloud/proto/common/v1";
import { DeployerService } from "@ultracloud/proto/deployer/v1";
import { FleetNodeService } from "@ultracloud/proto/fleetscheduler/v1";
import { OrgService, ProjectService, RoleService, TokenService, UserService } from "@ultracloud/proto/iam/v1";
import { VmService } from "@ultracloud/proto/plasmavmc/v1";
import { VpcService } from "@ultracloud/proto/prismnet/v1";
import { createRpcClient } from "@ultracloud/rpc";
import { Fault, systemClock } from "@ultracloud/base";
import { createWorkloadSigner, svcId } from "@ultracloud/authz";
import { KvService as CoordinationService, WatchService } from "@ultracloud/proto/chainfire/v1";
import { DatabaseService, KvService } from "@ultracloud/proto/flaredb/v1";
import { VmAgentService } from "@ultracloud/proto/vmagent/v1";
import { type Pace, startPace } from "@ultracloud/testing";
import { startTestCloud } from "../cloud.ts";
import { assertLogsHoldNoSecret } from "./_secret_scan.ts";

/** What DESIGN.md of iam promises while iam is heard. */
const promisedMs = 2_000;
/** Round trips between the answer of a revocation and a refusal that is seen: a service's long poll, its check, ours. */
const roundTrips = 3;
/** Beyond this the promise is broken on any machine. */
const hangMsMax = 30_000;
const password = "correct horse battery staple 9";
const project = "acme/prod";

/** A call that asks for no credentials. */
async function ready(url: string): Promise<void> {
  const response = await fetch(`${url}/readyz`);
  await response.body?.cancel();
}

interface Seen {
  readonly what: string;
  readonly code: string;
  readonly ms: number;
}

/**
 * Holds what was seen to the promise, in milliseconds of this machine: where calls that nothing hinders take seconds,
 * because others have its processors, a revocation takes as many more as it has round trips.
 */
function judge(seen: readonly Seen[], since: string, refusal: RegExp, pace: Pace): void {
  const allowedMs = promisedMs + roundTrips * pace.slowestMs;
  for (const { what, code, ms } of seen) {
    console.log(`${what} ended ${ms.toFixed(0)} ms after ${since}: ${code}`);
    assert.match(code, refusal, what);
    assert.ok(
      ms < allowedMs,
      `${what} went on for ${ms.toFixed(0)} ms, promised ${promisedMs}, allowed ${
        allowedMs.toFixed(0)
      } as calls that nothing hinders took up to ${pace.slowestMs.toFixed(0)}`,
    );
  }
  console.log(`calls that nothing hinders took up to ${pace.slowestMs.toFixed(0)} ms meanwhile`);
}

/** "kind/code" of a failed call, or "ok". */
async function codeOf(work: Promise<unknown>): Promise<string> {
  try {
    await work;
    return "ok";
  } catch (error) {
    if (error instanceof Fault) return `${error.kind}/${error.code}`;
    throw error;
  }
}

Deno.test("a revoked token and a removed grant stop calls and open streams of every service within two seconds", async () => {
  await using cloud = await startTestCloud(["fleet-scheduler", "deployer"]);
  const { session, stack } = cloud;
  await session.client(OrgService, "iam").createOrg({ name: "acme" });
  await session.client(ProjectService, "iam").createProject({ org: "acme", name: "prod" });
  const roles = session.client(RoleService, "iam");

  const person = async (name: string, scope = "acme") => {
    const user = await session.client(UserService, "iam").createUser({ org: "acme", name, password });
    const principal = `user:${user.meta!.id}`;
    const binding = await roles.createBinding({ scope, role: "viewer", principal });
    const { accessToken } = await session.anonymousClient(TokenService, "iam").login({
      org: "acme",
      user: name,
      password,
    });
    return { principal, binding, accessToken };
  };

  /** Calls and streams of one person at every service that lets people in; how long each went on after `end`. */
  const measure = async (
    who: Awaited<ReturnType<typeof person>>,
    end: () => Promise<unknown>,
    refusal: RegExp,
    ofHosts = false,
  ) => {
    await using closing = new AsyncDisposableStack();
    const authorization = () => `Bearer ${who.accessToken}`;
    const at = (component: string) => ({ endpoints: [stack.endpoint(component)], authorization, retries: 0 });
    const tenants = {
      iam: () => closing.use(createRpcClient(ProjectService, at("iam"))).getProject({ project }),
      prismnet: () => closing.use(createRpcClient(VpcService, at("prismnet"))).listVpcs({ project }),
      plasmavmc: () => closing.use(createRpcClient(VmService, at("plasmavmc"))).listVms({ project }),
    };
    // What governs hosts belongs to no project, and has no events for tenants.
    const hosts = {
      "fleet-scheduler": () => closing.use(createRpcClient(FleetNodeService, at("fleet-scheduler"))).listNodes({}),
      deployer: () => closing.use(createRpcClient(DeployerService, at("deployer"))).getStatus({}),
    };
    const calls: Record<string, () => Promise<unknown>> = ofHosts ? hosts : tenants;
    let endedMs = Infinity;
    const streams = (ofHosts ? [] : Object.keys(tenants)).map(async (component) => {
      const events = closing.use(createRpcClient(EventService, at(component)));
      const code = await codeOf((async () => {
        for await (const _ of events.watchEvents({ project })) {
          // Whatever happens, it is the end that counts.
        }
      })());
      return { what: `${component} stream`, code, ms: performance.now() - endedMs };
    });
    for (const [component, call] of Object.entries(calls)) {
      for (const giveUp = performance.now() + hangMsMax;;) {
        const code = await codeOf(call());
        if (code === "ok") break;
        // The grant may still be on its way to the service.
        assert.ok(performance.now() < giveUp, `${component} does not let the person in: ${code}`);
      }
    }
    await using pace = startPace(Object.keys(calls).map((component) => () => ready(stack.endpoint(component))));
    await end();
    endedMs = performance.now();
    const unary = Object.entries(calls).map(async ([component, call]) => {
      for (;;) {
        const code = await codeOf(call());
        const ms = performance.now() - endedMs;
        if (code !== "ok" || ms > hangMsMax) return { what: `${component} calls`, code, ms };
      }
    });
    const late = new Promise<never>((_, reject) => {
      const timer = setTimeout(() => reject(new Error("a stream goes on after the revocation")), hangMsMax);
      closing.defer(() => clearTimeout(timer));
    });
    judge(await Promise.race([Promise.all([...unary, ...streams]), late]), "the answer", refusal, pace);
  };

  const alice = await person("alice");
  await measure(
    alice,
    () => session.client(TokenService, "iam").revokeTokens({ org: "acme", principal: alice.principal }),
    /^unauthenticated\/token_revoked$/,
  );
  const bob = await person("bob");
  await measure(
    bob,
    () => roles.deleteBinding({ scope: "acme", id: bob.binding.id }),
    /^(not_found\/not_found|permission_denied\/permission_denied)$/,
  );
  const carol = await person("carol", "");
  await measure(
    carol,
    () => session.client(TokenService, "iam").revokeTokens({ org: "acme", principal: carol.principal }),
    /^unauthenticated\/token_revoked$/,
    true,
  );
  const dave = await person("dave", "");
  await measure(
    dave,
    () => roles.deleteBinding({ scope: "", id: dave.binding.id }),
    /^(not_found\/not_found|permission_denied\/permission_denied)$/,
    true,
  );
  await assertLogsHoldNoSecret(
    stack,
    [password, alice, bob, carol, dave].map((who) => typeof who === "string" ? who : who.accessToken),
  );
});

Deno.test("a component that leaves the trust file is refused by stores and agents within two seconds, calls and streams", async () => {
  await using cloud = await startTestCloud();
  const { stack } = cloud;
  await using closing = new AsyncDisposableStack();
  const trustFile = stack.placement("chainfire").trustFile;
  const trust = JSON.parse(await Deno.readTextFile(trustFile));
  const id = svcId(trust.clusterId, "operator");
  const signer = await createWorkloadSigner(
    { clusterId: trust.clusterId, name: "operator", keyFile: stack.operatorKeyFile },
    { clock: systemClock },
  );
  const at = (component: string) => ({
    endpoints: [stack.endpoint(component)],
    authorization: signer.authorization(component),
    retries: 0,
  });
  const watch = closing.use(createRpcClient(WatchService, at("chainfire")));
  const keys = closing.use(createRpcClient(CoordinationService, at("chainfire")));
  const kv = closing.use(createRpcClient(KvService, at("flaredb")));
  const databases = closing.use(createRpcClient(DatabaseService, at("flaredb")));
  const vms = closing.use(createRpcClient(VmAgentService, at("vm-agent")));
  const calls = {
    chainfire: () => keys.range({ key: new Uint8Array([1]) }),
    flaredb: () => databases.listDatabases({}),
    "vm-agent": () => vms.listVms({}),
  };
  for (const [component, call] of Object.entries(calls)) assert.equal(await codeOf(call()), "ok", component);
  let endedMs = Infinity;
  const over = new AbortController();
  closing.defer(() => over.abort());
  const stream = (what: string, open: () => AsyncIterable<unknown>) => {
    const begun = Promise.withResolvers<void>();
    const ended = codeOf((async () => {
      for await (const _ of open()) begun.resolve();
    })()).then((code) => ({ what, code, ms: performance.now() - endedMs }));
    return { ended, begun: Promise.race([begun.promise, ended]) };
  };
  const signal = over.signal;
  const streams = [
    stream(
      "chainfire stream",
      () => watch.watch({ watches: [{ key: new Uint8Array([1]), watchId: 1n }], progressIntervalMs: 100 }, { signal }),
    ),
    stream("flaredb stream", () => kv.watch({ database: "sys_iam", bucket: "rows", prefix: "policy" }, { signal })),
  ];
  await Promise.all(streams.map(({ begun }) => begun));
  await using pace = startPace(Object.keys(calls).map((component) => () => ready(stack.endpoint(component))));
  delete trust.principals[id];
  await Deno.writeTextFile(`${trustFile}.new`, JSON.stringify(trust), { mode: 0o600 });
  await Deno.rename(`${trustFile}.new`, trustFile);
  endedMs = performance.now();
  const unary = Object.entries(calls).map(async ([component, call]) => {
    for (;;) {
      const code = await codeOf(call());
      const ms = performance.now() - endedMs;
      if (code !== "ok" || ms > hangMsMax) return { what: `${component} calls`, code, ms };
      await systemClock.sleep(20);
    }
  });
  const seen = await Promise.all([...unary, ...streams.map(({ ended }) => ended)]);
  judge(seen, "the trust file changed", /^unauthenticated\/issuer_untrusted$/, pace);
});
