import assert from "node:assert/strict";
import { type ComponentProcess, freePort, spawnComponent, waitReady } from "@ultracloud/launch";
import { WebhookState } from "@ultracloud/proto/flaredb/v1";
import { workspaceRoot } from "@ultracloud/testing";
import { createHmac } from "node:crypto";
import { parse, stringify } from "smol-toml";
import { until } from "./_replicas.ts";
import { type Members, startMembers } from "./test_members.ts";

const database = "t_shop", name = "orders";

interface Delivery {
  readonly id: string;
  readonly changes: readonly { readonly index: string; readonly after: { readonly a: number } }[];
}

/** A receiver that refuses now and then, and what it accepted, in order. */
function startReceiver() {
  const accepted: Delivery[] = [];
  const witnessed: Delivery[] = [];
  /** By the path that a webhook posts to. */
  const secrets: Record<string, string> = {};
  let requests = 0;
  const port = freePort();
  const server = Deno.serve({ hostname: "127.0.0.1", port, onListen: () => {} }, async (request) => {
    const body = await request.text();
    const path = new URL(request.url).pathname;
    const header = (key: string) => request.headers.get(key)!;
    const signed = `${header("webhook-id")}.${header("webhook-timestamp")}.${body}`;
    const proof = createHmac("sha256", secrets[path]!).update(signed).digest("base64");
    if (header("webhook-signature") !== `v1,${proof}`) return new Response("not signed", { status: 401 });
    if (++requests % 7 === 3) return new Response("busy", { status: 503 });
    (path === "/in" ? accepted : witnessed).push({ id: header("webhook-id"), changes: JSON.parse(body).changes });
    return new Response("ok");
  });
  return { port, accepted, witnessed, secrets, [Symbol.asyncDispose]: () => server.shutdown() };
}

/** The fetcher under its own permissions and that of calling the receiver, which lives on loopback only here. */
async function fetcherOf(members: Members, port: number): Promise<() => Promise<ComponentProcess>> {
  const { stack } = members;
  const placement = stack.placement("fetcher");
  const configFile = `${placement.configDir}/config.toml`;
  const config = parse(await Deno.readTextFile(configFile));
  const tenants = { allowPlain: true, privateRanges: ["127.0.0.0/8"], pollMs: 100 };
  await Deno.writeTextFile(configFile, stringify({ ...config, peers: { flaredb: [...members.urls] }, tenants }));
  const callees = { "flaredb.rpc": [...members.urls.map((url) => new URL(url).host), `127.0.0.1:${port}`] };
  const { manifest, dir } = stack.member("fetcher");
  return async () => {
    const process = spawnComponent({
      manifest,
      placement: { ...placement, callees },
      program: { kind: "source", root: workspaceRoot, entry: `${dir}/${manifest.entry}` },
      logFile: `${members.dir}/fetcher.log`,
    });
    await waitReady(stack.endpoint("fetcher"), { name: "fetcher", timeoutMs: 60_000, process });
    return process;
  };
}

Deno.test("a tenant's webhook gets every committed change, in order, though fetcher and leader are killed", async () => {
  await using members = await startMembers(3, { beside: ["fetcher"] });
  using stack = new DisposableStack();
  const { databases, sql, hooks } = members.clients(stack);
  await until(
    "the database",
    () => databases.createDatabase({ name: database, ifNotExists: true }).then(() => true, () => false),
  );
  const key = (value: string) => ({ headers: { "idempotency-key": value } });
  await databases.updateDatabase({ name: database, settings: { capture: true } });
  await sql.execute({ database, statement: { sql: "CREATE TABLE t(a INTEGER PRIMARY KEY)" } }, key("table"));
  await using receiver = startReceiver();
  const url = (path: string) => `http://127.0.0.1:${receiver.port}${path}`;
  const { secret } = await hooks.createWebhook({ database, name, url: url("/in"), tables: ["t"] }, key("hook"));
  receiver.secrets["/in"] = secret;
  const startFetcher = await fetcherOf(members, receiver.port);
  let fetcher = await startFetcher();
  try {
    // One row after the other; each is committed when the next one begins.
    let next = 0;
    const insert = async (count: number) => {
      for (let i = 0; i < count; i++, next++) {
        const statement = {
          sql: "INSERT INTO t VALUES(?)",
          positional: [{ kind: { case: "integer" as const, value: BigInt(next) } }],
        };
        await until(
          `row ${next}`,
          () => sql.execute({ database, statement }, key(`row-${next}`)).then(() => true, () => false),
        );
      }
    };
    const rows = () => new Set(receiver.accepted.flatMap(({ changes }) => changes.map(({ after }) => after.a)));
    await insert(10);
    await until("the first rows to come", () => rows().size === 10);
    const load = insert(40);
    await until("some of the next ones", () => rows().size > 15);
    await fetcher.kill();
    await load;
    fetcher = await startFetcher();
    const more = insert(40);
    await until("rows after the fetcher's kill", () => rows().size > 55);
    const { groups } = await databases.status({});
    const leader = Number(groups.find((group) => group.database === database)!.leader);
    await members.process(leader).kill();
    await more;
    await insert(10);
    await until("every row, without the member that led", () => rows().size === next);
    await members.start(leader);
    await insert(5);
    await until("every row", () => rows().size === next);

    // What came for the first time came in the order of the log; what came again, came again under its id.
    const seen = new Map<string, number>();
    const first = receiver.accepted.flatMap(({ changes }) => changes).filter(({ index, after }) => {
      const again = seen.has(index);
      if (!again) seen.set(index, after.a);
      return !again;
    });
    assert.deepEqual(first.map(({ after }) => after.a), Array.from({ length: next }, (_, i) => i));
    const indexes = first.map(({ index }) => Number(index));
    assert.deepEqual(indexes, [...indexes].sort((a, b) => a - b));
    const last = BigInt(indexes.at(-1)!);
    await until("flaredb to know", async () => {
      const webhook = await hooks.getWebhook({ database, name });
      return webhook.position >= last && webhook.state === WebhookState.ACTIVE && webhook.failures === 0;
    });
    const logs = await Promise.all([1, 2, 3].map((id) => Deno.readTextFile(`${members.dir}/node${id}.log`)));
    logs.push(await Deno.readTextFile(`${members.dir}/fetcher.log`));
    assert.equal(logs.some((text) => text.includes(secret)), false, "a log holds the secret");

    // Once another one is followed that was made after it was paused, it gets nothing; resumed, everything since.
    await hooks.updateWebhook({ database, name, paused: true });
    const witness = await hooks.createWebhook({ database, name: "witness", url: url("/witness") }, key("witness"));
    receiver.secrets["/witness"] = witness.secret;
    const witnessed = () => receiver.witnessed.flatMap(({ changes }) => changes).length;
    await insert(1);
    await until("the witness to be followed", () => witnessed() >= 1);
    await insert(3);
    await until("the witness", () => witnessed() >= 4);
    assert.ok(rows().size <= next - 3, `${rows().size} of ${next} came`);
    await hooks.updateWebhook({ database, name, paused: false });
    await until("what came meanwhile", () => rows().size === next);
  } finally {
    await fetcher.kill();
  }
});
