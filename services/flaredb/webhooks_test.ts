import assert from "node:assert/strict";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { permissionMatches, scopeCovers, svcId } from "@ultracloud/authz";
import {
  DatabaseService,
  SqlService,
  WebhookDeliveryService,
  WebhookService,
  WebhookState,
} from "@ultracloud/proto/flaredb/v1";
import { createRpcClient, toFault } from "@ultracloud/rpc";
import { anyone, startReplica } from "./_replicas.ts";

const refusedAs = (code: string) => (error: unknown) => {
  assert.equal(toFault(error).code, code);
  return true;
};
const url = "https://shop.example.com/changes";

/** A replica with a database that captures changes, and clients of it. */
class Shop implements AsyncDisposable {
  readonly #stack = new AsyncDisposableStack();
  readonly dir = Deno.makeTempDirSync();
  url = "";

  static async open(auth = anyone): Promise<Shop> {
    const shop = new Shop();
    shop.#stack.defer(() => Deno.remove(shop.dir, { recursive: true }));
    const replica = shop.#stack.use(await startReplica({ dir: shop.dir }, auth));
    shop.url = replica.url;
    return shop;
  }

  clients(who = "operator") {
    const at = { endpoints: [this.url], authorization: () => `Bearer ${who}` };
    const use = <T extends Disposable>(client: T) => this.#stack.use(client);
    return {
      databases: use(createRpcClient(DatabaseService, at)),
      sql: use(createRpcClient(SqlService, at)),
      hooks: use(createRpcClient(WebhookService, at)),
      deliveries: use(createRpcClient(WebhookDeliveryService, at)),
    };
  }

  async database(name: string): Promise<void> {
    const { databases, sql } = this.clients();
    await databases.createDatabase({ name });
    await databases.updateDatabase({ name, settings: { capture: true } });
    await sql.execute({ database: name, statement: { sql: "CREATE TABLE t(a INTEGER PRIMARY KEY)" } });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#stack.disposeAsync();
  }
}

Deno.test("a webhook is made once, told without its secret, changed and deleted; it begins behind what was committed", async () => {
  await using shop = await Shop.open();
  const { databases, sql, hooks, deliveries } = shop.clients();
  await databases.createDatabase({ name: "t_shop" });
  await assert.rejects(hooks.createWebhook({ database: "t_shop", name: "a", url }), refusedAs("not_captured"));
  await shop.database("t_more");
  const database = "t_more";
  const { index } = await sql.execute({ database, statement: { sql: "INSERT INTO t VALUES(1)" } });
  const request = { database, name: "orders", url, tables: ["t"] };
  const headers = { "idempotency-key": "once" };
  const made = await hooks.createWebhook(request, { headers });
  assert.match(made.secret, /^[A-Za-z0-9_-]{43}$/);
  assert.equal(made.webhook?.state, WebhookState.ACTIVE);
  assert.ok(made.webhook.position >= index, `${made.webhook.position} is before ${index}`);
  await sql.execute({ database, statement: { sql: "INSERT INTO t VALUES(2)" } });
  assert.deepEqual(await hooks.createWebhook(request, { headers }), made, "a repeated request is the same request");
  await assert.rejects(hooks.createWebhook(request), refusedAs("webhook_exists"));
  const own = await hooks.createWebhook({ ...request, name: "own", secret: "the-receiver's-own-one" });
  assert.equal(own.secret, "");

  const { webhooks } = await hooks.listWebhooks({ database });
  assert.deepEqual(webhooks.map(({ name }) => name), ["orders", "own"]);
  const told = JSON.stringify(
    [webhooks, await hooks.getWebhook({ database, name: "own" })],
    (_, v) => typeof v === "bigint" ? String(v) : v,
  );
  assert.equal(told.includes(made.secret) || told.includes("receiver"), false);
  const listed = await deliveries.listDeliveries({});
  assert.deepEqual(listed.webhooks.map(({ secret }) => secret), [made.secret, "the-receiver's-own-one"]);
  assert.equal((await deliveries.listDeliveries({ knownRevision: listed.revision })).unchanged, true);

  const paused = await hooks.updateWebhook({ database, name: "orders", paused: true });
  assert.deepEqual([paused.state, paused.position, paused.tables], [
    WebhookState.PAUSED,
    made.webhook.position,
    ["t"],
  ]);
  const others = await deliveries.listDeliveries({ knownRevision: listed.revision });
  assert.deepEqual(others.webhooks.map(({ name }) => name), ["own"]);
  const moved = await hooks.updateWebhook({
    database,
    name: "orders",
    paused: false,
    url: `${url}/2`,
    tables: { names: [] },
    restart: true,
  });
  assert.deepEqual([moved.url, moved.tables, moved.state], [`${url}/2`, [], WebhookState.ACTIVE]);
  assert.ok(moved.position > made.webhook.position);
  await hooks.deleteWebhook({ database, name: "own" });
  await assert.rejects(hooks.getWebhook({ database, name: "own" }), refusedAs("webhook_not_found"));
  await assert.rejects(hooks.deleteWebhook({ database, name: "own" }), refusedAs("webhook_not_found"));
  await assert.rejects(hooks.updateWebhook({ database, name: "own", paused: true }), refusedAs("webhook_not_found"));

  // A database of the same name that is made later has none of them.
  await databases.deleteDatabase({ name: database });
  await shop.database(database);
  assert.deepEqual((await hooks.listWebhooks({ database })).webhooks, []);
  assert.deepEqual((await deliveries.listDeliveries({})).webhooks, []);
});

Deno.test("reports move a webhook forward only, count failures, and do nothing once it was changed", async () => {
  await using shop = await Shop.open();
  const { sql, hooks, deliveries } = shop.clients();
  const database = "t_shop", name = "orders";
  await shop.database(database);
  await hooks.createWebhook({ database, name, url });
  const get = () => hooks.getWebhook({ database, name });
  const due = async () => (await deliveries.listDeliveries({})).webhooks[0];
  const { id, revision, position } = (await due())!;
  const report = (more: Record<string, unknown>) =>
    deliveries.reportDeliveries({ reports: [{ id, revision, position, ...more }] });
  const nextTryTime = timestampFromMs(Date.now() + 60_000);
  const failure = { pendingIndex: position + 3n, reason: "The receiver answered 500", nextTryTime };
  await report({ begin: true, position: position + 50n });
  assert.equal((await get()).position, position, "it had begun");
  for (let tries = 1; tries <= 5; tries++) {
    await report({ failure });
    const now = await get();
    assert.deepEqual([now.failures, now.reason, now.nextTryTime], [tries, failure.reason, nextTryTime]);
    assert.equal(now.state, tries < 5 ? WebhookState.RETRYING : WebhookState.FAILING);
    assert.ok(now.failingSince);
  }
  assert.equal((await due())?.pendingIndex, position + 3n);
  await report({ accepted: true, position: position + 3n });
  await report({ position: position + 1n });
  const accepted = await get();
  assert.deepEqual([accepted.state, accepted.failures, accepted.position, accepted.reason, accepted.nextTryTime], [
    WebhookState.ACTIVE,
    0,
    position + 3n,
    "",
    undefined,
  ]);
  assert.ok(accepted.deliveryTime);
  // Given up: not listed, until somebody resumes it.
  await report({ failure: { pendingIndex: position + 4n, reason: "The receiver answered 410" } });
  assert.equal((await get()).state, WebhookState.FAILING);
  assert.equal(await due(), undefined);
  await hooks.updateWebhook({ database, name, paused: false });
  assert.notEqual((await due())?.revision, revision);
  await report({ failure });
  await report({ accepted: true, position: position + 99n });
  const resumed = await get();
  assert.deepEqual([resumed.state, resumed.failures, resumed.position], [WebhookState.ACTIVE, 0, position + 3n]);

  // What nobody follows says by itself that changes are gone.
  await hooks.updateWebhook({ database, name, paused: true });
  const { databases } = shop.clients();
  for (let a = 0; a < 5; a++) await sql.execute({ database, statement: { sql: `INSERT INTO t VALUES(${a})` } });
  await databases.updateDatabase({ name: database, settings: { capture: false } });
  await databases.updateDatabase({ name: database, settings: { capture: true } });
  const lost = await get();
  assert.equal(lost.state, WebhookState.LOST_POSITION);
  assert.match(lost.reason, /^Changes up to \d+ are not held any more/);
  const restarted = await hooks.updateWebhook({ database, name, paused: false, restart: true });
  assert.equal(restarted.state, WebhookState.ACTIVE);
});

Deno.test("webhooks are bounded per database, and bad ones are refused without a trace", async () => {
  await using shop = await Shop.open();
  const { hooks } = shop.clients();
  const database = "t_shop";
  await shop.database(database);
  const bad: readonly (readonly [Record<string, unknown>, string])[] = [
    [{ name: "" }, "invalid_webhook"],
    [{ name: "Orders" }, "invalid_webhook"],
    [{ name: "a".repeat(64) }, "invalid_webhook"],
    [{ url: "" }, "invalid_url"],
    [{ url: "ftp://example.com/" }, "invalid_url"],
    [{ url: "file:///etc/passwd" }, "invalid_url"],
    [{ url: "https://user:pass@example.com/" }, "invalid_url"],
    [{ url: `https://example.com/${"a".repeat(2_048)}` }, "invalid_url"],
    [{ tables: [""] }, "invalid_field"],
    [{ tables: ["a", "a"] }, "invalid_field"],
    [{ tables: Array.from({ length: 33 }, (_, i) => `t${i}`) }, "invalid_field"],
    [{ secret: "short" }, "invalid_secret"],
    [{ secret: "with\r\nheader: of its own" }, "invalid_secret"],
    [{ database: "t_none" }, "database_not_found"],
    [{ database: "none" }, "invalid_database"],
  ];
  for (const [change, code] of bad) {
    const made = hooks.createWebhook({ database, name: "orders", url, ...change });
    await assert.rejects(made, (error) => {
      assert.equal(toFault(error).code, code, JSON.stringify(change));
      assert.doesNotMatch(toFault(error).message, /pass|header/);
      return true;
    });
  }
  assert.deepEqual((await hooks.listWebhooks({ database })).webhooks, []);
  for (let i = 0; i < 16; i++) await hooks.createWebhook({ database, name: `hook-${i}`, url });
  await assert.rejects(hooks.createWebhook({ database, name: "more", url }), refusedAs("webhooks_full"));
  await hooks.deleteWebhook({ database, name: "hook-3" });
  await hooks.createWebhook({ database, name: "more", url });
  await assert.rejects(hooks.updateWebhook({ database, name: "more" }), refusedAs("invalid_field"));
  await assert.rejects(
    hooks.updateWebhook({ database, name: "more", url: "gopher://x" }),
    refusedAs("invalid_url"),
  );
});

Deno.test("a tenant cannot see, make or change webhooks of another's database, nor read what the deliverer reads", async () => {
  // What trust files give: a tenant everything of its own database, by the rules that grants are read with.
  const grantOf = (who: string) => who === svcId("test", "operator") ? "" : `t_${who.split("/").at(-1)}`;
  await using shop = await Shop.open({
    authenticator: {
      authenticate: (header) => ({
        kind: "workload",
        id: svcId("test", (header.get("authorization") ?? "").replace("Bearer ", "")),
      }),
    },
    authorizer: {
      authorize: (principal, permission, scope) =>
        permissionMatches("flaredb.*.*", permission) && scopeCovers(grantOf(principal.id), scope)
          ? { allow: true }
          : { allow: false, visible: true, reason: "no grant" },
    },
  });
  for (const name of ["t_mine", "t_theirs"]) await shop.database(name);
  const mine = shop.clients("mine"), theirs = shop.clients("theirs");
  const database = "t_theirs", name = "orders";
  const { secret } = await theirs.hooks.createWebhook({ database, name, url });
  assert.notEqual(secret, "");
  const denied: readonly (() => Promise<unknown>)[] = [
    () => mine.hooks.createWebhook({ database, name: "spy", url }),
    () => mine.hooks.getWebhook({ database, name }),
    () => mine.hooks.listWebhooks({ database }),
    () => mine.hooks.updateWebhook({ database, name, url: "https://spy.example.com/" }),
    () => mine.hooks.deleteWebhook({ database, name }),
    ...[mine, theirs].flatMap(({ deliveries }) => [
      () => deliveries.listDeliveries({}),
      () => deliveries.reportDeliveries({ reports: [{ id: 1n, revision: 1n, position: 1_000n }] }),
    ]),
  ];
  for (const call of denied) {
    await assert.rejects(call, (error) => {
      assert.equal(toFault(error).kind, "permission_denied");
      return true;
    });
  }
  await mine.hooks.createWebhook({ database: "t_mine", name, url });
  assert.deepEqual((await mine.hooks.listWebhooks({ database: "t_mine" })).webhooks.map((w) => w.database), ["t_mine"]);
  assert.equal((await theirs.hooks.getWebhook({ database, name })).url, url);
});
