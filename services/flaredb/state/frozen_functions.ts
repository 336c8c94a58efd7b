import { Fault, fault } from "@ultracloud/base";
import { type Database, openDatabase, type SqlValue } from "@ultracloud/sqlite";
import { answerBytesMax } from "../domain/bounds.ts";
import { freezeArguments, freezeBoth, timeFunctions, timeText } from "../domain/frozen_time.ts";
import { SeededBits } from "../domain/random.ts";

/**
 * The inputs of an entry that differ from one run to the next in plain SQLite, made part of the entry: time and
 * randomness. They replace SQLite's own functions on a connection, so that defaults, triggers and views use them too.
 */
export class FrozenInputs {
  #timeMs = 0;
  #text = timeText(0);
  readonly bits = new SeededBits();
  /** A failure of a function that SQLite would otherwise turn into its own. */
  failure: Fault | undefined;

  /** From here on the present is `timeMs` and random values follow from `seed`. */
  freeze(timeMs: number, seed: Uint8Array): void {
    if (timeMs !== this.#timeMs) this.#text = "";
    this.#timeMs = timeMs;
    this.bits.reseed(seed);
    this.failure = undefined;
  }

  get text(): string {
    return this.#text === "" ? this.#text = timeText(this.#timeMs) : this.#text;
  }
}

/** Plain SQLite for date arithmetic; one for the process, as it holds nothing. */
let plain: Database | undefined;

function calculate(name: string, args: readonly SqlValue[]): SqlValue {
  plain ??= openDatabase(":memory:");
  const marks = args.map(() => "?").join(",");
  // The adapter reads integers as bigint below; numbers bind as REAL, which date functions take as such.
  const row = plain.prepare(`SELECT ${name}(${marks}) AS v`).get(...args) as { v: SqlValue };
  return row.v;
}

/** Replaces every function of the connection that looks at the clock or at chance. */
export function installFrozenFunctions(db: Database, inputs: FrozenInputs): void {
  const guarded = (fn: (args: SqlValue[]) => SqlValue) => (...args: SqlValue[]): SqlValue => {
    try {
      return fn(args);
    } catch (error) {
      // SQLite only keeps the text of a failure: the statement's runner looks here.
      if (error instanceof Fault) inputs.failure = error;
      throw error;
    }
  };
  for (const [name, first] of Object.entries(timeFunctions)) {
    db.function(name, guarded((args) => calculate(name, freezeArguments(args, first, inputs.text))));
  }
  db.function("timediff", guarded((args) => calculate("timediff", freezeBoth(args, inputs.text))));
  db.function("current_timestamp", () => inputs.text.slice(0, 19));
  db.function("current_date", () => inputs.text.slice(0, 10));
  db.function("current_time", () => inputs.text.slice(11, 19));
  db.function("random", () => inputs.bits.int64());
  db.function(
    "randomblob",
    guarded(([length]) => {
      const bytes = Math.max(1, Math.floor(Number(length ?? 1)) || 1);
      if (bytes > answerBytesMax) {
        throw fault(
          "invalid_argument",
          "sql_error",
          `Cannot make a random blob of ${bytes} bytes: wanted at most ${answerBytesMax}`,
        );
      }
      return inputs.bits.bytes(bytes);
    }),
  );
}
