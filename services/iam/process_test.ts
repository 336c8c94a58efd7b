import assert from "node:assert/strict";
import { OrgService, ProjectService, TokenService } from "@ultracloud/proto/iam/v1";
import { createRpcClient } from "@ultracloud/rpc";
import { probeReady } from "@ultracloud/launch";
import { startTestStack } from "@ultracloud/testing";
import { until } from "./test_world.ts";

Deno.test("the real process gets an administrator in and finds everything again after a kill", async () => {
  await using test = await startTestStack({ components: ["flaredb", "iam"] });
  const { stack } = test;
  const endpoints = [stack.endpoint("iam")];
  const adminToken = await Deno.readTextFile(stack.adminTokenFile);
  using anyone = createRpcClient(TokenService, { endpoints });
  const first = await anyone.bootstrapToken({ adminToken });
  const authorization = () => `Bearer ${first.accessToken}`;
  using orgs = createRpcClient(OrgService, { endpoints, authorization });
  using projects = createRpcClient(ProjectService, { endpoints, authorization });
  await orgs.createOrg({ name: "acme" });
  await projects.createProject({ org: "acme", name: "prod" });

  await stack.process("iam")!.kill();
  stack.start("iam");
  await stack.startAll({ timeoutMs: 60_000 });
  // The same keyring: a token of before the kill is still good.
  assert.deepEqual((await projects.listProjects({ org: "acme" })).projects.map((p) => p.meta!.name), ["prod"]);
  assert.equal((await anyone.bootstrapToken({ adminToken })).principal, first.principal);

  const log = await Deno.readTextFile(stack.logFile("iam"));
  for (const secret of [adminToken, first.accessToken, first.refreshToken]) {
    assert.ok(!log.includes(secret), "the log holds a secret");
  }
});

Deno.test("the real process waits for flaredb, and refuses production without its secrets", async () => {
  await using waiting = await startTestStack({ components: ["iam"], start: false });
  waiting.stack.start("iam");
  await until("it says what it waits for", async () => {
    const { ready, text } = await probeReady(waiting.stack.endpoint("iam"));
    return !ready && /flaredb/.test(text);
  });

  const overrides = { iam: { mode: "production" } };
  await using refused = await startTestStack({ components: ["iam"], start: false, overrides });
  assert.equal((await refused.stack.start("iam").ended).code, 1);
  const log = await Deno.readTextFile(refused.stack.logFile("iam"));
  assert.match(log, /Cannot start in production without a signing key .*, a 32-byte master key /);
});
