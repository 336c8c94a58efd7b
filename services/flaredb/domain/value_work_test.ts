import assert from "node:assert/strict";
import { readStatement } from "./sql_text.ts";
import { boundValues, valueLimits } from "./value_bound.ts";
import { patternPasses } from "./value_work.ts";

const usual = { bytesMax: 17 * 1024 * 1024, patternMax: 1_000 };
const limitsOf = (sql: string, rows: number, nested: boolean, ...params: string[]) =>
  valueLimits(rows, nested, readStatement(sql, "statement").work, boundValues(params, true), usual);

Deno.test("what people write every day runs under the usual limits, over a million rows", () => {
  const everyday: readonly (readonly [string, ...string[]])[] = [
    ["SELECT * FROM doc WHERE author = ? ORDER BY at DESC LIMIT 20", "ann"],
    ["SELECT id, substr(body, 1, 200) FROM doc WHERE body LIKE '%hello world%'"],
    ["SELECT id FROM doc WHERE body LIKE '%' || ? || '%' AND lower(title) = lower(?)", "search term", "Title"],
    ["SELECT id FROM doc WHERE title LIKE ? ESCAPE '!'", "prefix%"],
    ["SELECT instr(body, 'needle'), replace(body, char(10), '<br>'), trim(title, ' .') FROM doc"],
    ["SELECT first || ' ' || last, printf('%05d-%s', id, kind), hex(randomblob(16)) FROM person"],
    ["UPDATE doc SET body = replace(body, ?, ?), at = CURRENT_TIMESTAMP", "colour", "color"],
    ["SELECT author, count(*), group_concat(title, ', ') FROM doc GROUP BY author HAVING count(*) > 1"],
    ["SELECT json_extract(body, '$.name'), body ->> '$.tags[0]' FROM doc WHERE json_valid(body)"],
    ["INSERT INTO doc(id, body) SELECT id, upper(body) || ?  FROM draft", "."],
    ["SELECT strftime('%Y-%m', at), sum(amount) FROM payment GROUP BY 1"],
  ];
  for (const [sql, ...params] of everyday) assert.equal(limitsOf(sql, 1_000_000, false, ...params), undefined, sql);
  const join = "SELECT doc.body, tag.name FROM doc JOIN tag ON tag.doc = doc.id WHERE tag.name = ?";
  assert.equal(limitsOf(join, 1_000_000, true, "x"), undefined);
});

Deno.test("valueLimits() leaves one row room for long values, and many rows only for short ones", () => {
  const sql = "SELECT hex(zeroblob(n)) FROM t";
  assert.equal(limitsOf(sql, 1, false), undefined);
  const [some, many] = [limitsOf(sql, 1_000, false)!, limitsOf(sql, 100_000, false)!];
  assert.ok(some.bytesMax > 100_000 && some.bytesMax < usual.bytesMax, `${some.bytesMax}`);
  assert.ok(many.bytesMax < some.bytesMax && many.bytesMax > 1_000, `${many.bytesMax}`);
  // A needle that is a long parameter makes of a look what grows with the square.
  assert.equal(limitsOf("SELECT instr(body, ?) FROM t", 1, false, "short"), undefined);
  assert.ok(limitsOf("SELECT instr(body, ?) FROM t", 1, false, "x".repeat(100_000))!.bytesMax < 1_000_000);
});

Deno.test("copiesOf() counts what queries within queries come to, and nothing that stands side by side", () => {
  const copies = (sql: string) => readStatement(sql, "statement").copies;
  assert.equal(copies("SELECT a, b, c FROM t"), 1);
  assert.equal(copies("SELECT t.a, t.b FROM t WHERE t.c > 1 UNION ALL SELECT t.a, t.b FROM t"), 1);
  assert.equal(copies(`SELECT 1${" UNION ALL SELECT a + a FROM t".repeat(50)}`), 2);
  assert.equal(copies("SELECT y + y FROM (SELECT x + x + x AS y FROM t)"), 6);
  assert.equal(copies("SELECT p.y + q.y FROM (SELECT x + x AS y FROM t) p, (SELECT x + x AS y FROM t) q"), 4);
  assert.equal(copies("WITH p AS (SELECT x + x AS y FROM t), q AS (SELECT y + y AS z FROM p) SELECT z FROM q"), 8);
  assert.equal(copies("WITH p AS MATERIALIZED (SELECT x + x AS y FROM t) SELECT y FROM p"), 2);
  assert.ok(copies("))) SELECT ((( a".replace(/^/, "SELECT ")) >= 1);
});

Deno.test("patternPasses() tells patterns whose comparisons fail late and start anew", () => {
  assert.equal(patternPasses("%hello world%"), 1);
  assert.equal(patternPasses("%banana%"), 1);
  assert.equal(patternPasses(`%${"a".repeat(900)}b`), 900);
  assert.equal(patternPasses(`${"ab".repeat(100)}%`), 100);
  assert.ok(patternPasses(`*${"[a-c]".repeat(100)}b`) > 100);
});

Deno.test("texts of nothing but calls within calls are read in steps that grow with their length", () => {
  for (const call of ["a(", "replace(", "trim(x,", "printf(", "x LIKE ", "(", "EXCLUDE "]) {
    const sql = `SELECT ${call.repeat(Math.floor(20_000 / call.length))}`;
    assert.ok(readStatement(sql, "statement").class === "read", call);
  }
});
