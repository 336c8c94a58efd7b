import assert from "node:assert/strict";
import { DatabaseService, SqlService } from "@ultracloud/proto/flaredb/v1";
import { createRpcClient } from "@ultracloud/rpc";
import { requestBytesMax } from "./domain/bounds.ts";
import { startReplica } from "./_replicas.ts";

/** A request, and the status and code that it is answered with. */
interface Case {
  readonly request: string;
  readonly body?: BodyInit;
  readonly headers?: Record<string, string>;
  readonly status: number;
  readonly code: string;
}

const database = "t_rest";
const sql = (body: unknown, status: number, code: string): Case => ({
  request: "POST /sql",
  body: typeof body === "string" ? body : JSON.stringify({ database, ...body as Record<string, unknown> }),
  status,
  code,
});
const at = (request: string, status: number, code: string, more: Partial<Case> = {}): Case => ({
  request,
  status,
  code,
  ...more,
});
const huge = "x".repeat(1_100_000);
const cross = "FROM item a, item b, item c, item d, item e";
const fresh = "FROM fresh a, fresh b, fresh c, fresh d, fresh e";
const hundredThousand = "WITH n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 100000)";

/** Bodies that are no request, whatever the endpoint is. */
const malformed: readonly Case[] = [
  sql("", 400, "invalid_json"),
  sql("{", 400, "invalid_json"),
  sql("null", 400, "invalid_json"),
  sql("[]", 400, "invalid_json"),
  sql('"SELECT 1"', 400, "invalid_json"),
  sql("\u0000\u0001", 400, "invalid_json"),
  sql("[".repeat(100_000), 400, "invalid_json"),
  sql({}, 400, "invalid_json"),
  sql({ sql: 1 }, 400, "invalid_json"),
  sql({ sql: "SELECT 1", statements: [] }, 400, "invalid_json"),
  sql({ sql: "SELECT 1", unknown: true }, 400, "invalid_json"),
  sql({ statements: "SELECT 1" }, 400, "invalid_json"),
  sql({ statements: [1] }, 400, "invalid_json"),
  sql({ statements: [] }, 400, "invalid_field"),
  sql({ statements: Array(1_001).fill("SELECT 1") }, 400, "invalid_field"),
  sql({ sql: "SELECT ?", params: "x" }, 400, "invalid_json"),
  sql({ sql: "SELECT ?", params: [{}] }, 400, "invalid_json"),
  sql({ sql: "SELECT ?", params: [[1]] }, 400, "invalid_json"),
  sql({ sql: "SELECT ?", params: [{ integer: "1.5" }] }, 400, "invalid_json"),
  sql({ sql: "SELECT ?", params: [{ integer: "9223372036854775808" }] }, 400, "sql_parameters"),
  sql({ sql: "SELECT ?", params: [{ integer: "-9223372036854775809" }] }, 400, "sql_parameters"),
  sql({ sql: "SELECT ?", params: [{ blob: "not base64!" }] }, 400, "invalid_json"),
  sql(`{"database":"${database}","sql":"SELECT ?","params":[1e999]}`, 400, "invalid_json"),
  sql(`{"database":"${database}","sql":"SELECT ?","params":["\\ud800"]}`, 400, "sql_parameters"),
  sql(`{"database":"${database}","sql":"SELECT '\\ud800'"}`, 400, "sql_refused"),
  sql({ sql: "SELECT 1", level: "newest" }, 400, "invalid_json"),
  sql({ sql: "SELECT 1", level: "stale", maxAgeMs: -1 }, 400, "invalid_json"),
  sql({ sql: "SELECT 1", level: "stale" }, 400, "invalid_field"),
  sql({ sql: "SELECT 1", level: "at_index", atIndex: 1.5 }, 400, "invalid_json"),
  sql({ sql: "SELECT 1", rowLimit: 100_001 }, 400, "invalid_field"),
  sql({ sql: "SELECT 1", rowLimit: 1e300 }, 400, "invalid_json"),
  sql({ sql: "SELECT 1", expected: [{ table: "item", index: -1 }] }, 400, "invalid_json"),
  sql({ sql: "SELECT 1", digest: 1 }, 400, "invalid_json"),
  sql({ sql: "SELECT 1", expectedResults: [{ sql: "SELECT 1", digest: "%" }] }, 400, "invalid_json"),
  sql({ sql: "SELECT 1", expectedResults: [{ sql: "SELECT 1", digest: "AAAA" }] }, 400, "invalid_field"),
  sql(
    { sql: "SELECT 1", expectedResults: [{ sql: "DELETE FROM item", digest: "A".repeat(43) + "=" }] },
    400,
    "sql_read_only",
  ),
  sql({ statements: ["SELECT 1"], transaction: "x" }, 400, "invalid_field"),
  sql({ sql: "SELECT 1", transaction: "x".repeat(65) }, 400, "invalid_json"),
  sql({ sql: "SELECT 1", transaction: "nobodys" }, 409, "transaction_over"),
  at("POST /sql", 429, "message_too_large", { body: new Uint8Array(requestBytesMax + 1) }),
  at(`PUT /kv/b/k?database=${database}`, 429, "message_too_large", { body: new Uint8Array(requestBytesMax + 1) }),
  at("GET /sql", 404, "unknown_path"),
  at("POST /tables", 404, "unknown_path", { body: "{}" }),
  at("GET /etc%2fpasswd", 404, "unknown_path"),
  at(`PATCH /kv/b/k?database=${database}`, 404, "unknown_path", { body: "x" }),
];

/** Names that reach beyond what they are for. */
const names: readonly Case[] = ["", "item", "t_", "T_REST", "../t_rest", "t_rest/../x", "t_a'; DROP TABLE item", "t_\0"]
  .flatMap((name) => [
    { ...sql("", 400, "invalid_database"), body: JSON.stringify({ database: name, sql: "SELECT 1" }) },
    at(`GET /tables?database=${encodeURIComponent(name)}`, 400, "invalid_database"),
    at(`GET /scan/b?database=${encodeURIComponent(name)}`, 400, "invalid_database"),
    at(`GET /kv/b/k?database=${encodeURIComponent(name)}`, 400, "invalid_database"),
    at(`PUT /kv/b/k?database=${encodeURIComponent(name)}`, 400, "invalid_database", { body: "v" }),
    at(`DELETE /kv/b/k?database=${encodeURIComponent(name)}`, 400, "invalid_database"),
    at(`POST /transactions?database=${encodeURIComponent(name)}`, 400, "invalid_database"),
    at(`POST /transactions/x/commit?database=${encodeURIComponent(name)}`, 400, "invalid_database"),
    at(`DELETE /transactions/x?database=${encodeURIComponent(name)}`, 400, "invalid_database"),
  ]);
const absent: readonly Case[] = [
  { ...sql("", 404, "database_not_found"), body: JSON.stringify({ database: "t_none", sql: "SELECT 1" }) },
  at("GET /tables?database=t_none", 404, "database_not_found"),
  at("GET /scan/b?database=t_none", 404, "database_not_found"),
  at("GET /kv/b/k?database=t_none", 404, "database_not_found"),
  at("PUT /kv/b/k?database=t_none", 404, "database_not_found", { body: "v" }),
  at("DELETE /kv/b/k?database=t_none", 404, "database_not_found"),
  at("POST /transactions?database=t_none", 404, "database_not_found"),
];

const q = `?database=${database}`;
const keys: readonly Case[] = [
  at(`GET /kv/b/none${q}`, 404, "key_not_found"),
  at(`GET /kv/%00/k${q}`, 400, "invalid_bucket"),
  at(`GET /kv/${"b".repeat(64)}/k${q}`, 400, "invalid_bucket"),
  at(`GET /kv/b%27%20OR%201/k${q}`, 400, "invalid_bucket"),
  at(`PUT /kv/b/${"k".repeat(1_025)}${q}`, 400, "invalid_key", { body: "v" }),
  at(`PUT /kv/b/a%00b${q}`, 400, "invalid_key", { body: "v" }),
  at(`DELETE /kv/b/${"k".repeat(1_025)}${q}`, 400, "invalid_key"),
  at(`PUT /kv/b/k${q}&ttl_ms=-1`, 400, "invalid_field", { body: "v" }),
  at(`PUT /kv/b/k${q}&ttl_ms=soon`, 400, "invalid_field", { body: "v" }),
  at(`PUT /kv/b/k${q}&ttl_ms=9999999999999999`, 400, "invalid_ttl", { body: "v" }),
  at(`PUT /kv/b/k${q}`, 400, "invalid_etag", { body: "v", headers: { "if-match": "*" } }),
  at(`PUT /kv/b/k${q}`, 400, "invalid_etag", { body: "v", headers: { "if-match": '"1 OR 1"' } }),
  at(`PUT /kv/b/held${q}`, 409, "version_mismatch", { body: "v", headers: { "if-match": '"999"' } }),
  at(`PUT /kv/b/held${q}`, 409, "version_mismatch", { body: "v", headers: { "if-none-match": "*" } }),
  at(`PUT /kv/b/k${q}`, 400, "invalid_idempotency_key", { body: "v", headers: { "idempotency-key": "a b" } }),
  at(`PUT /kv/b/k${q}`, 400, "invalid_idempotency_key", {
    body: "v",
    headers: { "idempotency-key": "k".repeat(129) },
  }),
  at(`GET /scan/b${q}&limit=x`, 400, "invalid_field"),
  at(`GET /scan/b${q}&limit=10001`, 400, "invalid_field"),
  at(`GET /scan/b${q}&limit=-1`, 400, "invalid_field"),
  at(`GET /scan/b${q}&page_bytes=99999999999`, 400, "invalid_field"),
  at(`GET /scan/b${q}&page_token=%FF%FE`, 400, "invalid_page_token"),
  at(`GET /scan/b${q}&page_token=zzzz`, 400, "invalid_page_token"),
  at(`GET /scan/b${q}&level=newest`, 400, "invalid_field"),
  at(`GET /scan/b${q}&level=__proto__`, 400, "invalid_field"),
  at(`GET /scan/b${q}&level=stale&max_age_ms=x`, 400, "invalid_field"),
  at(`GET /tables${q}&level=at_index&at_index=x`, 400, "invalid_field"),
  at(`GET /scan/..%2f..${q}`, 400, "invalid_bucket"),
  at(`POST /transactions${q}&idle_timeout_ms=x`, 400, "invalid_field"),
  at(`POST /transactions${q}&idle_timeout_ms=300001`, 400, "invalid_field"),
  at(`POST /transactions/nobodys/commit${q}`, 409, "transaction_over"),
  at(`DELETE /transactions/nobodys${q}`, 409, "transaction_over"),
];

/** SQL that would do more than it may, in every place that takes SQL. */
const injections: readonly (readonly [string, string])[] = [
  ["", "sql_refused"],
  ["SELECT 1; DROP TABLE item", "sql_refused"],
  ["INSERT INTO item(name) VALUES('x'); DROP TABLE item; --", "sql_refused"],
  ["ATTACH '/etc/passwd' AS x", "sql_refused"],
  ["SELECT load_extension('/tmp/x')", "sql_refused"],
  ["VACUUM INTO '/tmp/stolen'", "sql_refused"],
  ["PRAGMA writable_schema=1", "sql_refused"],
  ["PRAGMA journal_mode=OFF", "sql_refused"],
  ["SELECT * FROM _uc_kv", "sql_refused"],
  ["DELETE FROM _uc_dedupe", "sql_refused"],
  ["SELECT * FROM sqlite_master", "sql_refused"],
  ["BEGIN", "sql_refused"],
  ["COMMIT", "sql_refused"],
  ["SAVEPOINT x", "sql_refused"],
  ["SELECT ?", "sql_parameters"],
  ["SELECT :a", "sql_parameters"],
  ["SELECT 1\0", "sql_refused"],
  ["SELEC 1", "sql_refused"],
  ["SELECT * FROM item WHERE name = 'x' OR '1'='1' UNION SELECT 1, 2, 3", "sql_error"],
  ["SELECT * FROM nowhere", "sql_error"],
  ["SELECT nonsense(1)", "sql_error"],
  ["INSERT INTO item(id, name) VALUES(1, 'twice')", "sql_error"],
  [`SELECT '${huge}'`, "sql_refused"],
  [`SELECT 1${" + 1".repeat(2_000)}`, "sql_error"],
  [`SELECT 1 ${"UNION SELECT 1 ".repeat(200)}`, "sql_error"],
  [`SELECT ${"(".repeat(5_000)}1${")".repeat(5_000)}`, "sql_error"],
  [`SELECT ${"abs(".repeat(1_000)}1${")".repeat(1_000)}`, "sql_error"],
  [`SELECT 1 WHERE 'a' LIKE '${"%".repeat(1_001)}'`, "sql_error"],
  ["SELECT zeroblob(1000000000)", "sql_error"],
  ["SELECT randomblob(1000000000)", "sql_error"],
];
/** Statements that would run for hours, or answer more than anybody can hold. */
const runaways: readonly (readonly [string, string])[] = [
  [`SELECT count(*) ${cross}`, "sql_too_costly"],
  [`INSERT INTO item(name) SELECT a.name ${cross}`, "sql_too_costly"],
  [`UPDATE item SET name = (SELECT max(a.name) ${cross})`, "sql_too_costly"],
  [`DELETE FROM item WHERE id IN (SELECT a.id ${cross})`, "sql_too_costly"],
  [`CREATE TABLE copy AS SELECT a.id ${cross}`, "sql_too_costly"],
  ["INSERT INTO busy(n) VALUES(1)", "sql_too_costly"],
  ["WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n", "sql_refused"],
  ["WITH n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 20000) SELECT x FROM n", "rows_too_many"],
  [
    "WITH n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 60) SELECT hex(zeroblob(150000)) FROM n",
    "rows_too_many",
  ],
  // Few rows, and hours of work in each.
  [`${hundredThousand} SELECT sum(length(hex(zeroblob(8000000 + x)))) FROM n`, "sql_too_costly"],
  [`${hundredThousand} SELECT sum(length(randomblob(8000000 + x))) FROM n`, "sql_too_costly"],
  [`${hundredThousand} SELECT sum(length(printf('%*d', 8000000, x))) FROM n`, "sql_too_costly"],
  [`${hundredThousand} SELECT x FROM n ORDER BY zeroblob(8000000 + x) LIMIT 1`, "sql_too_costly"],
  ["SELECT instr(zeroblob(8000000), zeroblob(4000000) || x'01')", "sql_too_costly"],
  ["SELECT trim(hex(zeroblob(8000000)), hex(zeroblob(4000000)))", "sql_too_costly"],
  [`INSERT INTO item(name) ${hundredThousand} SELECT hex(zeroblob(8000000 + x)) FROM n`, "sql_too_costly"],
  ["UPDATE item SET name = hex(zeroblob(8000000 + id)) || hex(zeroblob(8000000 - id))", "sql_too_costly"],
  ["INSERT INTO long(n) VALUES(1)", "sql_too_costly"],
];
/** The same by what is bound, and by what is only made on the way. */
const bound: readonly Case[] = [
  sql({ sql: "SELECT ? LIKE ?", params: ["a".repeat(1_000_000), `%${"a".repeat(900)}b`] }, 429, "sql_too_costly"),
  sql({ sql: "SELECT ? GLOB ?", params: ["a".repeat(1_000_000), `*${"a".repeat(900)}b`] }, 429, "sql_too_costly"),
  sql(
    { sql: "SELECT instr(?, ?)", params: ["a".repeat(2_000_000), "a".repeat(1_000_000) + "b"] },
    429,
    "sql_too_costly",
  ),
  sql(
    {
      statements: [{
        sql: "UPDATE item SET name = trim(?, ?)",
        params: ["a".repeat(1_000_000), `${"b".repeat(1_000_000)}a`],
      }],
    },
    429,
    "sql_too_costly",
  ),
  sql(
    { statements: ["CREATE TABLE fresh(x)", "INSERT INTO fresh SELECT id FROM item", `SELECT count(*) ${fresh}`] },
    429,
    "sql_too_costly",
  ),
  sql(
    {
      statements: [
        "CREATE TABLE fresh(x)",
        `INSERT INTO fresh ${hundredThousand} SELECT x FROM n`,
        `DELETE FROM fresh WHERE x IN (SELECT a.x ${fresh})`,
      ],
    },
    429,
    "sql_too_costly",
  ),
];
const statusOf: Readonly<Record<string, number>> = { sql_too_costly: 429, rows_too_many: 429 };
const statements: readonly Case[] = [...injections, ...runaways].flatMap(([text, code]) => [
  sql({ sql: text }, statusOf[code] ?? 400, code),
  // A batch is undone as a whole: its first statement leaves nothing either.
  sql({ statements: ["INSERT INTO item(name) VALUES('first')", text] }, statusOf[code] ?? 400, code),
]);

Deno.test("every hostile REST request is answered with its documented error and leaves no trace", async () => {
  const dir = await Deno.makeTempDir();
  try {
    await using replica = await startReplica({ dir });
    using databases = createRpcClient(DatabaseService, { endpoints: [replica.url], authorization: () => "Bearer t" });
    using rows = createRpcClient(SqlService, { endpoints: [replica.url], authorization: () => "Bearer t" });
    await databases.createDatabase({ name: database });
    const setUp = [
      "CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT)",
      "INSERT INTO item(name) WITH n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 100) SELECT 'n' || x FROM n",
      "CREATE TABLE busy(n)",
      `CREATE TRIGGER slow AFTER INSERT ON busy BEGIN SELECT count(*) ${cross} WHERE a.id > new.n; END`,
      "CREATE TABLE long(n)",
      `CREATE TRIGGER longer AFTER INSERT ON long BEGIN SELECT sum(length(hex(zeroblob(8000000 + a.id)))) FROM item a; END`,
    ];
    for (const text of setUp) await rows.execute({ database, statement: { sql: text } });
    const held = await fetch(`${replica.url}/api/v1/kv/b/held${q}`, { method: "PUT", body: "v" });
    assert.equal(held.status, 200, await held.text());
    const contentOf = async () => {
      const { sha256 } = await databases.checkReplicas({ name: database });
      const { databases: all } = await databases.listDatabases({});
      return { sha256, names: all.map(({ name }) => name), files: [...Deno.readDirSync(`${dir}/databases`)].length };
    };
    const before = await contentOf();
    const cases = [...malformed, ...names, ...absent, ...keys, ...statements, ...bound];
    const wrong: string[] = [];
    for (const { request, body, headers = {}, status, code } of cases) {
      const [method, path] = request.split(" ") as [string, string];
      const shown = `${request} ${typeof body === "string" ? body.slice(0, 120) : ""}`;
      const response = await fetch(`${replica.url}/api/v1${path}`, { method, headers, ...(body ? { body } : {}) });
      const text = await response.text();
      let answer: Record<string, unknown> = {};
      try {
        answer = JSON.parse(text);
      } catch { /* told below */ }
      if (response.status !== status || answer.code !== code) {
        wrong.push(`${shown}: ${response.status} ${text.slice(0, 200)}, wanted ${status} ${code}`);
        continue;
      }
      assert.ok(typeof answer.message === "string" && answer.message.length > 10, shown);
      assert.equal(answer.requestId, response.headers.get("x-request-id"), shown);
      assert.doesNotMatch(text, /file:\/\/|\.ts:\d|\/tmp\//, `${shown}: an answer tells nothing of the inside`);
    }
    assert.deepEqual(wrong, []);
    assert.deepEqual(await contentOf(), before);
    // Parameters are values, whatever they say.
    const name = "'); DROP TABLE item; --";
    const insert = { database, sql: "INSERT INTO item(name) VALUES(?)", params: [name] };
    const inserted = await fetch(`${replica.url}/api/v1/sql`, { method: "POST", body: JSON.stringify(insert) });
    assert.equal(inserted.status, 200, await inserted.text());
    const select = { database, sql: "SELECT name FROM item WHERE name = :n", params: { n: name } };
    const found = await fetch(`${replica.url}/api/v1/sql`, { method: "POST", body: JSON.stringify(select) });
    assert.deepEqual((await found.json()).results[0].rows, [[name]]);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});
