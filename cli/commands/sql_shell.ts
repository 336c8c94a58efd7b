import type { Client } from "@connectrpc/connect";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { fault } from "@ultracloud/base";
import { type ReadSchema, type ResultSet, SqlService } from "@ultracloud/proto/flaredb/v1";
import { toFault } from "@ultracloud/rpc";
import { reportFailure } from "../frame/command.ts";
import type { Io } from "../frame/io.ts";
import { printable } from "../frame/render.ts";
import { completions, LineEditor, splitStatements } from "./sql_line.ts";
import { resultTable } from "./sql_output.ts";

/** Lines remembered between sessions. */
const historyMax = 1_000;
const help =
  `Statements end with ; and may take several lines. BEGIN, COMMIT and ROLLBACK make an interactive transaction.
.tables   tables with their columns      .help   this text      .quit   leave (or Ctrl-D)
`;

/** One database as a person or a script talks to it: statements, and a transaction of several. */
export class SqlTalk {
  readonly #client: Client<typeof SqlService>;
  readonly #database: string;
  readonly #read: MessageInitShape<typeof ReadSchema>;
  #transaction = "";

  constructor(client: Client<typeof SqlService>, database: string, read: MessageInitShape<typeof ReadSchema> = {}) {
    this.#client = client;
    this.#database = database;
    this.#read = read;
  }

  get inTransaction(): boolean {
    return this.#transaction !== "";
  }

  /** Runs one statement; `note` is for people. */
  async run(sql: string): Promise<{ readonly result?: ResultSet | undefined; readonly note: string }> {
    const database = this.#database;
    const word = /^\s*(\w+)/.exec(sql)?.[1]?.toUpperCase() ?? "";
    if (word === "BEGIN") return await this.#begin();
    if (word === "COMMIT" || word === "END" || word === "ROLLBACK") return await this.#end(word === "ROLLBACK");
    const request = { database, statement: { sql }, transaction: this.#transaction };
    if (["SELECT", "VALUES", "EXPLAIN", "PRAGMA", "WITH"].includes(word)) {
      try {
        const { result } = await this.#client.query({ ...request, read: this.#read });
        return { result, note: `${result?.rows.length ?? 0} rows` };
      } catch (error) {
        // WITH may start a statement that writes.
        if (word !== "WITH" || toFault(error).code !== "sql_read_only") throw error;
      }
    }
    const { result } = await this.#client.execute(request);
    return {
      result,
      note: `${result?.rowsAffected ?? 0n} rows changed${this.inTransaction ? ", in a transaction" : ""}`,
    };
  }

  async #begin() {
    if (this.inTransaction) {
      throw fault(
        "failed_precondition",
        "transaction_open",
        "Cannot begin as a transaction is open: wanted COMMIT or ROLLBACK",
      );
    }
    this.#transaction = (await this.#client.begin({ database: this.#database })).transaction;
    return { note: "transaction begun" };
  }

  async #end(back: boolean) {
    if (!this.inTransaction) {
      throw fault("failed_precondition", "no_transaction", "Cannot end a transaction: wanted BEGIN before");
    }
    const request = { database: this.#database, transaction: this.#transaction };
    this.#transaction = "";
    if (back) await this.#client.rollback(request);
    else await this.#client.commit(request);
    return { note: back ? "rolled back" : "committed" };
  }

  async tables() {
    return (await this.#client.listTables({ database: this.#database })).tables;
  }
}

/** Reads statements from a pipe and runs them one after the other; the first failure ends it. */
export async function runPiped(talk: SqlTalk, io: Io, text: string): Promise<void> {
  const { statements, rest } = splitStatements(text);
  for (const sql of rest.trim() === "" ? statements : [...statements, rest]) {
    const { result } = await talk.run(sql);
    if (result !== undefined) io.out(resultTable(result));
  }
}

/** The shell at a terminal: line editing, history, completion. */
export async function runShell(
  talk: SqlTalk,
  io: Io,
  options: { readonly database: string; readonly historyFile: string },
): Promise<void> {
  const history = readHistory(options.historyFile);
  let names = await namesOf(talk);
  let text = "";
  io.err(`Connected to ${options.database}; .help says more\n`);
  for (;;) {
    const prompt = text !== "" ? "   ...> " : talk.inTransaction ? "sql(tx)> " : "sql> ";
    const line = await readLine(io, prompt, new LineEditor(history, (word) => completions(word, names)));
    if (line === undefined) return;
    if (line === "cancel") {
      text = "";
      continue;
    }
    if (line.text.trim() !== "") remember(history, line.text, options.historyFile);
    if (text === "" && line.text.startsWith(".")) {
      const command = line.text.trim();
      if (command === ".quit" || command === ".exit") return;
      if (command === ".tables") {
        for (const { name, columns, rowCount } of await talk.tables()) {
          io.out(
            `${printable(name)} (${columns.map((column) => printable(column.name)).join(", ")})  ${rowCount} rows\n`,
          );
        }
      } else {io.err(
          command === ".help" ? help : `Cannot understand ${printable(command)}: wanted .tables, .help or .quit\n`,
        );}
      continue;
    }
    const { statements, rest } = splitStatements(`${text}${line.text}\n`);
    text = rest;
    for (const sql of statements) {
      try {
        const { result, note } = await talk.run(sql);
        if (result !== undefined) io.out(resultTable(result));
        io.err(`${note}\n`);
        if (/^\s*(create|drop|alter)/i.test(sql)) names = await namesOf(talk);
      } catch (error) {
        reportFailure(io, error);
      }
    }
  }
}

async function namesOf(talk: SqlTalk): Promise<string[]> {
  return (await talk.tables()).flatMap(({ name, columns }) => [name, ...columns.map((column) => column.name)]);
}

/** One line in the terminal's raw mode. */
async function readLine(io: Io, prompt: string, editor: LineEditor): Promise<{ text: string } | "cancel" | undefined> {
  const draw = () => {
    const behind = [...editor.text.slice(editor.cursor)].length;
    io.err(`\r\x1b[K${prompt}${editor.text}${behind > 0 ? `\x1b[${behind}D` : ""}`);
  };
  Deno.stdin.setRaw(true);
  try {
    const buffer = new Uint8Array(4_096);
    const decoder = new TextDecoder();
    draw();
    for (;;) {
      const n = await Deno.stdin.read(buffer);
      if (n === null) return undefined;
      for (const key of keysOf(decoder.decode(buffer.subarray(0, n), { stream: true }))) {
        const said = editor.key(key);
        if (said === "end") {
          io.err("\r\n");
          return undefined;
        }
        if (said === "cancel" || said === "line") {
          io.err("\r\n");
          return said === "line" ? { text: editor.text } : "cancel";
        }
        if (said !== undefined) io.err(`\r\n${said.choices.slice(0, 60).map(printable).join("  ")}\r\n`);
        draw();
      }
    }
  } finally {
    Deno.stdin.setRaw(false);
  }
}

/** What a terminal sent, key by key. */
export function keysOf(text: string): string[] {
  // deno-lint-ignore no-control-regex -- escape sequences begin with it
  return text.match(/\x1b\[[0-9;]*[A-Za-z~]|[\s\S]/gu) ?? [];
}

function readHistory(file: string): string[] {
  try {
    return Deno.readTextFileSync(file).split("\n").filter((line) => line !== "").slice(-historyMax);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return [];
    throw error;
  }
}

/** Statements may hold what is nobody else's business: the file is the person's alone. */
function remember(history: string[], line: string, file: string): void {
  if (history.at(-1) === line) return;
  history.push(line);
  Deno.mkdirSync(file.replace(/\/[^/]*$/, ""), { recursive: true, mode: 0o700 });
  Deno.writeTextFileSync(file, history.slice(-historyMax).join("\n") + "\n", { mode: 0o600 });
}
