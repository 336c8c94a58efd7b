import assert from "node:assert/strict";
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { Fault, seededRng, systemClock } from "@ultracloud/base";
import { noopLogger } from "@ultracloud/observe";
import { GetOperationRequestSchema, OperationSchema } from "@ultracloud/proto/common/v1";
import { allocate, claim, release } from "./allocate.ts";
import { watchRecords } from "./events.ts";
import { answersCountMax, answersShareMax, idempotencyOf } from "./idempotency.ts";
import { memoryBackend } from "./memory_kv.ts";
import { openPlatform, type Platform } from "./platform.ts";
import { defineKind, type StoredRecord } from "./records.ts";

interface Thing {
  readonly size: number;
  readonly state?: string;
}
const things = defineKind<Thing>({ name: "thing", prefix: "vm" });
const project = "acme/prod";

function open(kv = memoryBackend({ clock: systemClock })): Platform {
  return openPlatform({ service: "test" }, { kv, clock: systemClock, rng: seededRng(7), log: noopLogger });
}

const add = (platform: Platform, name: string, value: Thing = { size: 1 }, labels: Record<string, string> = {}) =>
  platform.transact((tx) => tx.create(things, { project, name, value, labels }));

async function code(work: Promise<unknown>): Promise<string> {
  try {
    await work;
  } catch (error) {
    if (error instanceof Fault) return `${error.kind}/${error.code}`;
    throw error;
  }
  return "ok";
}

Deno.test("records are found by name and by id, within their project only", async () => {
  const platform = open();
  const made = await add(platform, "web");
  assert.match(made.id, /^vm_/);
  assert.deepEqual(await platform.get(things, project, "web"), made);
  assert.deepEqual(await platform.get(things, project, made.id), made);
  assert.equal(await code(platform.get(things, "acme/dev", made.id)), "not_found/thing_not_found");
  assert.equal(await code(platform.get(things, project, "db")), "not_found/thing_not_found");
});

Deno.test("a name is taken once per project and kind, and free again after removal", async () => {
  const platform = open();
  const first = await add(platform, "web");
  assert.equal(await code(add(platform, "web")), "already_exists/thing_exists");
  await platform.transact(async (tx) => tx.remove(things, await tx.get(things, project, "web")));
  assert.equal(await code(platform.get(things, project, first.id)), "not_found/thing_not_found");
  const second = await add(platform, "web");
  assert.notEqual(second.id, first.id);
  assert.equal(await code(platform.get(things, project, first.id)), "not_found/thing_not_found");
});

Deno.test("a stale etag is aborted and a present one is taken", async () => {
  const platform = open();
  const made = await add(platform, "web");
  const grow = (etag: string) =>
    platform.transact(async (tx) =>
      tx.update(things, await tx.get(things, project, "web"), { value: { size: 2 }, etag })
    );
  const next = await grow(made.etag);
  assert.notEqual(next.etag, made.etag);
  assert.equal(next.revision, 2);
  assert.equal(await code(grow(made.etag)), "aborted/etag_mismatch");
});

Deno.test("concurrent increments of one record lose none", async () => {
  const platform = open();
  await add(platform, "web", { size: 0 });
  await Promise.all(Array.from({ length: 20 }, () =>
    platform.transact(async (tx) => {
      const record = await tx.get(things, project, "web");
      tx.update(things, record, { value: { size: record.value.size + 1 } });
    }, { serialize: "web" })));
  assert.equal((await platform.get(things, project, "web")).value.size, 20);
});

Deno.test("a guarded removal loses against a child that is added meanwhile", async () => {
  const platform = open();
  await add(platform, "parent");
  let tries = 0;
  const removal = platform.transact(async (tx) => {
    const parent = await tx.get(things, project, "parent");
    await tx.guard(parent.id);
    const children = await tx.list(things, `${project}-children`);
    if (tries++ === 0) {
      await platform.transact(async (other) => {
        await other.getById(things, parent.id);
        other.touch(parent.id);
        await other.create(things, { project: `${project}-children`, name: "child", value: { size: 1 } });
      });
    }
    if (children.length > 0) throw new Error("has children");
    tx.remove(things, parent);
  });
  await assert.rejects(removal, /has children/);
  assert.equal(tries, 2);
});

Deno.test("pages are by name, complete, and their tokens belong to the question", async () => {
  const platform = open();
  for (let i = 0; i < 25; i++) {
    await add(platform, `t${String(i).padStart(2, "0")}`, {
      size: i,
      state: i % 2 ? "THING_STATE_ON" : "THING_STATE_OFF",
    }, {
      tier: i < 5 ? "gold" : "iron",
    });
  }
  await platform.transact(async (tx) => tx.remove(things, await tx.get(things, project, "t03")));
  const names: string[] = [];
  let pageToken = "";
  do {
    const page = await platform.page(things, { project, page: { pageSize: 10, pageToken } });
    names.push(...page.items.map((r) => r.name));
    pageToken = page.nextPageToken;
  } while (pageToken);
  assert.equal(names.length, 24);
  assert.deepEqual(names, [...names].sort());
  const gold = await platform.page(things, { project, page: { labels: { tier: "gold" }, filter: ["state=on"] } });
  assert.deepEqual(gold.items.map((r) => r.name), ["t01"]);
  const first = await platform.page(things, { project, page: { pageSize: 10 } });
  const misused = platform.page(things, {
    project,
    page: { pageSize: 10, pageToken: first.nextPageToken, filter: ["size=1"] },
  });
  assert.equal(await code(misused), "invalid_argument/invalid_page_token");
  assert.equal(
    await code(platform.page(things, { project, page: { pageSize: 1001 } })),
    "invalid_argument/invalid_field",
  );
  assert.equal(
    await code(platform.page(things, { project, page: { filter: ["=x"] } })),
    "invalid_argument/invalid_field",
  );
});

Deno.test("a page token names no record that the caller may not see", async () => {
  const platform = open();
  for (const name of ["a-mine", "b-hidden", "c-mine", "d-hidden", "e-mine"]) await add(platform, name);
  const where = (record: StoredRecord) => record.name.endsWith("mine");
  const names: string[] = [];
  let pageToken = "";
  do {
    const page = await platform.page(things, { project, where, page: { pageSize: 1, pageToken } });
    names.push(...page.items.map((r) => r.name));
    pageToken = page.nextPageToken;
    assert.doesNotMatch(atob(pageToken.replaceAll("-", "+").replaceAll("_", "/")), /hidden/);
  } while (pageToken);
  assert.deepEqual(names, ["a-mine", "c-mine", "e-mine"]);
});

Deno.test("one caller cannot fill the table of kept answers for the others", async () => {
  const kv = memoryBackend({ clock: systemClock });
  const put = new Uint8Array(64);
  for (let from = 0; from < answersCountMax * answersShareMax; from += 1000) {
    await kv.write([], Array.from({ length: 1000 }, (_, i) => ({ bucket: "answers", key: `user:a|${from + i}`, put })));
  }
  const platform = open(kv);
  const call = (id: string) => {
    const context = { idempotencyKey: "new", principal: { kind: "user" as const, id }, method: "/test/Do" };
    const request = create(GetOperationRequestSchema, { id: "x" });
    const idempotency = idempotencyOf(context, GetOperationRequestSchema, request, OperationSchema);
    return platform.transact<MessageInitShape<typeof OperationSchema>>(() => ({ id: "x" }), { idempotency });
  };
  assert.equal(await code(call("user:a")), "resource_exhausted/idempotency_table_full");
  assert.equal(await code(call("user:b")), "ok");
});

Deno.test("an idempotency key replays the first answer, and refuses another request", async () => {
  const platform = open();
  const call = (key: string | undefined, id: string, caller = "user:a") => {
    const context = {
      idempotencyKey: key,
      principal: { kind: "user" as const, id: caller },
      method: "/test/Do",
    };
    const request = create(GetOperationRequestSchema, { id });
    return platform.transact(async (tx) => {
      const made = await tx.create(things, {
        project,
        name: `n-${tx.newId("vm").slice(-8).toLowerCase()}`,
        value: { size: 1 },
      });
      return { id: made.id };
    }, { idempotency: idempotencyOf(context, GetOperationRequestSchema, request, OperationSchema) });
  };
  const first = await call("k", "x");
  assert.equal((await call("k", "x")).id, first.id);
  assert.equal(await code(call("k", "y")), "already_exists/idempotency_mismatch");
  assert.notEqual((await call("k", "x", "user:b")).id, first.id);
  assert.equal((await platform.list(things)).length, 2);
  const both = await Promise.all([call("k2", "x"), call("k2", "x")]);
  assert.equal(both[0].id, both[1].id);
});

Deno.test("allocate() hands out each number once under 100 concurrent callers and says when the pool is empty", async () => {
  const platform = open();
  const pool = { name: "ip", first: 10, last: 99 };
  const results = await Promise.all(
    Array.from(
      { length: 100 },
      (_, i) => platform.transact((tx) => allocate(tx, pool, `h${i}`), { serialize: "ip" }).catch((e: Fault) => e.code),
    ),
  );
  const numbers = results.filter((r) => typeof r === "number");
  assert.equal(numbers.length, 90);
  assert.equal(new Set(numbers).size, 90);
  assert.equal(results.filter((r) => r === "pool_exhausted").length, 10);
  const holder = `h${results.indexOf(42)}`;
  await platform.transact((tx) => release(tx, pool, 42, "someone else"));
  assert.equal(await platform.transact((tx) => claim(tx, pool, 42, "other")), false);
  await platform.transact((tx) => release(tx, pool, 42, holder));
  assert.equal(await platform.transact((tx) => allocate(tx, pool, "late")), 42);
});

Deno.test("allocate() never hands out a number twice even without serialising", async () => {
  const platform = open();
  const pool = { name: "ip", first: 1, last: 50 };
  const numbers = await Promise.all(
    Array.from({ length: 12 }, (_, i) => platform.transact((tx) => allocate(tx, pool, `h${i}`))),
  );
  assert.equal(new Set(numbers).size, 12);
});

Deno.test("events tell every change once, in order, across a resume inside one write", async () => {
  const kv = memoryBackend({ clock: systemClock });
  const platform = open(kv);
  const views = { thing: (r: StoredRecord) => ({ name: r.name }) };
  const start = await kv.write([], []);
  assert.ok(start.committed);
  await platform.transact(async (tx) => {
    for (const name of ["a", "b", "c"]) await tx.create(things, { project, name, value: { size: 1 } });
  });
  const b = await platform.transact(async (tx) =>
    tx.update(things, await tx.get(things, project, "b"), { value: { size: 2 } })
  );
  await platform.transact(async (tx) => tx.remove(things, await tx.get(things, project, "b")));
  const read = async (cursor: string, count: number) => {
    const stop = new AbortController();
    const seen: { cursor: string; text: string }[] = [];
    for await (const e of watchRecords(kv, { service: "test", views }, { project, cursor, kinds: [] }, stop.signal)) {
      seen.push({ cursor: e.cursor!, text: `${e.type} ${e.ref!.name} ${e.ref!.id === b.id} ${e.resourceJson}` });
      if (seen.length === count) break;
    }
    stop.abort();
    return seen;
  };
  const all = await read(String(start.version), 5);
  assert.deepEqual(all.map((e) => e.text), [
    '1 a false {"name":"a"}',
    '1 b true {"name":"b"}',
    '1 c false {"name":"c"}',
    '2 b true {"name":"b"}',
    "3 b true ",
  ]);
  for (let i = 0; i < 4; i++) assert.deepEqual(await read(all[i]!.cursor, 4 - i), all.slice(i + 1));
});
