import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import assert from "node:assert/strict";
import { ExecuteRequestSchema } from "@ultracloud/proto/flaredb/v1";
import { encodeEntry, entryKinds } from "./domain/log_entry.ts";
import { receivedBytes } from "./received.ts";
import { DatabaseMachine } from "./state/database_machine.ts";

const execute = (sql: string, ...texts: string[]) =>
  toBinary(
    ExecuteRequestSchema,
    create(ExecuteRequestSchema, {
      database: "d",
      statement: { sql, positional: texts.map((value) => ({ kind: { case: "text" as const, value } })) },
    }),
  );
const received = (bytes: Uint8Array) => ({ message: fromBinary(ExecuteRequestSchema, bytes), bytes });

Deno.test("receivedBytes() hands on what came, unless a key or an unknown field or another message stands against it", () => {
  const bytes = execute("INSERT INTO t VALUES(?)", "x");
  const came = received(bytes);
  const idempotencyKey = undefined;
  assert.equal(receivedBytes(ExecuteRequestSchema, { received: came, idempotencyKey }, came.message), bytes);
  assert.equal(receivedBytes(ExecuteRequestSchema, { received: came, idempotencyKey: "k" }, came.message), undefined);
  assert.equal(receivedBytes(ExecuteRequestSchema, { received: undefined, idempotencyKey }, came.message), undefined);
  assert.equal(
    receivedBytes(ExecuteRequestSchema, { received: came, idempotencyKey }, create(ExecuteRequestSchema)),
    undefined,
  );
  // Field 100 as a varint: of the request, of its statement (2), of a parameter of that (2), of one by name (3, the value
  // being 2), and of the null in one (1).
  const unknown = [0xa0, 0x06, 0x01];
  const inside = (field: number, inner: readonly number[]) => [field << 3 | 2, inner.length, ...inner];
  const places = [
    unknown,
    inside(2, unknown),
    inside(2, inside(2, unknown)),
    inside(2, inside(3, [...inside(1, [0x61]), ...inside(2, unknown)])),
    inside(2, inside(2, inside(1, unknown))),
  ];
  for (const more of places) {
    const later = received(new Uint8Array([...bytes, ...more]));
    assert.equal(
      receivedBytes(ExecuteRequestSchema, { received: later, idempotencyKey }, later.message),
      undefined,
      `${more}`,
    );
  }
  const named = received(new Uint8Array([...bytes, ...inside(2, inside(3, [...inside(1, [0x61]), ...inside(2, [])]))]));
  assert.equal(receivedBytes(ExecuteRequestSchema, { received: named, idempotencyKey }, named.message), named.bytes);
});

Deno.test("a replica that applies what it read from the caller comes to the state of those that read the log", () => {
  using leader = new DatabaseMachine({ path: ":memory:" });
  using follower = new DatabaseMachine({ path: ":memory:" });
  const requests = [
    execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT, r INTEGER DEFAULT (random()))"),
    execute("INSERT INTO t(v) VALUES(?)", "schön \u{1f600}"),
    execute("INSERT INTO t(v) VALUES(?)"),
    execute("UPDATE t SET v = v || ?", "!"),
  ];
  for (const [i, payload] of requests.entries()) {
    const head = { kind: entryKinds.execute, timeMs: 1_700_000_000_000 + i, dedupe: undefined };
    const data = encodeEntry({ ...head, seed: new Uint8Array(16).fill(i), payload });
    const entry = { index: i + 1, term: 1, data };
    leader.expect(data, received(payload).message);
    const [mine] = leader.applyBatch([entry]);
    leader.forget(data);
    const [theirs] = follower.applyBatch([{ ...entry, data: data.slice() }]);
    assert.deepEqual(mine, theirs);
    assert.equal(leader.hash(), follower.hash());
  }
  const rows = leader.db.all<{ v: string }>("SELECT v FROM t");
  assert.equal(rows[0]!.v, "schön \u{1f600}!");
});

Deno.test("text that is no Unicode never comes as far as the log: nobody reads it as a request", () => {
  const bytes = execute("INSERT INTO t(v) VALUES(?)", "abc");
  for (const at of [bytes.indexOf(0x49), bytes.lastIndexOf(0x63)]) {
    assert.throws(() => received(bytes.map((byte, i) => i === at ? 0xff : byte)), `${at}`);
  }
});
