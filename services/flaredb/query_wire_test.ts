import { create, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import {
  type QueryRequest,
  QueryRequestSchema,
  QueryResponseSchema,
  type ValueSchema,
} from "@ultracloud/proto/flaredb/v1";
import assert from "node:assert/strict";
import fc from "fast-check";
import { readQueryRequest, writeQueryResponse } from "./query_wire.ts";

const int64 = fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n });
const uint64 = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
/** Lengths on both sides of where a length takes one byte more, and of what is encoded by the runtime. */
const text = fc.oneof(
  fc.string({ unit: "binary", maxLength: 40 }),
  fc.constantFrom(0, 1, 42, 43, 126, 127, 128, 255, 256, 257, 5_461, 5_462, 16_383, 16_384, 70_000)
    .chain((n) => fc.constantFrom("a", "é", "世", "😀", "\ufeff", "\ud800").map((c) => c.repeat(n))),
  fc.integer({ min: 0, max: 300 }).chain((n) => fc.constantFrom("é", "世").map((c) => "x".repeat(n) + c)),
);
const blob = fc.oneof(
  fc.uint8Array({ maxLength: 40 }),
  fc.constantFrom(127, 128, 20_000).map((n) => new Uint8Array(n)),
);
const value: fc.Arbitrary<MessageInitShape<typeof ValueSchema>> = fc.oneof(
  fc.constant({}),
  fc.constant({ kind: { case: "null" as const, value: {} } }),
  fc.oneof(
    int64,
    fc.bigInt({ min: -200n, max: 200n }),
    fc.constantFrom(2n ** 53n, -(2n ** 53n), 2n ** 48n, -(2n ** 48n)),
  )
    .map((value) => ({ kind: { case: "integer" as const, value } })),
  fc.double().map((value) => ({ kind: { case: "real" as const, value } })),
  text.map((value) => ({ kind: { case: "text" as const, value } })),
  blob.map((value) => ({ kind: { case: "blob" as const, value } })),
);
const rows = fc.array(fc.record({ values: fc.array(value, { maxLength: 5 }) }), { maxLength: 5 });
const answer = fc.record({
  result: fc.record({
    columns: fc.array(text, { maxLength: 4 }),
    types: fc.array(text, { maxLength: 4 }),
    rows,
    rowsAffected: int64,
    lastInsertId: int64,
    elapsedMs: fc.double(),
  }, { requiredKeys: [] }),
  index: uint64,
  reads: fc.array(fc.record({ table: text, index: uint64 }, { requiredKeys: [] }), { maxLength: 4 }),
  digest: blob,
}, { requiredKeys: [] }) as fc.Arbitrary<MessageInitShape<typeof QueryResponseSchema>>;

Deno.test("writeQueryResponse() writes the very bytes that protobuf-es does", () => {
  fc.assert(
    fc.property(answer, (init) => {
      const wanted = toBinary(QueryResponseSchema, create(QueryResponseSchema, init));
      assert.deepEqual(writeQueryResponse(init), wanted);
    }),
    { numRuns: 1_000 },
  );
});

Deno.test("writeQueryResponse() writes one answer after the other, also after one that needed more memory", () => {
  const of = (value: string) => ({ result: { rows: [{ values: [{ kind: { case: "text" as const, value } }] }] } });
  for (const value of ["first", "x".repeat(3_000_000), "third", "世".repeat(100_000), "", "y".repeat(70_000)]) {
    const wanted = toBinary(QueryResponseSchema, create(QueryResponseSchema, of(value)));
    assert.deepEqual(writeQueryResponse(of(value)), wanted);
  }
});

const requestOf = (text: fc.Arbitrary<string>, value: fc.Arbitrary<object>, rest: object) => {
  const statement = fc.record({ sql: text, positional: fc.array(value, { maxLength: 4 }) }, { requiredKeys: [] });
  return fc.record({ database: text, statement, digest: fc.boolean(), ...rest }, { requiredKeys: [] }) as fc.Arbitrary<
    MessageInitShape<typeof QueryRequestSchema>
  >;
};
const wellFormed = text.map((value) => value.toWellFormed());
const bytesOf = (init: MessageInitShape<typeof QueryRequestSchema>) =>
  toBinary(QueryRequestSchema, create(QueryRequestSchema, init));

/** What protobuf-es reads, or undefined when it refuses. */
function general(bytes: Uint8Array): QueryRequest | undefined {
  try {
    return fromBinary(QueryRequestSchema, bytes);
  } catch {
    return undefined;
  }
}

Deno.test("readQueryRequest() reads what protobuf-es does, or leaves it to that", () => {
  const read = fc.record({ level: fc.nat(300), maxAgeMs: int64, atIndex: uint64 }, { requiredKeys: [] });
  const request = requestOf(wellFormed, value, { read, rowLimit: fc.integer(), transaction: fc.constantFrom("", "t") });
  fc.assert(
    fc.property(request, (init) => {
      const bytes = bytesOf(init);
      const read = readQueryRequest(bytes);
      if (read !== undefined) assert.deepEqual(read, general(bytes));
    }),
    { numRuns: 1_000 },
  );
});

Deno.test("readQueryRequest() reads no bytes otherwise than protobuf-es, whatever they are", () => {
  const change = fc.record({ at: fc.nat(), by: fc.integer({ min: 0, max: 255 }), kind: fc.constantFrom(0, 1, 2, 3) });
  const short = fc.string({ unit: "grapheme", maxLength: 6 }).map((value) => value.toWellFormed());
  const read = fc.record({ level: fc.nat(4) }, { requiredKeys: [] });
  const plain = fc.oneof(
    fc.constant({}),
    fc.constant({ kind: { case: "null", value: {} } }),
    fc.bigInt({ min: -300n, max: 300n }).map((value) => ({ kind: { case: "integer", value } })),
    int64.map((value) => ({ kind: { case: "integer", value } })),
    fc.double().map((value) => ({ kind: { case: "real", value } })),
    short.map((value) => ({ kind: { case: "text", value } })),
    fc.uint8Array({ maxLength: 4 }).map((value) => ({ kind: { case: "blob", value } })),
  );
  const request = requestOf(short, plain, { read, rowLimit: fc.nat(300) });
  let same = 0;
  fc.assert(
    fc.property(request, fc.array(change, { minLength: 1, maxLength: 3 }), request, (init, changes, other) => {
      let bytes = [...bytesOf(init)];
      for (const { at, by, kind } of changes) {
        const place = at % (bytes.length + 1);
        if (kind === 0) bytes[place] = by;
        else if (kind === 1) bytes.splice(place, 1);
        else if (kind === 2) bytes.splice(place, 0, by);
        else bytes = [...bytes, ...bytesOf(other)];
      }
      const changed = Uint8Array.from(bytes);
      const read = readQueryRequest(changed);
      if (read === undefined) return;
      same++;
      assert.deepEqual(read, general(changed));
    }),
    { numRuns: 3_000 },
  );
  assert.ok(same > 100, `${same} were read`);
});

Deno.test("readQueryRequest() reads look-ups by itself, at every level that it knows", () => {
  const positional = [7n, -(2n ** 63n), 2n ** 63n - 1n].map((value) => ({ kind: { case: "integer" as const, value } }));
  const statement = { sql: "SELECT v FROM item WHERE id IN (?, ?, ?) -- 名", positional };
  for (const read of [{}, { read: {} }, { read: { level: 1 } }, { read: { level: 2, maxAgeMs: 5_000n } }]) {
    const bytes = bytesOf({ database: "d", statement, rowLimit: 10_000, digest: true, ...read });
    for (let times = 0; times < 2; times++) assert.deepEqual(readQueryRequest(bytes), general(bytes));
    assert.notEqual(readQueryRequest(bytes), undefined);
  }
});
