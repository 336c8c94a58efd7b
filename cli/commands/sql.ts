import { fault } from "@ultracloud/base";
import { Level, SqlService } from "@ultracloud/proto/flaredb/v1";
import { command, parseDuration, parseInteger } from "../frame/command.ts";
import { contextPath } from "../frame/contexts.ts";
import { databaseArg } from "./_db_shared.ts";
import { resultJson, resultTable } from "./sql_output.ts";
import { runPiped, runShell, SqlTalk } from "./sql_shell.ts";

const levels = {
  linearizable: Level.LINEARIZABLE,
  strong: Level.STRONG,
  stale: Level.STALE,
  "at-index": Level.AT_INDEX,
} as const;

interface SqlFlags {
  readonly write: boolean;
  readonly level: keyof typeof levels;
  readonly maxAge?: number;
  readonly atIndex?: number;
}

/** How queries are to be read; `invalid_argument` when a level lacks what it needs. */
function readOf({ level, maxAge, atIndex }: SqlFlags) {
  if ((level === "stale") !== (maxAge !== undefined) || (level === "at-index") !== (atIndex !== undefined)) {
    throw fault(
      "invalid_argument",
      "bad_level",
      "Cannot read at that level: wanted --level stale with --max-age, --level at-index with --at-index, or another level",
    );
  }
  return { level: levels[level], maxAgeMs: BigInt(maxAge ?? 0), atIndex: BigInt(atIndex ?? 0) };
}

export const sql = command<SqlFlags, [string, string?]>({
  brief: "SQL on a database, as the operator: one statement, or a shell without one",
  args: [
    databaseArg,
    { brief: "Statement; without one a shell, or what is piped in", placeholder: "sql", optional: true },
  ],
  flags: {
    write: { kind: "boolean", default: false, brief: "No longer needed: the statement says it" },
    level: { kind: "enum", values: Object.keys(levels), default: "linearizable", brief: "How queries are read" },
    maxAge: { kind: "parsed", parse: parseDuration, optional: true, brief: "For stale: how old it may be, like 5s" },
    atIndex: { kind: "parsed", parse: parseInteger, optional: true, brief: "For at-index: what it must have seen" },
  },
  async run({ session, io, flags: common, items }, flags, database, text) {
    const talk = new SqlTalk(session.client(SqlService, "flaredb"), database, readOf(flags));
    if (text === undefined) {
      if (Deno.stdin.isTerminal()) {
        const historyFile = contextPath(io.env).replace(/[^/]*$/, "sql_history");
        return await runShell(talk, io, { database, historyFile });
      }
      return await runPiped(talk, io, await new Response(Deno.stdin.readable).text());
    }
    const { result, note } = await talk.run(text);
    if (result === undefined) return io.err(`${note}\n`);
    if (common.output === "json") return io.out(JSON.stringify(resultJson(result), null, 2) + "\n");
    if (common.output === "yaml") {
      return await items(resultJson(result).map((json) => ({ value: json, json, name: "" })), []);
    }
    io.out(resultTable(result));
    if (result.columns.length === 0) io.err(`${note}\n`);
  },
});
