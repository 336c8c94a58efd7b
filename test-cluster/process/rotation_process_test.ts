import assert from "node:assert/strict";
import { Fault } from "@ultracloud/base";
import { OrgService, ProjectService, RoleService, ServiceAccountService } from "@ultracloud/proto/iam/v1";
import { MasterKeyService, SigningKeyService, TokenService } from "@ultracloud/proto/iam/v1";
import { VmService } from "@ultracloud/proto/plasmavmc/v1";
import { VpcService } from "@ultracloud/proto/prismnet/v1";
import { createRpcClient } from "@ultracloud/rpc";
import { startTestStack } from "@ultracloud/testing";
import { openSession, projectName, singleNodeComponents } from "@ultracloud/cli";
import { decodeJwt, decodeProtectedHeader } from "jose";
import { silentIo } from "../cloud.ts";
import { assertLogsHoldNoSecret } from "./_secret_scan.ts";

const project = "acme/prod";
const keysMaxAgeMs = 2_000;
const accessTtlMs = 8_000;
/** Nothing here takes this long unless it hangs. */
const hangMsMax = 60_000;

async function until(what: string, holds: () => Promise<boolean>): Promise<void> {
  for (const end = performance.now() + hangMsMax; !(await holds());) {
    if (performance.now() > end) throw new Error(`Waited too long until ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

Deno.test("signing key, credential and master key change under a load of calls to every service, and no call fails", async () => {
  const components = singleNodeComponents;
  await using test = await startTestStack({ components, overrides: { iam: { keysMaxAgeMs, accessTtlMs } } });
  await using closing = new AsyncDisposableStack();
  const { stack } = test;
  const place = { components, clusterId: "test", contextName: "test", contextsFile: `${stack.dataDir}/uc.json` };
  const session = await openSession(stack, { ...place, project: projectName }, silentIo);
  await session.client(OrgService, "iam").createOrg({ name: "acme" });
  await session.client(ProjectService, "iam").createProject({ org: "acme", name: "prod" });
  const accounts = session.client(ServiceAccountService, "iam");
  const account = await accounts.createServiceAccount({ project, name: "load" });
  await session.client(RoleService, "iam").createBinding({
    scope: "acme",
    role: "viewer",
    principal: `service_account:${account.meta!.id}`,
  });
  const ask = { project, serviceAccount: "load" };
  let key = await accounts.createApiKey(ask);

  // A program as the library of any service account is: it renews its token when two thirds of its life are over.
  const anyone = closing.use(createRpcClient(TokenService, { endpoints: [stack.endpoint("iam")] }));
  const failures: string[] = [];
  let held: { token: string; renewAtMs: number } | undefined;
  let renewing: Promise<string> | undefined;
  const kids = new Set<string>();
  const renew = async () => {
    const { accessToken } = await anyone.exchangeApiKey({ keyId: key.key!.id, secret: key.secret });
    kids.add(decodeProtectedHeader(accessToken).kid!);
    const { exp } = decodeJwt(accessToken);
    held = { token: accessToken, renewAtMs: exp! * 1_000 - accessTtlMs / 3 };
    return accessToken;
  };
  const authorization = async () => {
    const token = held && Date.now() < held.renewAtMs
      ? held.token
      : await (renewing ??= renew().finally(() => renewing = undefined));
    return `Bearer ${token}`;
  };
  const at = (component: string) => ({ endpoints: [stack.endpoint(component)], authorization, retries: 0 });
  const [projects, vpcs, vms] = [
    closing.use(createRpcClient(ProjectService, at("iam"))),
    closing.use(createRpcClient(VpcService, at("prismnet"))),
    closing.use(createRpcClient(VmService, at("plasmavmc"))),
  ];
  const calls: [string, () => Promise<unknown>][] = [
    ["iam", () => projects.getProject({ project })],
    ["prismnet", () => vpcs.listVpcs({ project })],
    ["plasmavmc", () => vms.listVms({ project })],
  ];
  for (const [, call] of calls) {
    // The grant may still be on its way to the service.
    await until("the account is let in", () => call().then(() => true, () => false));
  }
  const answered: Record<string, number> = {};
  let over = false;
  const load = [...calls, ...calls].map(async ([component, call]) => {
    while (!over) {
      try {
        await call();
        answered[component] = (answered[component] ?? 0) + 1;
      } catch (error) {
        failures.push(`${component}: ${error instanceof Fault ? error.code : ""} ${error}`);
      }
    }
  });
  try {
    const signing = session.client(SigningKeyService, "iam");
    const masterKeys = session.client(MasterKeyService, "iam");
    const before = (await signing.listSigningKeys({})).keys.map((k) => k.id);
    assert.equal(before.length, 1);

    await signing.rotateSigningKey({ signingKey: before[0]! });
    const old = key;
    key = await accounts.rotateApiKey({ ...ask, keyId: old.key!.id, overlapMs: 3_000n });
    const nextKey = crypto.getRandomValues(new Uint8Array(32)).toHex();
    await Deno.writeTextFile(`${stack.placement("iam").stateDir}/master.next.key`, nextKey, { mode: 0o600 });
    await until("iam has the next master key", async () => (await masterKeys.getMasterKeyStatus({})).next !== "");
    const { next } = await masterKeys.getMasterKeyStatus({});
    const resealed = await masterKeys.reseal({ masterKey: next });
    assert.deepEqual(Object.keys(resealed.sealed), [resealed.current]);

    await until("the new key signs what the load uses", () => Promise.resolve(kids.size === 2));
    await until("the old key is trusted no more", async () => {
      const { keys } = await signing.listSigningKeys({});
      return keys.length === 1 && keys[0]!.phase === "signing" && keys[0]!.id !== before[0];
    });
    await until("the old key is published no more", async () => {
      const published = await (await fetch(`${stack.endpoint("iam")}/oauth2/jwks`)).json();
      return !published.keys.some((k: { kid: string }) => k.kid === before[0]);
    });
    await assert.rejects(anyone.exchangeApiKey({ keyId: old.key!.id, secret: old.secret }), {
      code: "api_key_refused",
    });
  } finally {
    over = true;
    await Promise.all(load);
  }
  console.log(`${JSON.stringify(answered)} calls answered, ${failures.length} failed`);
  assert.deepEqual(failures, []);
  for (const [component] of calls) {
    assert.ok((answered[component] ?? 0) > 50, `only ${answered[component]} calls of ${component}`);
  }

  await assertLogsHoldNoSecret(stack, [key.secret, held!.token]);

  // The old master key alone opens nothing.
  await stack.process("iam")!.stop();
  await Deno.remove(`${stack.placement("iam").stateDir}/master.next.key`);
  stack.start("iam");
  await until("iam says which key it lacks", async () => {
    const response = await fetch(`${stack.endpoint("iam")}/readyz`).catch(() => undefined);
    const text = await response?.text() ?? "";
    return response?.status === 503 && /master key/.test(text);
  });
});
