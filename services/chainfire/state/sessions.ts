import type { Database } from "@ultracloud/sqlite";
import {
  callAnswerBytesMax,
  sessionAnswersBytesMax,
  sessionsCountMax,
  sessionUnansweredMax,
} from "../domain/limits.ts";
import type { CommandResult, SessionCall } from "../domain/types.ts";
import { rejections } from "../errors.ts";
import { decodeResult, encodeResult } from "./result_codec.ts";
import type { Counters } from "./schema.ts";

interface Session {
  readonly caller: string;
  answeredBelow: number;
  /** Size of each answer that is kept, by sequence. */
  readonly answers: Map<number, number>;
}

/**
 * Client sessions: which writes they have done, with the answers. A sequence runs once, as long as its answer is kept
 * the repetition is answered, afterwards it is refused. What is in memory is exactly what the rows say.
 */
export class Sessions {
  readonly #db: Database;
  readonly #counters: Counters;
  /** Least recently used first. */
  readonly #sessions = new Map<bigint, Session>();
  #bytes = 0;

  constructor(db: Database, counters: Counters) {
    this.#db = db;
    this.#counters = counters;
    this.reload();
  }

  /** Reads the rows again; needed after they were replaced. */
  reload(): void {
    this.#sessions.clear();
    this.#bytes = 0;
    for (
      const row of this.#db.all<{ id: number | bigint; caller: string; answered_below: number }>(
        "SELECT id, caller, answered_below FROM session ORDER BY used",
      )
    ) {
      this.#sessions.set(BigInt(row.id), {
        caller: row.caller,
        answeredBelow: row.answered_below,
        answers: new Map(),
      });
    }
    for (
      const row of this.#db.all<{ session: number | bigint; sequence: number; bytes: number }>(
        "SELECT session, sequence, LENGTH(answer) AS bytes FROM session_answer",
      )
    ) {
      this.#sessions.get(BigInt(row.session))!.answers.set(row.sequence, row.bytes);
      this.#bytes += row.bytes;
    }
  }

  get count(): number {
    return this.#sessions.size;
  }

  /** A new session of the caller; the one unused for longest makes room. */
  open(caller: string): bigint {
    const oldest = this.#sessions.keys().next();
    if (this.#sessions.size >= sessionsCountMax) this.#drop(oldest.value!);
    const id = BigInt(++this.#counters.sessionLast);
    this.#db.run(
      "INSERT INTO session(id, caller, answered_below, used) VALUES(?, ?, 0, ?)",
      id,
      caller,
      ++this.#counters.sessionUse,
    );
    this.#sessions.set(id, { caller, answeredBelow: 0, answers: new Map() });
    return id;
  }

  close(caller: string, id: bigint): void {
    this.#get(caller, id);
    this.#drop(id);
  }

  /** The first answer to the same write; undefined when it is new. Rejects what must not run (again). */
  answerOf(call: SessionCall): CommandResult | undefined {
    const session = this.#get(call.caller, call.session);
    if (call.sequence < session.answeredBelow) {
      throw rejections.sequenceAnswered(call.sequence, session.answeredBelow);
    }
    if (!session.answers.has(call.sequence)) return undefined;
    const row = this.#db.get<{ body_hash: number; answer: Uint8Array }>(
      "SELECT body_hash, answer FROM session_answer WHERE session = ? AND sequence = ?",
      call.session,
      call.sequence,
    )!;
    if (row.body_hash !== call.bodyHash) throw rejections.sequenceMismatch(call.sequence);
    return decodeResult(row.answer);
  }

  /** Keeps an answer and forgets those the client has; rejects when there is no room, and the caller undoes the effect. */
  remember(call: SessionCall, result: CommandResult): void {
    const { session: id, sequence, answeredBelow } = call;
    const session = this.#sessions.get(id)!;
    const answer = encodeResult(result);
    if (answer.length > callAnswerBytesMax) throw rejections.idempotencyTooLarge(answer.length, callAnswerBytesMax);
    const gone = [...session.answers].filter(([known]) => known < answeredBelow);
    if (session.answers.size - gone.length >= sessionUnansweredMax) throw rejections.sessionFull(sessionUnansweredMax);
    const bytes = this.#bytes - gone.reduce((sum, [, size]) => sum + size, 0) + answer.length;
    if (bytes > sessionAnswersBytesMax) throw rejections.sessionsFull(this.#bytes);
    // Nothing below can be rejected: what is in memory stays what the rows say.
    if (gone.length > 0) {
      this.#db.run("DELETE FROM session_answer WHERE session = ? AND sequence < ?", id, answeredBelow);
    }
    this.#db.run(
      "INSERT INTO session_answer(session, sequence, body_hash, answer) VALUES(?, ?, ?, ?)",
      id,
      sequence,
      call.bodyHash,
      answer,
    );
    session.answeredBelow = Math.max(session.answeredBelow, answeredBelow);
    this.#db.run(
      "UPDATE session SET answered_below = ?, used = ? WHERE id = ?",
      session.answeredBelow,
      ++this.#counters.sessionUse,
      id,
    );
    for (const [known] of gone) session.answers.delete(known);
    session.answers.set(sequence, answer.length);
    this.#bytes = bytes;
    this.#sessions.delete(id);
    this.#sessions.set(id, session);
  }

  #get(caller: string, id: bigint): Session {
    const session = this.#sessions.get(id);
    // Another caller's session is none of this caller's.
    if (!session || session.caller !== caller) throw rejections.sessionExpired(id);
    return session;
  }

  #drop(id: bigint): void {
    this.#db.run("DELETE FROM session WHERE id = ?", id);
    this.#db.run("DELETE FROM session_answer WHERE session = ?", id);
    for (const bytes of this.#sessions.get(id)!.answers.values()) this.#bytes -= bytes;
    this.#sessions.delete(id);
  }
}
