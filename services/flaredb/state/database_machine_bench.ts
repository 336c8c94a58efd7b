import { create, toBinary } from "@bufbuild/protobuf";
import { ExecuteRequestSchema, PutRequestSchema } from "@ultracloud/proto/flaredb/v1";
import { encodeEntry, type EntryKind, entryKinds } from "../domain/log_entry.ts";
import { DatabaseMachine } from "./database_machine.ts";

const dir = Deno.makeTempDirSync();
addEventListener("unload", () => Deno.removeSync(dir, { recursive: true }));

/** What one replica can apply: entries of one kind in batches as group commit makes them, to a file. */
function bench(name: string, kind: EntryKind, payload: (i: number) => Uint8Array, prepare?: string) {
  const machine = new DatabaseMachine({ path: `${dir}/${name.replaceAll(" ", "-")}.db` });
  let index = 0;
  const entry = (kind: EntryKind, payload: Uint8Array) => ({
    index: ++index,
    term: 1,
    data: encodeEntry({ kind, timeMs: 1.7e12, seed: new Uint8Array(16).fill(1), dedupe: undefined, payload }),
  });
  if (prepare !== undefined) {
    machine.applyBatch([entry(entryKinds.execute, statement(prepare))]);
  }
  Deno.bench(`apply 64 entries: ${name}`, () => {
    machine.applyBatch(Array.from({ length: 64 }, () => entry(kind, payload(index))));
  });
}

const statement = (sql: string, i?: number) =>
  toBinary(
    ExecuteRequestSchema,
    create(ExecuteRequestSchema, {
      statement: {
        sql,
        positional: i === undefined ? [] : [{ kind: { case: "text", value: `row ${i}` } }],
      },
    }),
  );
const value = new Uint8Array(256).fill(7);

bench(
  "put of 256 bytes",
  entryKinds.put,
  (i) => toBinary(PutRequestSchema, create(PutRequestSchema, { bucket: "b", key: `key${i % 10_000}`, value })),
);
bench(
  "single row insert",
  entryKinds.execute,
  (i) => statement("INSERT INTO t(text) VALUES(?)", i),
  "CREATE TABLE t(id INTEGER PRIMARY KEY, text TEXT)",
);
