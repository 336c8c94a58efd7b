import assert from "node:assert/strict";
import { parseSlt } from "./slt/parse.ts";
import { runSlt, type SqlAnswer } from "./slt/run.ts";
import { difference, formatValue, hashLine } from "./slt/values.ts";

const text = `# a comment
hash-threshold 8

statement ok
CREATE TABLE t(a)

onlyif mysql # not ours
statement error
NONSENSE

skipif sqlite
query I nosort
SELECT 9
----
8

statement error no such
SELECT x

query IT rowsort twins
SELECT a,
  b FROM t
----
2
two
10
ten

halt

query I nosort
SELECT never
----
1
`;

Deno.test("parseSlt() reads records, leaves out those of other engines and keeps SQL of several lines", () => {
  const records = parseSlt(text);
  assert.deepEqual(records.map(({ kind }) => kind), [
    "hash_threshold",
    "statement",
    "statement",
    "query",
    "halt",
    "query",
  ]);
  const query = records[3]!;
  assert.ok(query.kind === "query");
  assert.deepEqual([query.sql, query.types, query.sort, query.label, query.line], [
    "SELECT a,\n  b FROM t",
    "IT",
    "rowsort",
    "twins",
    20,
  ]);
  assert.throws(() => parseSlt("statment ok\nSELECT 1\n"), { code: "slt_malformed" });
  assert.throws(() => parseSlt("query X nosort\nSELECT 1\n"), { code: "slt_malformed" });
  assert.throws(() => parseSlt("statement ok\n\n"), { code: "slt_malformed" });
});

Deno.test("formatValue() writes values as the original runner does", () => {
  assert.deepEqual([null, 3, "", "x\ny", "é"].map((value) => formatValue(value, "T")), [
    "NULL",
    "3",
    "(empty)",
    "x@y",
    "@@",
  ]);
  assert.deepEqual([1.9, "12ab", "word", { integer: "9223372036854775807" }].map((v) => formatValue(v, "I")), [
    "1",
    "12",
    "0",
    "9223372036854775807",
  ]);
  assert.deepEqual([2, { real: 1 }, "0.5", 1 / 3].map((v) => formatValue(v, "R")), [
    "2.000",
    "1.000",
    "0.500",
    "0.333",
  ]);
  assert.deepEqual([{ real: 2 }, 0.1, { real: 1e20 }].map((v) => formatValue(v, "T")), ["2.0", "0.1", "1.0e+20"]);
});

Deno.test("difference() takes a value or a row to a line, or a hash, and tells what differs", () => {
  const values = ["1", "a", "2", "b"];
  assert.equal(difference(values, values, 2), undefined);
  assert.equal(difference(values, ["1 a", "2\tb"], 2), undefined);
  assert.equal(difference(values, [hashLine(values)], 2), undefined);
  assert.match(difference(values, ["4 values hashing to " + "0".repeat(32)], 2)!, /hashing/);
  assert.match(difference(values, ["1", "a", "2", "c"], 2)!, /result 4 is "b", wanted "c"/);
  assert.match(difference(values, ["1", "a"], 1)!, /got 4 results, wanted 2/);
});

Deno.test("runSlt() counts what fails and goes on, up to halt", async () => {
  const asked: string[] = [];
  const answers: Record<string, SqlAnswer> = {
    "CREATE TABLE t(a)": { rows: [], rowsAffected: 0 },
    "SELECT x": { error: "sql_error: no such column: x" },
    "SELECT a,\n  b FROM t": { rows: [[10, "ten"], [2, "two"]], rowsAffected: 0 },
  };
  const run = (sql: string) => {
    asked.push(sql);
    return Promise.resolve(answers[sql] ?? { error: "unknown" });
  };
  // As text 10 comes before 2: the record expects numeric order and so fails.
  const report = await runSlt(text, run);
  assert.equal(report.passed, 2);
  assert.deepEqual(report.failures.length, 1);
  assert.match(report.failures[0]!, /line 20: result 1 is "10", wanted "2"/);
  assert.ok(!asked.includes("SELECT never"));
  const wrong = await runSlt("statement ok\nSELECT x\n\nstatement error\nCREATE TABLE t(a)\n", run);
  assert.deepEqual([wrong.passed, wrong.failures.length], [0, 2]);
});
