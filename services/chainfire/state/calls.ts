import type { Database } from "@ultracloud/sqlite";
import { callAnswerBytesMax, callKeysBytesMax, callKeysCountMax, callKeyTtlMs } from "../domain/limits.ts";
import type { CallKey, CommandResult } from "../domain/types.ts";
import { rejections } from "../errors.ts";
import { decodeResult, encodeResult } from "./result_codec.ts";
import type { Counters } from "./schema.ts";

/** Answers of calls that carried an idempotency key, kept in the same transaction as their effect. */
export class Calls {
  readonly #db: Database;
  readonly #counters: Counters;
  #count = 0;
  #bytes = 0;

  constructor(db: Database, counters: Counters) {
    this.#db = db;
    this.#counters = counters;
    this.reload();
  }

  /** Counts again what is kept; needed after the rows were replaced or undone. */
  reload(): void {
    const row = this.#db.get<{ n: number; bytes: number }>(
      "SELECT COUNT(*) AS n, COALESCE(SUM(LENGTH(answer)), 0) AS bytes FROM call",
    )!;
    this.#count = row.n;
    this.#bytes = row.bytes;
  }

  /** The first answer to the same call; undefined when it is new. Rejects another request under the same key. */
  answerOf(call: CallKey): CommandResult | undefined {
    const row = this.#db.get<{ body_hash: string; answer: Uint8Array }>(
      "SELECT body_hash, answer FROM call WHERE caller = ? AND key = ?",
      call.caller,
      call.key,
    );
    if (!row) return undefined;
    if (row.body_hash !== call.bodyHash) throw rejections.idempotencyMismatch(call.key);
    return decodeResult(row.answer);
  }

  /** Remembers an answer; rejects when there is no room, and the caller undoes the effect. */
  remember(call: CallKey, result: CommandResult): void {
    this.#forgetOld();
    const answer = encodeResult(result);
    if (answer.length > callAnswerBytesMax) throw rejections.idempotencyTooLarge(answer.length, callAnswerBytesMax);
    if (this.#count >= callKeysCountMax || this.#bytes + answer.length > callKeysBytesMax) {
      throw rejections.idempotencyFull();
    }
    this.#db.run(
      "INSERT INTO call(caller, key, body_hash, answer, clock_ms) VALUES(?, ?, ?, ?, ?)",
      call.caller,
      call.key,
      call.bodyHash,
      answer,
      this.#counters.clockMs,
    );
    this.#count++;
    this.#bytes += answer.length;
  }

  #forgetOld(): void {
    const before = this.#counters.clockMs - callKeyTtlMs;
    if (before <= 0) return;
    if (this.#db.run("DELETE FROM call WHERE clock_ms < ?", before).changes > 0) this.reload();
  }
}
