import assert from "node:assert/strict";
import { OrgService, ProjectService, TokenService, UserService } from "@ultracloud/proto/iam/v1";
import { createRpcClient } from "@ultracloud/rpc";
import { probeReady } from "@ultracloud/launch";
import { startTestStack, workspaceRoot } from "@ultracloud/testing";
import { parse, stringify } from "smol-toml";
import { PlainBrowser } from "./oauth/test_flow.ts";
import { password, until } from "./test_world.ts";

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

Deno.test("the real process keeps to the bounds of its configuration", async () => {
  const origin = "https://console.example";
  await using test = await startTestStack({ components: ["flaredb", "iam"], start: false });
  const { stack } = test;
  const file = `${stack.placement("iam").configDir}/config.toml`;
  const config = parse(await Deno.readTextFile(file)) as { rpc: Record<string, unknown> };
  config.rpc.limits = { messageBytesMax: 65_536, origins: [origin] };
  await Deno.writeTextFile(file, stringify(config));
  await stack.startAll({ timeoutMs: 60_000 });
  const url = `${stack.endpoint("iam")}/ultracloud.iam.v1.TokenService/Login`;
  const preflight = async (from: string) => {
    const response = await fetch(url, { method: "OPTIONS", headers: { origin: from } });
    await response.body?.cancel();
    return response.status;
  };
  assert.deepEqual([await preflight(origin), await preflight("https://evil.example")], [204, 403]);
  const post = async (bytes: number) => {
    const body = JSON.stringify({ password: "x".repeat(bytes) });
    const response = await fetch(url, { method: "POST", headers: { "content-type": "application/json" }, body });
    return (await response.json()).code;
  };
  assert.equal(await post(70_000), "resource_exhausted");
  assert.notEqual(await post(1_000), "resource_exhausted");
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

Deno.test("`uc login` shows an address and a code, and has a login once a person has typed both", async () => {
  await using test = await startTestStack({ components: ["flaredb", "iam"] });
  const { stack } = test;
  const endpoints = [stack.endpoint("iam")];
  using anyone = createRpcClient(TokenService, { endpoints });
  const admin = await anyone.bootstrapToken({ adminToken: await Deno.readTextFile(stack.adminTokenFile) });
  using users = createRpcClient(UserService, { endpoints, authorization: () => `Bearer ${admin.accessToken}` });
  await users.createUser({ name: "alice", password });
  const env = { UC_ENDPOINT: endpoints[0]!, UC_CONFIG: `${stack.dataDir}/uc.json`, NO_COLOR: "1" };
  const uc = (...words: string[]) =>
    new Deno.Command(Deno.execPath(), {
      args: ["run", "-q", "-A", `${workspaceRoot}/cli/main.ts`, ...words],
      env,
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    });
  await using login = uc("login").spawn();
  const lines = login.stderr.pipeThrough(new TextDecoderStream()).getReader();
  let said = "";
  while (!said.includes("code ")) {
    const { value, done } = await lines.read();
    assert.ok(!done, said);
    said += value;
  }
  const [, uri, code] = /Open (\S+) in a browser .* code ([B-Z]{4}-[B-Z]{4})/.exec(said)!;
  const browser = new PlainBrowser();
  await browser.open(uri!);
  assert.match(browser.html, new RegExp(`value="${code}"`));
  assert.equal((await browser.submit({ user: "alice", password })).status, 200);
  while (!(await lines.read()).done);
  await login.stdout.cancel();
  assert.equal((await login.status).code, 0);
  const who = await uc("whoami", "-o", "json").output();
  assert.equal(JSON.parse(new TextDecoder().decode(who.stdout)).name, "alice");
  assert.equal((await Deno.stat(env.UC_CONFIG)).mode! & 0o077, 0);
});
