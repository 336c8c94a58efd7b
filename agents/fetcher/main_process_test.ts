import assert from "node:assert/strict";
import { createWorkloadSigner } from "@ultracloud/authz";
import { systemClock } from "@ultracloud/base";
import { freePort, spawnComponent, waitReady } from "@ultracloud/launch";
import { DatabaseService, SqlService } from "@ultracloud/proto/flaredb/v1";
import { createRpcClient } from "@ultracloud/rpc";
import { startTestStack, workspaceRoot } from "@ultracloud/testing";
import { createHmac } from "node:crypto";
import { parse, stringify } from "smol-toml";

const hangMsMax = 60_000;

async function until(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  for (const end = performance.now() + hangMsMax; !(await holds());) {
    if (performance.now() > end) throw new Error(`Waited too long until ${what}`);
    await systemClock.sleep(20);
  }
}

Deno.test("row changes reach a receiver once each though everything is killed; private addresses are refused twice over", async () => {
  const secret = "shared with the receiver";
  const got: { id: string; rows: unknown[] }[] = [];
  let refuse = false;
  const receive = async (request: Request) => {
    const body = await request.text();
    const header = (name: string) => request.headers.get(name)!;
    const signed = `${header("webhook-id")}.${header("webhook-timestamp")}.${body}`;
    const proof = createHmac("sha256", secret).update(signed).digest("base64");
    if (header("webhook-signature") !== `v1,${proof}`) return new Response("not signed", { status: 401 });
    if (refuse) return new Response("busy", { status: 503 });
    const { changes } = JSON.parse(body) as { changes: { after: { a: unknown } }[] };
    got.push({ id: header("webhook-id"), rows: changes.map(({ after }) => after.a) });
    return new Response("ok");
  };
  const port = freePort();
  await using receiver = Deno.serve({ hostname: "127.0.0.1", port, onListen: () => {} }, receive);
  const strangers: string[] = [];
  const strangerPort = freePort();
  await using _stranger = Deno.serve({ hostname: "127.0.0.1", port: strangerPort, onListen: () => {} }, (request) => {
    strangers.push(request.url);
    return new Response("ok");
  });

  await using test = await startTestStack({ components: ["flaredb", "fetcher"], start: false });
  const { stack } = test;
  const { configDir, stateDir } = stack.placement("fetcher");
  const secretFile = `${configDir}/hook.secret`;
  await Deno.writeTextFile(secretFile, secret, { mode: 0o600 });
  const configFile = `${configDir}/config.toml`;
  const config = parse(await Deno.readTextFile(configFile));
  const hook = (name: string, url: string) => ({
    name,
    database: "t_shop",
    tables: ["t"],
    url,
    secretFile,
    insecure: true,
  });
  const hooks = [hook("orders", `http://127.0.0.1:${port}/in`), hook("inner", `http://127.0.0.1:${strangerPort}/`)];
  const write = (privateRanges: string[]) =>
    Deno.writeTextFile(configFile, stringify({ ...config, hooks, privateRanges }));
  await write(["127.0.0.0/8"]);
  // Its own permissions, and that of calling the one receiver, which lives on loopback only here.
  const start = async () => {
    const { manifest, dir } = stack.member("fetcher");
    const placement = stack.placement("fetcher");
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
  const startStore = async () => {
    const process = stack.start("flaredb");
    await waitReady(stack.endpoint("flaredb"), { name: "flaredb", timeoutMs: hangMsMax, process });
  };
  await startStore();
  using clients = new DisposableStack();
  const signer = await createWorkloadSigner(
    { clusterId: "test", name: "operator", keyFile: stack.operatorKeyFile },
    { clock: systemClock },
  );
  const at = { endpoints: [stack.endpoint("flaredb")], authorization: signer.authorization("flaredb") };
  const databases = clients.use(createRpcClient(DatabaseService, at));
  const sql = clients.use(createRpcClient(SqlService, at));
  const run = (text: string) => sql.execute({ database: "t_shop", statement: { sql: text } });
  await databases.createDatabase({ name: "t_shop" });
  await databases.updateDatabase({ name: "t_shop", settings: { capture: true } });
  await run("CREATE TABLE t(a INTEGER PRIMARY KEY)");
  let next = 0;
  const insert = (count: number) => run(`INSERT INTO t VALUES ${Array.from({ length: count }, () => `(${next++})`)}`);
  let process = await start();
  try {
    await until("the hooks have begun", () => Deno.stat(`${stateDir}/orders.index`).then(() => true, () => false));
    await until("the other one, too", () => Deno.stat(`${stateDir}/inner.index`).then(() => true, () => false));
    await insert(1);
    await insert(3);
    const rows = () => got.flatMap((each) => each.rows);
    await until("both have come", () => rows().length === 4);
    // Killed while the receiver refuses, and while changes go on.
    refuse = true;
    await insert(2);
    await until(
      "it is refused",
      async () => (await Deno.readTextFile(stack.logFile("fetcher"))).includes("answered 503"),
    );
    await process.kill();
    await insert(1);
    await stack.process("flaredb")!.kill();
    await startStore();
    refuse = false;
    process = await start();
    await insert(1);
    await until("everything has come", () => new Set(rows()).size === 8);
    const byId = new Map(got.map(({ id, rows }) => [id, rows]));
    assert.deepEqual([...byId.values()].flat(), [0, 1, 2, 3, 4, 5, 6, 7]);

    // Allowed by configuration, but not granted: the runtime refuses.
    assert.match(
      await Deno.readTextFile(stack.logFile("fetcher")),
      /inner.*Requires net access to|Requires net access to.*inner/,
    );
    await process.kill();
    await write([]);
    process = await start();
    await insert(1);
    await until("what is not public is refused", async () => {
      const log = await Deno.readTextFile(stack.logFile("fetcher"));
      return log.includes("hook_address_refused");
    });
    assert.deepEqual(strangers, []);
    assert.equal(rows().includes(8), false);
  } finally {
    await process.kill();
    await receiver.shutdown();
  }
});
