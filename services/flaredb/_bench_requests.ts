import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import {
  ExecuteRequestSchema,
  PutRequestSchema,
  QueryRequestSchema,
  type ValueSchema,
} from "@ultracloud/proto/flaredb/v1";

/** The database of the measurements, and what it needs before them. */
export const database = "t_bench";
export const itemsCount = 10_000;
export const text = "x".repeat(100);
export const tables: readonly string[] = [
  "CREATE TABLE bench(id INTEGER PRIMARY KEY, k INTEGER, v TEXT)",
  "CREATE TABLE item(id INTEGER PRIMARY KEY, v TEXT)",
  `WITH n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT ${itemsCount}) INSERT INTO item SELECT x, '${text}' FROM n`,
];

/** An RPC of `ultracloud.flaredb.v1` and the requests in protobuf that are sent in turn. */
export interface Requests {
  readonly method: string;
  readonly bodies: readonly Uint8Array[];
}

const integer = (value: number) => ({ kind: { case: "integer" as const, value: BigInt(value) } });
const insert = (sql: string, ...positional: MessageInitShape<typeof ValueSchema>[]): Requests => ({
  method: "SqlService/Execute",
  bodies: [toBinary(ExecuteRequestSchema, create(ExecuteRequestSchema, { database, statement: { sql, positional } }))],
});
/** Keys spread over all items. */
const ids = Array.from({ length: 500 }, (_, i) => (i * 7_919) % itemsCount + 1);

/** Rows of an INSERT of a hundred. */
export const hundredRows = Array.from({ length: 100 }, (_, i) => `(${i}, '${text}')`).join(",");
/** Of a put, here and beside it. */
export const value: Uint8Array<ArrayBuffer> = new Uint8Array(100);

export const requests = {
  insert: insert("INSERT INTO bench(k, v) VALUES(?, ?)", integer(1), { kind: { case: "text", value: text } }),
  bulk: insert(`INSERT INTO bench(k, v) VALUES ${hundredRows}`),
  select: {
    method: "SqlService/Query",
    bodies: ids.map((id) => {
      const statement = { sql: "SELECT v FROM item WHERE id = ?", positional: [integer(id)] };
      return toBinary(QueryRequestSchema, create(QueryRequestSchema, { database, statement }));
    }),
  },
  put: {
    method: "KvService/Put",
    bodies: [toBinary(PutRequestSchema, create(PutRequestSchema, { database, bucket: "b", key: "k", value }))],
  },
} as const satisfies Readonly<Record<string, Requests>>;

/** What wrk sends, one after the other: what a client that cares for speed sends, as pgbench does. */
export function wrkScript(bodies: readonly Uint8Array[]): string {
  return `local bodies = {${bodies.map((body) => `"${body.toHex()}"`)}}
for i, hex in ipairs(bodies) do
  bodies[i] = string.gsub(hex, "..", function(byte) return string.char(tonumber(byte, 16)) end)
end
local headers = {["content-type"] = "application/proto", ["authorization"] = os.getenv("BENCH_AUTHORIZATION")}
local requests, at = {}, 0
init = function() for i, body in ipairs(bodies) do requests[i] = wrk.format("POST", nil, headers, body) end end
request = function()
  at = at % #requests + 1
  return requests[at]
end
done = function(summary) io.write(string.format("refused %d\\n", summary.errors.status)) end
`;
}

/** Calls a method with JSON, as whoever prepares a measurement does. */
export async function callJson(
  { url, authorization }: { readonly url: string; readonly authorization: () => Promise<string> },
  method: string,
  body: unknown,
): Promise<void> {
  const response = await fetch(`${url}/ultracloud.flaredb.v1.${method}`, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: await authorization() },
    body: JSON.stringify(body),
  });
  const answer = await response.text();
  if (!response.ok) throw new Error(`${method}: ${answer}`);
}

/** Makes the database with its tables. */
export async function prepare(at: Parameters<typeof callJson>[0]): Promise<void> {
  await callJson(at, "DatabaseService/CreateDatabase", { name: database });
  for (const sql of tables) await callJson(at, "SqlService/Execute", { database, statement: { sql } });
}
