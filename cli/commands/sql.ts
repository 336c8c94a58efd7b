import { SqlService } from "@ultracloud/proto/flaredb/v1";
import { command } from "../frame/command.ts";
import { contextPath } from "../frame/contexts.ts";
import { resultJson, resultTable } from "./sql_output.ts";
import { runPiped, runShell, SqlTalk } from "./sql_shell.ts";

export const sql = command<{ write: boolean }, [string, string?]>({
  brief: "SQL on a database, as the operator: one statement, or a shell without one",
  args: [
    { brief: "Database", placeholder: "database" },
    { brief: "Statement; without one a shell, or what is piped in", placeholder: "sql", optional: true },
  ],
  flags: { write: { kind: "boolean", default: false, brief: "No longer needed: the statement says it" } },
  async run({ session, io, flags: common }, _flags, database, text) {
    const talk = new SqlTalk(session.client(SqlService, "flaredb"), database);
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
    io.out(resultTable(result));
    if (result.columns.length === 0) io.err(`${note}\n`);
  },
});
