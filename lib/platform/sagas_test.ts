import assert from "node:assert/strict";
import { fault, seededRng, systemClock } from "@ultracloud/base";
import { noopLogger } from "@ultracloud/observe";
import { memoryBackend } from "./memory_kv.ts";
import { isOver, type OperationRow } from "./operations.ts";
import { openPlatform, type Platform } from "./platform.ts";
import { buckets } from "./records.ts";
import type { Saga, SagaStep } from "./sagas.ts";

interface Data {
  readonly seen: string[];
}
const target = { kind: "thing", project: "acme/prod", name: "web", id: "vm_1" };

type Backend = ReturnType<typeof memoryBackend>;

/** A process: a platform that runs sagas until it is stopped. */
function boot(kv: Backend, saga: Saga<Data>) {
  const platform = openPlatform({ service: "test", sagaPollMs: 20 }, {
    kv,
    clock: systemClock,
    rng: seededRng(3),
    log: noopLogger,
  });
  platform.sagas.define(saga);
  const stop = new AbortController();
  const run = platform.sagas.run(stop.signal);
  return {
    platform,
    async [Symbol.asyncDispose]() {
      stop.abort(new Error("stopped"));
      await run;
    },
  };
}

const start = (platform: Platform, saga: Saga<Data>) =>
  platform.transact((tx) =>
    platform.sagas.start(tx, saga, { project: "acme/prod", target, data: { seen: [] }, requestId: "req" })
  );

async function over(platform: Platform, row: OperationRow): Promise<OperationRow> {
  const done = await platform.operations.wait(row.project, row.id, 10_000, new AbortController().signal);
  assert.ok(isOver(done), `operation is ${done.state} at ${done.step}`);
  return done;
}

/** Three steps that keep a set of effects, with hooks to fail. */
function world(hook: (event: string, signal: AbortSignal) => Promise<void> | void = () => {}) {
  const effects = new Set<string>();
  const log: string[] = [];
  const step = (name: string): SagaStep<Data> => ({
    title: name,
    async do({ data, signal }) {
      log.push(`do ${name}`);
      effects.add(name);
      await hook(`do ${name}`, signal);
      return { seen: [...data.seen, name] };
    },
    async undo({ signal }) {
      log.push(`undo ${name}`);
      await hook(`undo ${name}`, signal);
      effects.delete(name);
    },
  });
  const saga: Saga<Data> = { kind: "thing.create", cancellable: true, steps: ["a", "b", "c"].map(step) };
  return { effects, log, saga };
}

Deno.test("a saga runs its steps in order, carries data and leaves nothing active", async () => {
  const kv = memoryBackend({ clock: systemClock });
  const { saga, log } = world();
  await using process = boot(kv, saga);
  const done = await over(process.platform, await start(process.platform, saga));
  assert.equal(done.state, "done");
  assert.equal(done.progressPercent, 100);
  assert.deepEqual((done.saga.data as Data).seen, ["a", "b", "c"]);
  assert.deepEqual(log, ["do a", "do b", "do c"]);
  assert.equal(kv.count(buckets.active), 0);
});

Deno.test("a failed step is undone with all before it, and the cause is kept", async () => {
  const { saga, log, effects } = world((event) => {
    if (event === "do c") throw fault("resource_exhausted", "no_room", "Cannot place as nothing is free");
  });
  await using process = boot(memoryBackend({ clock: systemClock }), saga);
  const done = await over(process.platform, await start(process.platform, saga));
  assert.equal(done.state, "failed");
  assert.equal(done.error?.code, "no_room");
  assert.deepEqual(log.slice(3), ["undo c", "undo b", "undo a"]);
  assert.equal(effects.size, 0);
});

Deno.test("passing failures are tried again, in do and in undo", async () => {
  let left = 2;
  const { saga, effects } = world((event) => {
    if ((event === "do b" || event === "undo b") && left-- > 0) {
      throw fault("unavailable", "peer_away", "Cannot reach peer");
    }
    if (event === "do c") {
      left = 2;
      throw fault("failed_precondition", "no", "Cannot go on");
    }
  });
  await using process = boot(memoryBackend({ clock: systemClock }), saga);
  const done = await over(process.platform, await start(process.platform, saga));
  assert.equal(done.state, "failed");
  assert.equal(effects.size, 0);
});

for (const where of ["do a", "do b", "do c", "undo b", "undo a"]) {
  Deno.test(`a process that dies in "${where}" is taken over and the operation ends as it would have`, async () => {
    const kv = memoryBackend({ clock: systemClock });
    let dying = true;
    let reached = () => {};
    const there = new Promise<void>((resolve) => reached = resolve);
    const undoing = where.startsWith("undo");
    const { saga, effects } = world(async (event, signal) => {
      if (event === where && dying) {
        reached();
        await new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason), { once: true }));
      }
      if (event === "do c" && undoing) throw fault("failed_precondition", "no", "Cannot go on");
    });
    let row: OperationRow;
    {
      await using first = boot(kv, saga);
      row = await start(first.platform, saga);
      await there;
    }
    dying = false;
    await using second = boot(kv, saga);
    const done = await over(second.platform, row);
    assert.equal(done.state, undoing ? "failed" : "done");
    assert.deepEqual([...effects].sort(), undoing ? [] : ["a", "b", "c"]);
    assert.equal(kv.count(buckets.active), 0);
  });
}

Deno.test("operations beyond the first thousand that wait are taken up all the same", async () => {
  const kv = memoryBackend({ clock: systemClock });
  const { saga } = world();
  // What no version here knows waits for ever, ahead of all others.
  const stuck = Array.from({ length: 1_200 }, (_, i) => ({
    bucket: buckets.active,
    key: `op_${String(i).padStart(26, "0")}`,
    put: new TextEncoder().encode('"acme/prod"'),
  }));
  await kv.write([], stuck);
  await using process = boot(kv, saga);
  const done = await over(process.platform, await start(process.platform, saga));
  assert.equal(done.state, "done");
});

Deno.test("cancel interrupts the step under way and undoes everything", async () => {
  let reached = () => {};
  const there = new Promise<void>((resolve) => reached = resolve);
  const { saga, effects } = world(async (event, signal) => {
    if (event !== "do b") return;
    reached();
    await new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason), { once: true }));
  });
  await using process = boot(memoryBackend({ clock: systemClock }), saga);
  const row = await start(process.platform, saga);
  await there;
  await process.platform.transact((tx) => process.platform.operations.requestCancel(tx, row.project, row.id));
  const done = await over(process.platform, row);
  assert.equal(done.state, "cancelled");
  assert.equal(effects.size, 0);
  const again = process.platform.transact((tx) => process.platform.operations.requestCancel(tx, row.project, row.id));
  assert.equal((await again).state, "cancelled");
});

Deno.test("a cancel that comes as the last step is done undoes that one too", async () => {
  let cancel: () => Promise<unknown> = () => Promise.resolve();
  // Deaf to its signal: the step is done all the same.
  const { saga, effects, log } = world((event) => event === "do c" ? cancel().then(() => {}) : undefined);
  await using process = boot(memoryBackend({ clock: systemClock }), saga);
  const begun = Promise.withResolvers<OperationRow>();
  cancel = async () => {
    const { project, id } = await begun.promise;
    await process.platform.transact((tx) => process.platform.operations.requestCancel(tx, project, id));
  };
  const row = await start(process.platform, saga);
  begun.resolve(row);
  assert.equal((await over(process.platform, row)).state, "cancelled");
  assert.equal(effects.size, 0);
  assert.deepEqual(log, ["do a", "do b", "do c", "undo c", "undo b", "undo a"]);
});

Deno.test("what had gone too far to be undone ends well, and is told as done", async () => {
  const { saga, effects } = world((event) => {
    if (event === "do c") throw fault("failed_precondition", "no", "Cannot go on");
  });
  let finished = 0;
  const stubborn: Saga<Data> = {
    ...saga,
    isDone: (_tx, data) => Promise.resolve(data.seen.includes("b")),
    finish: () => Promise.resolve(void finished++ as undefined),
  };
  await using process = boot(memoryBackend({ clock: systemClock }), stubborn);
  const row = await over(process.platform, await start(process.platform, stubborn));
  assert.deepEqual([row.state, row.error, row.progressPercent], ["done", undefined, 100]);
  assert.equal(effects.size, 0);
  assert.equal(finished, 1);
});

Deno.test("of two runners over one database each step's outcome is kept once", async () => {
  const kv = memoryBackend({ clock: systemClock });
  const { saga } = world();
  await using first = boot(kv, saga);
  await using _second = boot(kv, saga);
  const rows = await Promise.all(Array.from({ length: 10 }, () => start(first.platform, saga)));
  for (const row of rows) {
    const done = await over(first.platform, row);
    assert.deepEqual((done.saga.data as Data).seen, ["a", "b", "c"]);
  }
});

Deno.test("operations are listed newest first and waited for with a deadline", async () => {
  const { saga } = world();
  const kv = memoryBackend({ clock: systemClock });
  const platform = openPlatform({ service: "test" }, { kv, clock: systemClock, rng: seededRng(3), log: noopLogger });
  platform.sagas.define(saga);
  const rows: OperationRow[] = [];
  for (let i = 0; i < 5; i++) {
    rows.push(await start(platform, saga));
    const ms = systemClock.nowMs();
    while (systemClock.nowMs() === ms) await Promise.resolve();
  }
  const first = await platform.operations.page("acme/prod", { pageSize: 3 });
  const rest = await platform.operations.page("acme/prod", { pageSize: 3, pageToken: first.nextPageToken });
  assert.deepEqual([...first.items, ...rest.items].map((r) => r.id), rows.map((r) => r.id).reverse());
  const waited = await platform.operations.wait("acme/prod", rows[0]!.id, 30, new AbortController().signal);
  assert.equal(waited.state, "pending");
});
