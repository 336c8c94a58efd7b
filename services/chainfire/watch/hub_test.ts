import { utf8 } from "@ultracloud/base";
import { openDatabase } from "@ultracloud/sqlite";
import assert from "node:assert/strict";
import { watchQueueMessagesMax } from "../domain/limits.ts";
import type { Command } from "../domain/types.ts";
import { encodeEntry } from "../state/entry_codec.ts";
import { ChainfireState } from "../state/machine.ts";
import { WatchHub } from "./hub.ts";
import type { WatchMessage, WatchStream } from "./stream.ts";
import type { WatchSpec } from "./watch.ts";

const b = utf8.encode;
const everything = { key: new Uint8Array([0]), end: new Uint8Array([0]) };

class World implements Disposable {
  readonly db = openDatabase(":memory:");
  readonly state = new ChainfireState(this.db);
  nowMs = 0;
  readonly hub = new WatchHub({ source: this.state, clock: { monotonicMs: () => this.nowMs } });

  constructor() {
    this.state.listen(this.hub);
  }

  apply(...commands: Command[]): void {
    const first = this.state.appliedIndex() + 1;
    this.state.applyBatch(commands.map((command, i) => ({
      index: first + i,
      term: 1,
      data: encodeEntry({ clockMs: 0, call: undefined, command }),
    })));
  }

  open(...specs: Partial<WatchSpec>[]): WatchStream {
    const stream = this.hub.open({ id: "s", owner: "me", progressMs: 1_000 });
    specs.forEach((spec, i) => stream.add({ ...defaults(this.state.revision, i), ...spec }, "watch"));
    return stream;
  }

  [Symbol.dispose](): void {
    this.db.close();
  }
}

const defaults = (revision: number, id: number): WatchSpec => ({
  id: BigInt(id),
  ...everything,
  from: revision + 1,
  prevKv: false,
  noPut: false,
  noDelete: false,
});
const put = (key: string, value = "v"): Command => ({
  kind: "put",
  key: b(key),
  value: b(value),
  lease: 0n,
  prevKv: false,
  ignoreValue: false,
  ignoreLease: false,
});

/** Reads until `count` events came or the stream ended. */
async function read(messages: AsyncGenerator<WatchMessage>, count: number): Promise<string[]> {
  const seen: string[] = [];
  let events = 0;
  while (events < count) {
    const { value, done } = await messages.next();
    if (done) break;
    if (value.kind === "events") {
      events += value.events.length;
      for (const event of value.events) {
        seen.push(`${value.watch.id}:${utf8.decode(event.kv.key)}@${event.kv.modRevision}`);
      }
    } else if (value.kind === "cancelled") seen.push(`${value.id} ${value.reason.split(":")[0]}`);
    else if (value.kind === "progress") seen.push("progress");
  }
  return seen;
}

const forever = new AbortController().signal;

Deno.test("a reader that does not read is cut off with the reason while writes go on", async () => {
  using world = new World();
  const slow = world.open({});
  for (let i = 0; i < watchQueueMessagesMax + 10; i++) world.apply(put("k"));
  assert.equal(world.hub.watches, 0);
  assert.deepEqual(await read(slow.messages(forever), 1), ["-1 too slow"]);
  assert.equal(world.state.revision, watchQueueMessagesMax + 11);
});

Deno.test("history and what happens meanwhile join without gap or repetition", async () => {
  using world = new World();
  for (let i = 0; i < 900; i++) world.apply(put(i % 3 === 0 ? "a" : `b${i}`));
  const stream = world.open({ from: 2 }, { id: 7n, key: b("a"), end: new Uint8Array(0), from: 2 });
  const messages = stream.messages(forever);
  const seen = await read(messages, 400);
  world.apply(put("a"), put("z"));
  seen.push(...await read(messages, 900 + 300 + 3 - seen.length));
  const of = (id: string) => seen.filter((line) => line.startsWith(`${id}:`)).map((line) => Number(line.split("@")[1]));
  assert.deepEqual(of("0"), Array.from({ length: 902 }, (_, i) => i + 2));
  assert.deepEqual(of("7"), [...Array.from({ length: 300 }, (_, i) => 3 * i + 2), 902]);
  await messages.return(undefined);
  assert.equal(world.hub.watches, 0);
});

Deno.test("a watch from a compacted revision is told so, one from the revision itself is served", async () => {
  using world = new World();
  world.apply(put("a"), put("b"), { kind: "delete", key: b("a"), end: new Uint8Array(0), prevKv: false }, put("c"));
  world.apply({ kind: "compact", revision: 4 });
  while (world.state.sweep());
  const stream = world.open({ id: 1n, from: 3 }, { id: 2n, from: 4 });
  const seen = await read(stream.messages(forever), 2);
  assert.deepEqual(seen.sort(), ["1 compacted", "2:a@4", "2:c@5"]);
});

Deno.test("a snapshot in place of changes is read from its history by live watches", async () => {
  using source = new World();
  using world = new World();
  for (const one of [source, world]) one.apply(put("a"));
  const stream = world.open({});
  source.apply(put("b"), put("c"));
  world.state.restore(source.state.appliedIndex(), source.state.snapshot());
  world.apply(put("d"));
  assert.deepEqual(await read(stream.messages(forever), 3), ["0:b@3", "0:c@4", "0:d@5"]);
});

Deno.test("a watch of the future stays silent until then, and an idle stream hears that nothing happened", async () => {
  using world = new World();
  const stream = world.open({ from: 4 });
  const messages = stream.messages(forever);
  world.apply(put("a"), put("b"), put("c"));
  assert.deepEqual(await read(messages, 1), ["0:c@4"]);
  const next = read(messages, 1);
  world.nowMs = 999;
  world.hub.progress();
  world.nowMs = 1_001;
  world.hub.progress();
  world.apply(put("d"));
  assert.deepEqual(await next, ["progress", "0:d@5"]);
  world.hub.close("stopping");
  assert.deepEqual(await read(messages, 1), ["-1 stopping"]);
});

Deno.test("progress that is asked for waits for history, and never speaks of what comes behind it", async () => {
  using world = new World();
  for (let i = 0; i < 600; i++) world.apply(put(`k${i}`));
  const stream = world.open({ from: 2 });
  stream.requestProgress();
  const messages = stream.messages(forever);
  const told: (string | number)[] = [];
  let last = 0;
  for (;;) {
    const { value } = await messages.next();
    if (value!.kind === "events") last = value!.events.at(-1)!.kv.modRevision;
    if (value!.kind === "progress") {
      told.push(last, value!.revision);
      break;
    }
  }
  assert.deepEqual(told, [601, 601], "all of history comes before it");
  for (let i = 0; i < 10_000; i++) stream.requestProgress();
  world.apply(put("z"));
  stream.requestProgress();
  const rest: string[] = [];
  for (let i = 0; i < 3; i++) {
    const { value } = await messages.next();
    rest.push(value!.kind === "progress" ? `progress ${value!.revision}` : value!.kind);
  }
  assert.deepEqual(rest, ["progress 601", "events", "progress 602"]);
  await messages.return(undefined);
});

Deno.test("a reader that leaves frees its watches, whether it waits, reads or has not begun", async () => {
  using world = new World();
  for (const before of [0, 1, 2]) {
    const leaving = new AbortController();
    const messages = world.open({ from: 1 }).messages(leaving.signal);
    for (let i = 0; i < before; i++) await messages.next();
    const next = messages.next();
    leaving.abort();
    if (before > 0) assert.equal(world.hub.watches, 0);
    await next;
    await messages.next();
    assert.equal(world.hub.watches, 0);
    assert.throws(() => world.hub.stream("s", "me"), { code: "watch_stream_not_found" });
  }
});
