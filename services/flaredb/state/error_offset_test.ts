import assert from "node:assert/strict";
import { openDatabase } from "@ultracloud/sqlite";
import { errorOffset } from "./error_offset.ts";

Deno.test("the offset of an error is where SQLite stopped, in bytes, or nothing where that cannot be told", () => {
  using db = openDatabase(":memory:");
  db.exec("CREATE TABLE t(a, b)");
  const parse = (sql: string) => {
    try {
      db.raw.prepare(sql);
      return undefined;
    } catch (error) {
      return (error as Error).message;
    }
  };
  // The place is marked; SQLite's message is what this SQLite says.
  const cases: readonly (readonly [string, string])[] = [
    ["SELECT a FROM t >>WHERE", "incomplete input"],
    [">>SELEC a FROM t", `near "SELEC"`],
    ["SELECT a a FROM t WHERE a = a AND >>, a", `near ","`],
    ["SELECT (a, (a)) FROM t >>) WHERE a = (a)", `near ")"`],
    ["SELECT 'FROM', a FROM t WHERE >>FROM", `near "FROM"`],
    ["SELECT 'ü€😀', a FROM t GROUP >>a", `near "a"`],
    ["SELECT a -- FROM FROM\n FROM t >>FROM t", `near "FROM"`],
    ["SELECT a FROM t WHERE a = >>'open", "unrecognized token"],
    ["SELECT >>nonsense FROM t", "no such column"],
    ["SELECT a FROM t AS x WHERE >>x.nonsense = 1", "no such column"],
    ["SELECT a FROM >>Missing", "no such table"],
    ["SELECT >>frobnicate(a) FROM t", "no such function"],
    ["INSERT INTO t(a, >>c) VALUES(1, 2)", "has no column named c"],
    ["SELECT >>length(a, b) FROM t", "wrong number of arguments"],
  ];
  for (const [marked, says] of cases) {
    const sql = marked.replace(">>", "");
    const message = parse(sql)!;
    assert.ok(message.includes(says), `${sql}: ${message}`);
    const ends = says === "incomplete input";
    const wanted = new TextEncoder().encode(ends ? sql : marked.slice(0, marked.indexOf(">>"))).length;
    assert.equal(errorOffset(sql, message, parse), wanted, `${sql}: ${message}`);
  }
  const unknown = [
    "SELECT nonsense, nonsense FROM t",
    "SELECT a FROM t JOIN t AS u WHERE a = 1",
    `SELECT ${"a,".repeat(100)} , FROM t`,
  ];
  for (const sql of unknown) assert.equal(errorOffset(sql, parse(sql)!, parse), undefined, sql);
});
