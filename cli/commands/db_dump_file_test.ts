import assert from "node:assert/strict";
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { type DumpPart, DumpPartSchema } from "@ultracloud/proto/flaredb/v1";
import { readDumpFile, writeDumpFile } from "./db_dump_file.ts";

type Part = NonNullable<MessageInitShape<typeof DumpPartSchema>["part"]>;

async function inTempDir(work: (path: string) => Promise<void>): Promise<void> {
  const dir = await Deno.makeTempDir();
  try {
    await work(`${dir}/a.sql`);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}

async function* partsOf(parts: readonly Part[]): AsyncGenerator<DumpPart> {
  for (const part of parts) yield create(DumpPartSchema, { part });
  await Promise.resolve();
}

const read = async (path: string) => {
  const parts = await Array.fromAsync(readDumpFile("t_a", path));
  return parts.slice(1).map((sent) => create(DumpPartSchema, (sent.part as { value: { part: Part } }).value).part);
};
const header: Part = { case: "header", value: { format: 1 } };
const footer: Part = { case: "footer", value: { statements: 8n, keys: 1n } };

Deno.test("a dump that is written reads as the same parts, whatever its texts look like", () =>
  inTempDir(async (path) => {
    const statements = [
      "CREATE TABLE t(a, b)",
      "CREATE TABLE u(a -- a comment; and 'a quote\n, b /* ; */)",
      "CREATE TABLE v(a) -- at the end",
      `CREATE TABLE "w;\n"([x;\n], \`y'\`)`,
      "INSERT INTO t VALUES\n('one;\n-- flaredb end: 0 statements, 0 keys\n'),\n('it''s;\n')",
      "CREATE TRIGGER g AFTER INSERT ON t BEGIN\n INSERT INTO u VALUES(';\nEND;', 1);\n DELETE FROM v;\nEND",
      "CREATE VIEW z AS SELECT ';' AS \"--\"",
      "INSERT INTO t VALUES\n(x'00ff',NULL)",
    ];
    const parts: Part[] = [
      { case: "header", value: { format: 1, database: "t_a", index: 7n, time: timestampFromMs(0) } },
      ...statements.map((value): Part => ({ case: "statement", value })),
      { case: "rows", value: { table: "_uc_quota", columns: ["bucket"], rows: [] } },
      { case: "key", value: { bucket: "b", key: "k\n✓", value: new Uint8Array([0, 255]), expireMs: 5n } },
      footer,
    ];
    const { summary } = await writeDumpFile(path, partsOf(parts));
    assert.equal(summary, "8 statements, 1 keys");
    assert.equal((await Deno.stat(path)).mode! & 0o777, 0o600);
    const expected = parts.map((part, i) => create(DumpPartSchema, { part: i === 0 ? header : part }).part);
    assert.deepEqual(await read(path), expected);
  }));

Deno.test("a dump that ends too early leaves no file, and one that was damaged is refused with its line", () =>
  inTempDir(async (path) => {
    await assert.rejects(writeDumpFile(path, partsOf([header])), { code: "dump_cut" });
    assert.deepEqual([...Deno.readDirSync(path.slice(0, path.lastIndexOf("/")))], []);
    const damaged: readonly (readonly [string, RegExp])[] = [
      ["CREATE TABLE t(a)", /line 1: the last statement does not end/],
      ["CREATE TABLE t(a);\nINSERT INTO t VALUES('x;\n", /the last statement does not end/],
      ["-- flaredb key {", /line 1: -- flaredb key cannot be read/],
      ["-- a comment\n-- flaredb end: many", /line 2/],
      ["-- flaredb what", /line 1/],
    ];
    for (const [text, message] of damaged) {
      await Deno.writeTextFile(path, text);
      await assert.rejects(read(path), message, text);
    }
  }));
