import { create, type DescMessage, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import {
  ExecuteRequestSchema,
  ExecuteResponseSchema,
  QueryRequestSchema,
  QueryResponseSchema,
  ResultSetSchema,
  RowSchema,
  TableVersionSchema,
  ValueSchema,
} from "@ultracloud/proto/flaredb/v1";
import assert from "node:assert/strict";
import fc from "fast-check";
import { executeCodec, queryCodec } from "./sql_wire.ts";

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
const result = fc.record({
  columns: fc.array(text, { maxLength: 4 }),
  types: fc.array(text, { maxLength: 4 }),
  rows,
  rowsAffected: int64,
  lastInsertId: int64,
  elapsedMs: fc.double(),
}, { requiredKeys: [] });
const reads = fc.array(fc.record({ table: text, index: uint64 }, { requiredKeys: [] }), { maxLength: 4 });
const level = fc.record({ level: fc.nat(300), maxAgeMs: int64, atIndex: uint64 }, { requiredKeys: [] });

/** What is read and written, the fields beside the statement, and those of an answer. */
interface Wire {
  readonly read: (bytes: Uint8Array) => object | undefined;
  readonly write: (answer: object) => Uint8Array;
  readonly request: DescMessage;
  readonly response: DescMessage;
  readonly asked: object;
  /** As `asked`, spelled as the hand-written reader knows it. */
  readonly plain: object;
  readonly answered: object;
}
const transaction = fc.constantFrom("", "t");
const wires: Readonly<Record<string, Wire>> = {
  Query: {
    ...queryCodec,
    request: QueryRequestSchema,
    response: QueryResponseSchema,
    asked: { read: level, rowLimit: fc.integer(), transaction, digest: fc.boolean() },
    plain: { read: fc.record({ level: fc.nat(4) }), rowLimit: fc.nat(300), digest: fc.boolean() },
    answered: { result, index: uint64, reads, digest: blob },
  },
  Execute: {
    ...executeCodec,
    request: ExecuteRequestSchema,
    response: ExecuteResponseSchema,
    asked: { transaction },
    plain: {},
    answered: { result, index: uint64 },
  },
};

const optional = (fields: object) => fc.record(fields as Record<string, fc.Arbitrary<unknown>>, { requiredKeys: [] });
const requestOf = (text: fc.Arbitrary<string>, value: fc.Arbitrary<object>, more: object) =>
  optional({
    database: text,
    statement: optional({ sql: text, positional: fc.array(value, { maxLength: 4 }) }),
    ...more,
  });
const bytesOf = (type: DescMessage, init: object) => toBinary(type, create(type, init as Record<string, unknown>));

/** What protobuf-es reads, or undefined when it refuses. */
function general(type: DescMessage, bytes: Uint8Array): object | undefined {
  try {
    return fromBinary(type, bytes);
  } catch {
    return undefined;
  }
}

Deno.test("the hand-written writers know every field of what they write", () => {
  const namesOf = (type: DescMessage) => type.fields.map(({ localName }) => localName).join();
  const known = new Map<DescMessage, string>([
    [QueryResponseSchema, "result,index,reads,digest"],
    [ExecuteResponseSchema, "result,index"],
    [ResultSetSchema, "columns,types,rows,rowsAffected,lastInsertId,elapsedMs"],
    [RowSchema, "values"],
    [ValueSchema, "null,integer,real,text,blob"],
    [TableVersionSchema, "table,index"],
  ]);
  for (const [type, names] of known) assert.equal(namesOf(type), names, `sql_wire.ts writes ${type.typeName}`);
});

for (const [name, { read, write, request, response, asked, plain, answered }] of Object.entries(wires)) {
  Deno.test(`answers of ${name} are the very bytes that protobuf-es writes`, () => {
    const same = (init: object) => assert.deepEqual(write(init), bytesOf(response, init));
    fc.assert(fc.property(optional(answered), same), { numRuns: 300 });
    // One after the other, also after one that needed more memory.
    for (const value of ["first", "x".repeat(3_000_000), "third", "世".repeat(100_000), "", "y".repeat(70_000)]) {
      same({ result: { rows: [{ values: [{ kind: { case: "text", value } }] }] } });
    }
  });

  Deno.test(`requests of ${name} are read as protobuf-es reads them, or left to it`, () => {
    const requests = requestOf(text.map((value) => value.toWellFormed()), value, asked);
    const same = (init: object) => {
      const bytes = bytesOf(request, init);
      const found = read(bytes);
      if (found !== undefined) assert.deepEqual(found, general(request, bytes));
    };
    fc.assert(fc.property(requests, same), { numRuns: 300 });
  });

  Deno.test(`no bytes are read as a request of ${name} otherwise than by protobuf-es, whatever they are`, () => {
    const change = fc.record({ at: fc.nat(), by: fc.integer({ min: 0, max: 255 }), kind: fc.constantFrom(0, 1, 2, 3) });
    const short = fc.string({ unit: "grapheme", maxLength: 6 }).map((value) => value.toWellFormed());
    const values = fc.oneof(
      fc.constant({}),
      fc.constant({ kind: { case: "null", value: {} } }),
      fc.bigInt({ min: -300n, max: 300n }).map((value) => ({ kind: { case: "integer", value } })),
      int64.map((value) => ({ kind: { case: "integer", value } })),
      fc.double().map((value) => ({ kind: { case: "real", value } })),
      short.map((value) => ({ kind: { case: "text", value } })),
      fc.uint8Array({ maxLength: 4 }).map((value) => ({ kind: { case: "blob", value } })),
    );
    const requests = requestOf(short, values, plain);
    let count = 0;
    const same = (init: object, changes: { at: number; by: number; kind: number }[], other: object) => {
      let bytes = [...bytesOf(request, init)];
      for (const { at, by, kind } of changes) {
        const place = at % (bytes.length + 1);
        if (kind === 0) bytes[place] = by;
        else if (kind === 1) bytes.splice(place, 1);
        else if (kind === 2) bytes.splice(place, 0, by);
        else bytes = [...bytes, ...bytesOf(request, other)];
      }
      const changed = Uint8Array.from(bytes);
      const found = read(changed);
      if (found === undefined) return;
      count++;
      assert.deepEqual(found, general(request, changed));
    };
    const changes = fc.array(change, { minLength: 1, maxLength: 2 });
    fc.assert(fc.property(requests, changes, requests, same), { numRuns: 2_000 });
    assert.ok(count > 20, `${count} were read`);
  });

  Deno.test(`the hand-written reader of ${name} reads the usual requests itself`, () => {
    const values = [7n, -(2n ** 63n), 2n ** 63n - 1n].map((value) => ({ kind: { case: "integer", value } }));
    const positional = [...values, { kind: { case: "null", value: {} } }, { kind: { case: "text", value: "名" } }];
    const statement = { sql: "SELECT v FROM item WHERE id IN (?, ?, ?, ?, ?) -- 名", positional };
    const more = name === "Query"
      ? [{}, { read: {} }, { read: { level: 2, maxAgeMs: 5_000n } }, { digest: true }]
      : [{}];
    for (const fields of more) {
      const bytes = bytesOf(request, { database: "d", statement, ...fields });
      // The second time its texts are known.
      for (let times = 0; times < 2; times++) assert.deepEqual(read(bytes), general(request, bytes));
      assert.notEqual(read(bytes), undefined);
    }
  });
}
