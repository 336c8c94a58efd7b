import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { fault, invalidField } from "@ultracloud/base";
import {
  type DumpPart,
  type ImportKey,
  type LoadRequest,
  type LoadResponseSchema,
  LoggedImportSchema,
  StatementSchema,
} from "@ultracloud/proto/flaredb/v1";
import type { CallContext } from "@ultracloud/rpc";
import { type OpenDatabase, unkeyed } from "./databases.ts";
import { entryKinds } from "./domain/log_entry.ts";
import { checkBucket, checkDatabase, checkKey } from "./domain/names.ts";
import { tokenize } from "./domain/sql_text.ts";
import { dumpedTables, dumpFormat } from "./dump.ts";
import { makeWhole, type RestoreDeps } from "./restore.ts";
import { countTables } from "./restore_pieces.ts";

/** Statements and keys are gathered up to this size: each lot is a log entry. */
const lotBytes = 512 * 1024;
/** Rows an INSERT of a dump may visit: its own, and what triggers do that somebody put before the rows. */
const costRowsMax = 10_000_000;

const damaged = (why: string) => fault("data_loss", "dump_damaged", `Cannot use the dump: ${why}`);
type Part = NonNullable<MessageInitShape<typeof LoggedImportSchema>["part"]>;

/** Fills a new database from a dump. Statements are checked as any caller's, and only make things or insert values. */
export async function loadInto(
  requests: AsyncIterable<LoadRequest>,
  deps: RestoreDeps,
  context: CallContext,
): Promise<MessageInitShape<typeof LoadResponseSchema>> {
  const parts = requests[Symbol.asyncIterator]();
  const first = (await parts.next()).value as LoadRequest | undefined;
  if (first?.part.case !== "target") throw invalidField("target", "Cannot load without a target: wanted it first");
  const name = checkDatabase(first.part.value.database, "target.database");
  const next = async (): Promise<DumpPart["part"] | undefined> => {
    const { value, done } = await parts.next();
    if (done) return undefined;
    if (value.part.case !== "dump") throw invalidField("target", "Cannot load into two targets");
    return value.part.value.part;
  };
  const header = await next();
  if (header === undefined) throw invalidField("dump", "Cannot load nothing: wanted the parts of a dump");
  if (header?.case !== "header" || header.value.format !== dumpFormat) {
    throw damaged(`it does not begin as one of format ${dumpFormat}`);
  }
  return await makeWhole(name, deps, context, async (opened) => {
    await new Loading(opened, deps, context).run(next);
    return countTables(opened.machine.db);
  });
}

class Loading {
  readonly #opened: OpenDatabase;
  readonly #deps: RestoreDeps;
  readonly #context: CallContext;
  #inserts: string[] = [];
  #keys: ImportKey[] = [];
  #bytes = 0;

  constructor(opened: OpenDatabase, deps: RestoreDeps, context: CallContext) {
    this.#opened = opened;
    this.#deps = deps;
    this.#context = context;
  }

  async run(next: () => Promise<DumpPart["part"] | undefined>): Promise<void> {
    let statements = 0, keys = 0;
    for (let part = await next(); part !== undefined; part = await next()) {
      this.#context.signal.throwIfAborted();
      switch (part.case) {
        case "statement":
          statements++;
          await this.#statement(part.value);
          break;
        case "key":
          keys++;
          checkBucket(part.value.bucket);
          checkKey(part.value.key);
          if (part.value.expireMs < 0n || part.value.expireMs > BigInt(Number.MAX_SAFE_INTEGER)) {
            throw invalidField("key.expire_ms", `Cannot keep a key until ${part.value.expireMs}: wanted milliseconds`);
          }
          this.#keys.push(part.value);
          await this.#grow(part.value.key.length + part.value.value.length + 64);
          break;
        case "rows":
          if (!dumpedTables.has(part.value.table)) throw damaged(`rows of ${part.value.table} have no place in it`);
          await this.#flush();
          await this.#propose({ case: "rows", value: part.value });
          break;
        case "footer":
          if (part.value.statements !== BigInt(statements) || part.value.keys !== BigInt(keys)) {
            throw damaged(
              `it has ${statements} statements and ${keys} keys, wanted ${part.value.statements} and ${part.value.keys}`,
            );
          }
          if (await next() !== undefined) throw damaged("something follows its end");
          return await this.#finish();
        default:
          throw damaged("a part of it has no content");
      }
    }
    throw damaged("it ends too early");
  }

  async #statement(sql: string): Promise<void> {
    const { sql: runner } = this.#opened.machine.parts;
    const statement = create(StatementSchema, { sql });
    runner.check(statement, "write", "statement");
    const words = tokenize(sql).flatMap(({ kind, word }) => kind === "word" ? [word] : []);
    const makes = words[0] === "CREATE" && (["VIEW", "TRIGGER"].some((word) => words.includes(word)) ||
      !words.includes("SELECT"));
    const inserts = words[0] === "INSERT" && !words.includes("SELECT") && !words.includes("WITH");
    if (!makes && !inserts) {
      throw invalidField(
        "statement",
        `Cannot load a statement that starts with ${words.slice(0, 3).join(" ")}: wanted CREATE, or INSERT of values`,
        "dump_statement",
      );
    }
    if (inserts) {
      runner.admit(statement, "write", costRowsMax, "statement");
      this.#inserts.push(sql);
      return await this.#grow(sql.length);
    }
    // What comes then is planned with it in place.
    await this.#flush();
    await this.#propose({ case: "statements", value: { statements: [sql] } });
  }

  async #grow(bytes: number): Promise<void> {
    this.#bytes += bytes;
    if (this.#bytes >= lotBytes) await this.#flush();
  }

  async #flush(): Promise<void> {
    const inserts = this.#inserts, keys = this.#keys;
    this.#inserts = [];
    this.#keys = [];
    this.#bytes = 0;
    if (inserts.length > 0) await this.#propose({ case: "statements", value: { statements: inserts } });
    if (keys.length > 0) await this.#propose({ case: "keys", value: { keys } });
  }

  async #finish(): Promise<void> {
    await this.#flush();
    // Rows came in any order with foreign keys off.
    const [broken] = this.#opened.machine.db.all<{ table: string; parent: string }>("PRAGMA foreign_key_check");
    if (broken !== undefined) {
      throw damaged(`a row of ${broken.table} refers to one of ${broken.parent} that is not in it`);
    }
    await this.#propose({ case: "finish", value: { index: 0n, timeMs: BigInt(this.#deps.clock.nowMs()) } });
  }

  async #propose(part: Part): Promise<void> {
    const { databases } = this.#deps;
    const piece = create(LoggedImportSchema, { part });
    await databases.propose(this.#opened, entryKinds.import, LoggedImportSchema, piece, unkeyed(this.#context));
  }
}
