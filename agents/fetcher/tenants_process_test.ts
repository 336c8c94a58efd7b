import assert from "node:assert/strict";
import { createWorkloadSigner, generateIdentity, svcId, type TrustFile } from "@ultracloud/authz";
import { systemClock } from "@ultracloud/base";
import { freePort, spawnComponent, waitReady } from "@ultracloud/launch";
import { DatabaseService, SqlService, type Webhook, WebhookService, WebhookState } from "@ultracloud/proto/flaredb/v1";
import { createRpcClient, toFault } from "@ultracloud/rpc";
import { startTestStack, workspaceRoot } from "@ultracloud/testing";
import { parse, stringify } from "smol-toml";

const hangMsMax = 60_000;

async function until<T>(what: string, find: () => Promise<T | undefined> | T | undefined): Promise<T> {
  for (const end = performance.now() + hangMsMax;;) {
    const found = await find();
    if (found !== undefined) return found;
    if (performance.now() > end) throw new Error(`Waited too long for ${what}`);
    await systemClock.sleep(20);
  }
}

Deno.test("tenants' webhooks reach only what tenants may reach, and carry only their own rows", async () => {
  // A receiver of two tenants, one that sends on to the inside, and something of the inside.
  const got: { readonly path: string; readonly rows: unknown[] }[] = [];
  const inner: string[] = [];
  const innerPort = freePort(), port = freePort();
  await using _inner = Deno.serve({ hostname: "127.0.0.1", port: innerPort, onListen: () => {} }, (request) => {
    inner.push(request.url);
    return new Response("metadata");
  });
  await using _receiver = Deno.serve({ hostname: "127.0.0.1", port, onListen: () => {} }, async (request) => {
    const { pathname } = new URL(request.url);
    const { changes } = await request.json() as { changes: { after: { a: unknown } }[] };
    if (pathname === "/redirect") {
      return new Response("", { status: 307, headers: { location: `http://127.0.0.1:${innerPort}/` } });
    }
    got.push({ path: pathname, rows: changes.map(({ after }) => after.a) });
    return new Response("ok");
  });

  await using test = await startTestStack({
    components: ["flaredb", "fetcher"],
    overrides: { flaredb: { webhooks: { allowPlain: true } } },
    start: false,
  });
  const { stack } = test;
  const placement = stack.placement("fetcher");
  // Two tenants, each with everything of its own database and nothing else.
  const trust = JSON.parse(await Deno.readTextFile(placement.trustFile)) as TrustFile;
  const keys = new Map([["operator", stack.operatorKeyFile]]);
  for (const name of ["mine", "theirs"]) {
    const { publicKey, privateKey } = await generateIdentity();
    const keyFile = `${stack.dataDir}/etc/${name}.key`;
    await Deno.writeTextFile(keyFile, JSON.stringify(privateKey), { mode: 0o600 });
    trust.principals[svcId("test", name)] = { publicKey, grants: [{ permission: "flaredb.*.*", scope: `t_${name}` }] };
    keys.set(name, keyFile);
  }
  await Deno.writeTextFile(placement.trustFile, JSON.stringify(trust), { mode: 0o600 });
  // Everything on loopback is the inside, but for the receiver: its host alone is allowed by the runtime.
  const configFile = `${placement.configDir}/config.toml`;
  const config = parse(await Deno.readTextFile(configFile));
  const configure = (privateRanges: string[]) =>
    Deno.writeTextFile(
      configFile,
      // What the operator's own hooks may reach is not what tenants may.
      stringify({
        ...config,
        privateRanges: ["127.0.0.0/8", "169.254.0.0/16", "10.0.0.0/8"],
        tenants: { allowPlain: true, privateRanges, pollMs: 50 },
      }),
    );
  const startFetcher = async () => {
    const { manifest, dir } = stack.member("fetcher");
    const callees = { "flaredb.rpc": [...placement.callees["flaredb.rpc"]!, `127.0.0.1:${port}`] };
    const process = spawnComponent({
      manifest,
      placement: { ...placement, callees },
      program: { kind: "source", root: workspaceRoot, entry: `${dir}/${manifest.entry}` },
      logFile: stack.logFile("fetcher"),
    });
    await waitReady(stack.endpoint("fetcher"), { name: "fetcher", timeoutMs: hangMsMax, process });
    return process;
  };
  await waitReady(stack.endpoint("flaredb"), {
    name: "flaredb",
    timeoutMs: hangMsMax,
    process: stack.start("flaredb"),
  });
  using clients = new DisposableStack();
  const as = async (name: string) => {
    const signer = await createWorkloadSigner({ clusterId: "test", name, keyFile: keys.get(name)! }, {
      clock: systemClock,
    });
    const at = { endpoints: [stack.endpoint("flaredb")], authorization: signer.authorization("flaredb") };
    return {
      databases: clients.use(createRpcClient(DatabaseService, at)),
      sql: clients.use(createRpcClient(SqlService, at)),
      hooks: clients.use(createRpcClient(WebhookService, at)),
    };
  };
  const operator = await as("operator"), mine = await as("mine"), theirs = await as("theirs");
  for (const [name, tenant] of [["t_mine", mine], ["t_theirs", theirs]] as const) {
    await operator.databases.createDatabase({ name });
    await operator.databases.updateDatabase({ name, settings: { capture: true } });
    await tenant.sql.execute({ database: name, statement: { sql: "CREATE TABLE t(a TEXT PRIMARY KEY)" } });
  }
  const insert = (tenant: typeof mine, database: string, text: string) =>
    tenant.sql.execute({
      database,
      statement: { sql: "INSERT INTO t VALUES(?)", positional: [{ kind: { case: "text", value: text } }] },
    });
  const url = (path: string) => `http://127.0.0.1:${port}${path}`;

  // Neither tenant reaches the other's webhooks, nor makes one that would carry the other's rows.
  await theirs.hooks.createWebhook({ database: "t_theirs", name: "theirs", url: url("/theirs") });
  const foreign: readonly (() => Promise<unknown>)[] = [
    () => mine.hooks.createWebhook({ database: "t_theirs", name: "spy", url: url("/mine") }),
    () => mine.hooks.listWebhooks({ database: "t_theirs" }),
    () => mine.hooks.getWebhook({ database: "t_theirs", name: "theirs" }),
    () => mine.hooks.updateWebhook({ database: "t_theirs", name: "theirs", url: url("/mine") }),
    () => mine.hooks.deleteWebhook({ database: "t_theirs", name: "theirs" }),
  ];
  for (const call of foreign) {
    await assert.rejects(call, (error) => {
      assert.equal(toFault(error).kind, "permission_denied");
      return true;
    });
  }

  // However the inside is written: by number, by name, by a redirect.
  const attacks = {
    "by-number": `http://127.0.0.1:${innerPort}/latest/meta-data`,
    "by-integer": `http://2130706433:${innerPort}/`,
    "by-v6": `http://[::ffff:127.0.0.1]:${innerPort}/`,
    "link-local": "http://169.254.169.254/latest/meta-data",
    "private": "https://10.0.0.1/",
    "flaredb": `${stack.endpoint("flaredb")}/api/v1/sql`,
  };
  for (const [name, url] of Object.entries(attacks)) {
    await mine.hooks.createWebhook({ database: "t_mine", name, url });
  }
  let fetcher = await (await configure([]), startFetcher());
  try {
    await insert(mine, "t_mine", "secret of mine");
    const failed = (name: string) =>
      until(`the failure of ${name}`, async (): Promise<Webhook | undefined> => {
        const webhook = await mine.hooks.getWebhook({ database: "t_mine", name });
        return webhook.failures > 0 ? webhook : undefined;
      });
    for (const [name, url] of Object.entries(attacks)) {
      const { reason, state, nextTryTime } = await failed(name);
      const host = new URL(url).host;
      assert.equal(reason, `Cannot post to ${host}: wanted a name with public IPv4 addresses only`);
      assert.equal(state, WebhookState.RETRYING);
      assert.ok(nextTryTime);
      await mine.hooks.deleteWebhook({ database: "t_mine", name });
    }
    assert.deepEqual(inner, []);

    // With a range allowed by the operator, the runtime still knows the receiver only; a redirect is not followed.
    await fetcher.kill();
    fetcher = await (await configure(["127.0.0.0/8"]), startFetcher());
    await mine.hooks.createWebhook({ database: "t_mine", name: "inside", url: attacks["by-number"] });
    await mine.hooks.createWebhook({ database: "t_mine", name: "redirect", url: url("/redirect") });
    await mine.hooks.createWebhook({ database: "t_mine", name: "mine", url: url("/mine") });
    await insert(mine, "t_mine", "of mine");
    await insert(theirs, "t_theirs", "of theirs");
    assert.equal((await failed("inside")).reason, `Cannot reach 127.0.0.1:${innerPort}`);
    assert.equal((await failed("redirect")).reason, "The receiver answered 307: wanted 200 to 299");
    await until("both tenants' rows", () => got.length >= 2 ? got : undefined);
    assert.deepEqual(inner, []);
    assert.deepEqual(
      got.map(({ path, rows }) => `${path} ${rows}`).sort(),
      ["/mine of mine", "/theirs of theirs"],
    );
  } finally {
    await fetcher.kill();
  }
});
