import assert from "node:assert/strict";
import { create } from "@bufbuild/protobuf";
import { Fault } from "@ultracloud/base";
import { StatementSchema } from "@ultracloud/proto/flaredb/v1";
import { LoggedMachine } from "./_machine_fixture.ts";

const cost = 20_000_000;
const many = (n: number) => `WITH n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT ${n})`;
const big = 8_000_000;
const text = (value: string) => ({ kind: { case: "text" as const, value } });
/** A pattern whose every comparison fails at its end. */
const late = `%${"a".repeat(900)}b`;
const same = "a".repeat(1_000_000);
const wide = Array(2_000).fill(`hex(zeroblob(${big}))`).join(",");

const all = (name: string) => Array(900).fill(name).join(",");

/** Statements whose plans visit few rows, and which would run for minutes to years. */
const runaways: readonly (readonly [string, ...string[]])[] = [
  // One call that grows with the square of its arguments.
  [`SELECT instr(zeroblob(${big}), zeroblob(${big / 2}) || x'01')`],
  [`SELECT trim(zeroblob(${big}), hex(zeroblob(${big / 2})))`],
  [`SELECT length(replace(hex(zeroblob(${big})), hex(zeroblob(${big / 2})) || 'x', ''))`],
  ["SELECT instr(?, ?)", same + same, same + "b"],
  ["SELECT length(trim(?, ?))", same, "b".repeat(1_000_000) + "a"],
  ["SELECT ltrim(a, b) FROM long_text"],
  [`${many(50_000)}, o AS (SELECT json_group_object('a' || x, x) a, json_group_object('b' || x, x) b FROM n)
    SELECT length(json_patch(a, b)) FROM o`],
  // Patterns.
  ["SELECT ? LIKE ?", same, late],
  [`SELECT ? LIKE '${late}'`, same],
  ["SELECT ? GLOB ?", same, late.replace("%", "*")],
  ["SELECT glob(?, ?)", `*${"[a-c]".repeat(190)}b`, same],
  ["SELECT like(?, ?)", late, same],
  ["SELECT a LIKE b FROM long_text"],
  ["SELECT ? NOT LIKE '%' || ? || 'b'", same, "a".repeat(900)],
  // Values made again and again.
  [`${many(100_000)} SELECT sum(length(hex(zeroblob(${big} + x)))) FROM n`],
  [`${many(100_000)} SELECT sum(length(zeroblob(${big} + x) || x'00')) FROM n`],
  [`${many(100_000)} SELECT sum(length(randomblob(${big} + x))) FROM n`],
  [`${many(100_000)} SELECT sum(length(printf('%*d', ${big}, x))) FROM n`],
  [`${many(100_000)} SELECT sum(length(printf('%${big}d', x))) FROM n`],
  [`${many(100_000)} SELECT sum(length(format('%.*c', ${big}, 'x'))) FROM n`],
  [`${many(100_000)} SELECT sum(length(replace(hex(zeroblob(1000)), '0', hex(zeroblob(4000)) || x))) FROM n`],
  [`WITH n(x, s) AS (SELECT 1, 'a' UNION ALL SELECT x + 1, substr(s || s, 1, ${big}) FROM n LIMIT 100000)
    SELECT sum(length(s)) FROM n`],
  [`${many(100_000)} SELECT sum(length(s)) FROM (SELECT group_concat(x) OVER (ORDER BY x) s FROM n)`],
  [`${many(100_000)} SELECT sum(length(upper(? || x))) FROM n`, same],
  [`SELECT ${wide}`],
  [`SELECT max(${Array(100).fill(`hex(hex(zeroblob(${big / 2}) || random()))`).join(",")})`],
  // One long value that is stored, for every row of another table.
  [`${many(100_000)} SELECT sum(length(upper(t.a || n.x))) FROM n, long_text t`],
  [`${many(100_000)} SELECT sum((SELECT length(a || n.x) FROM long_text)) FROM n`],
  [`WITH b AS MATERIALIZED (SELECT group_concat(a) v FROM long_text, few)
    SELECT sum(length(b.v || f.x || g.x || h.x)) FROM b, few f, few g, few h`],
  // In memory until the last is there.
  [`${many(100_000)} SELECT x FROM n ORDER BY zeroblob(${big} + x) LIMIT 1`],
  [`${many(100_000)}, m AS MATERIALIZED (SELECT zeroblob(${big} + x) z FROM n) SELECT count(*) FROM m`],
  [`${many(100_000)} SELECT DISTINCT length(zeroblob(${big} + x)) FROM n GROUP BY zeroblob(${big} + x)`],
  // Windows that are gone through anew for each row.
  [`${many(100_000)} SELECT max(s) FROM (SELECT sum(x) OVER (ORDER BY x ROWS BETWEEN 100000 PRECEDING AND CURRENT ROW
    EXCLUDE CURRENT ROW) s FROM n)`],
  [`${many(100_000)} SELECT max(s) FROM (SELECT sum(x) OVER w s FROM n WINDOW w AS (ORDER BY x ROWS BETWEEN UNBOUNDED
    PRECEDING AND UNBOUNDED FOLLOWING EXCLUDE TIES))`],
  // Calls into the runtime, and many of them.
  [`${many(100_000)} SELECT count(strftime('%J', n.x)) FROM n, few a, few b`],
  [`${many(100_000)} SELECT max(${Array(60).fill("lower(upper(n.x))").join(",")}) FROM n, few`],
  [`${many(100_000)} SELECT ${Array(500).fill(`sum(${Array(150).fill("n.x").join(" + ")})`).join(",")} FROM n`],
  // What takes all memory while it is prepared.
  [Array(40).fill(0).reduce((sql) => `SELECT y + y AS y FROM (${sql})`, "SELECT x + x AS y FROM few")],
  [`SELECT max(${all("y")}) FROM (SELECT max(${all("y")}) AS y FROM (SELECT max(${all("x")}) AS y FROM few))`],
  [`WITH c0(y) AS (SELECT x FROM few)${
    Array.from({ length: 40 }, (_, i) => `, c${i + 1} AS (SELECT y + y AS y FROM c${i})`).join("")
  } SELECT y FROM c40`],
  ["SELECT y FROM twice39"],
  // Behind a view, and computed as it is read.
  [`${many(100_000)} SELECT sum(length(v.z || n.x)) FROM n, long_view v`],
  [`${many(100_000)} SELECT sum(length(c.z || n.x)) FROM n, computed c`],
];

/** The same for each row that is changed. */
const writes: readonly (readonly [string, ...string[]])[] = [
  ...runaways.filter(([sql]) => sql.length < 40_000).map(([sql, ...params]) =>
    [`INSERT INTO sink SELECT * FROM (${sql})`, ...params] as const
  ),
  [`UPDATE few SET x = length(hex(zeroblob(${big} + x))) + length(hex(zeroblob(${big} - x)))
    WHERE x IN (${many(100_000)} SELECT x FROM n WHERE length(hex(zeroblob(${big} + x))) > 1)`],
  [`DELETE FROM few WHERE (${many(100_000)} SELECT sum(length(hex(zeroblob(${big} + n.x + few.x)))) FROM n) > 0`],
  [`CREATE TABLE made AS ${many(100_000)} SELECT zeroblob(${big} + x) z FROM n`],
  ["INSERT INTO fires VALUES(1)"],
  ["INSERT INTO doubles VALUES(1)"],
];

Deno.test("statements that visit few rows and work for hours are refused or cut, and leave nothing", () => {
  using m = new LoggedMachine();
  const setUp = [
    "CREATE TABLE few(x INTEGER PRIMARY KEY)",
    `INSERT INTO few ${many(50)} SELECT x FROM n`,
    "CREATE TABLE long_text(a, b)",
    "CREATE TABLE sink(a)",
    `CREATE VIEW long_view AS SELECT hex(zeroblob(${big})) z`,
    `CREATE TABLE computed(a, z AS (printf('%*d', ${big}, a)))`,
    "INSERT INTO computed VALUES(1)",
    // Each fits; together they do not, and so does the trigger that was there before them.
    "CREATE TABLE doubles(a)",
    "CREATE TRIGGER d AFTER INSERT ON doubles BEGIN INSERT INTO sink SELECT y FROM twice39; END",
    ...Array.from(
      { length: 40 },
      (_, i) =>
        `CREATE VIEW twice${i} AS SELECT y + y AS y FROM ${i === 0 ? "(SELECT x AS y FROM few)" : `twice${i - 1}`}`,
    ),
    "CREATE TABLE fires(a)",
    `CREATE TRIGGER f AFTER INSERT ON fires BEGIN
      INSERT INTO sink SELECT sum(length(hex(zeroblob(${big} + a.x)))) FROM few a, few b; END`,
  ];
  for (const sql of setUp) m.execute(sql);
  m.execute("INSERT INTO long_text VALUES(?, ?)", { positional: [text(same + same), text(late)] });
  m.machine.checkpoint();
  const hash = m.machine.hash();
  const wrong: string[] = [];
  const refuses = (sql: string, run: () => unknown) => {
    try {
      run();
    } catch (error) {
      if (error instanceof Fault && error.code === "sql_too_costly" && error.kind === "resource_exhausted") return;
      wrong.push(`${sql.slice(0, 150)}: ${error}`);
      return;
    }
    wrong.push(`${sql.slice(0, 150)}: ran to its end`);
  };
  const frozen = { timeMs: m.nowMs, seed: new Uint8Array(16) };
  for (const [sql, ...params] of runaways) {
    refuses(sql, () => m.query(sql, { positional: params.map(text) }, cost));
  }
  for (const [sql, ...params] of writes) {
    const statement = create(StatementSchema, { sql, positional: params.map(text) });
    refuses(sql, () => m.machine.rehearse([statement], frozen, () => {}, { costRowsMax: cost }));
  }
  assert.deepEqual(wrong, []);
  assert.equal(m.machine.hash(), hash);
});
