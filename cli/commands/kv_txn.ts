import { fault } from "@ultracloud/base";
import { KvService, type ResponseOp } from "@ultracloud/proto/chainfire/v1";
import type { Column } from "../frame/columns.ts";
import { command, text } from "../frame/command.ts";
import { type Encoding, encodingFlag, type Pair, pairOf } from "./_kv_bytes.ts";
import { following } from "./_members.ts";
import { parseTxn, txnHelp } from "./_txn_text.ts";

/** What one operation of a transaction did. */
interface Done {
  readonly operation: string;
  readonly key: string;
  readonly value: string;
  readonly count: string;
  readonly kvs: readonly Pair[];
}
const columns: readonly Column<Done>[] = [
  { name: "operation", get: (d) => d.operation },
  { name: "count", get: (d) => d.count },
  { name: "key", get: (d) => d.key },
  { name: "value", get: (d) => d.value.length > 60 ? `${d.value.slice(0, 57)}...` : d.value },
];

/** The largest transaction anybody writes down; more is no text for people. */
const textBytesMax = 4 * 2 ** 20;

export const txn = command<{ encoding: Encoding; file: string }, []>({
  brief: "Compare, then do one of two lists of operations, all at once",
  details: txnHelp,
  flags: {
    ...encodingFlag,
    file: { kind: "parsed", parse: text, default: "-", brief: "File with the transaction; - reads standard input" },
  },
  async run({ session, io, items, flags: common }, { encoding, file }) {
    const written = file === "-" ? await new Response(Deno.stdin.readable).text() : await Deno.readTextFile(file);
    if (written.length > textBytesMax) {
      throw fault("invalid_argument", "too_large", `Cannot read a transaction of ${written.length} characters`);
    }
    const { compare, success, failure } = parseTxn(written, encoding);
    if (compare.length + success.length + failure.length === 0) {
      throw fault("invalid_argument", "bad_transaction", "Cannot do nothing: wanted a transaction, see --help");
    }
    const answer = await following({ session }, KvService).txn({
      compare: [...compare],
      success: [...success],
      failure: [...failure],
    });
    const done = answer.responses.flatMap((response) => doneOf(response, encoding));
    if (common.output === "json" || common.output === "yaml") {
      const json = { succeeded: answer.succeeded, revision: String(answer.header?.revision), responses: done };
      return await items([{ value: json, json, name: "" }], [], true);
    }
    await items(done.map((value) => ({ value, json: value, name: value.key })), columns);
    io.err(`The comparisons ${answer.succeeded ? "hold" : "do not hold"}; revision ${answer.header?.revision}\n`);
  },
});

function doneOf({ response }: ResponseOp, encoding: Encoding): Done[] {
  const of = (operation: string, count: bigint, pairs: readonly Pair[]): Done[] => {
    const first = { operation, count: String(count), kvs: pairs };
    if (pairs.length === 0) return [{ ...first, key: "", value: "" }];
    return pairs.map((pair) => ({ ...first, kvs: [pair], key: pair.key, value: pair.value }));
  };
  switch (response.case) {
    case "range":
      return of("get", response.value.count, response.value.kvs.map((kv) => pairOf(kv, encoding)));
    case "put":
      return of("put", 1n, []);
    case "deleteRange":
      return of("delete", response.value.deleted, []);
    default:
      return [];
  }
}
