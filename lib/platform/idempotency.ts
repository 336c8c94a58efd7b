import { createHash } from "node:crypto";
import {
  create,
  type DescMessage,
  fromBinary,
  type MessageInitShape,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf";
import { type Clock, fault } from "@ultracloud/base";
import type { CallContext } from "@ultracloud/rpc";
import { keyAfter, type KvBackend } from "./kv.ts";
import { buckets } from "./records.ts";
import type { Tx } from "./transaction.ts";

/** How long an answer is kept for its key. */
export const answerTtlMs = 24 * 3600 * 1000;
/** Answers kept at once, and their size: beyond it calls with a key are refused, calls without one go on. */
export const answersCountMax = 100_000;
export const answersBytesMax = 64 * 1024 * 1024;
/** What one caller may take of both, so that none takes the table from the others. */
export const answersShareMax = 0.1;
/** An answer larger than this is not kept; no mutating call makes one. */
const answerBytesMax = 1024 * 1024;
/** The table is counted again at most this often while it is full. */
const recountMs = 10_000;

/** Makes a transaction answer once per key: see `idempotencyOf`. `T` is what the transaction answers. */
export interface Idempotency<T> {
  /** Caller and key. */
  readonly key: string;
  /** Hash of method and request; another one under the same key is refused. */
  readonly hash: string;
  encode(answer: T): Uint8Array;
  decode(bytes: Uint8Array): T;
}

/**
 * The call's idempotency, undefined when it sends no key. The transaction must answer the message itself:
 * `transact(tx => message, { idempotency: idempotencyOf(context, RequestSchema, request, AnswerSchema) })`.
 */
export function idempotencyOf<I extends DescMessage, O extends DescMessage>(
  context: Pick<CallContext, "idempotencyKey" | "principal" | "method">,
  input: I,
  request: MessageShape<I>,
  output: O,
): Idempotency<MessageInitShape<O>> | undefined {
  if (context.idempotencyKey === undefined) return undefined;
  const hash = createHash("sha256").update(context.method).update("\0").update(toBinary(input, request));
  return {
    key: `${context.principal.id}|${context.idempotencyKey}`,
    hash: hash.digest("hex"),
    encode: (answer) => toBinary(output, create(output, answer)),
    decode: (bytes) => fromBinary(output, bytes) as MessageInitShape<O>,
  };
}

const hashLength = 64;
const ascii = new TextEncoder();

/** The table of kept answers: rows of hash and answer bytes that expire by themselves. */
export class AnswerTable {
  #all: Kept = { count: 0, bytes: 0 };
  #byCaller = new Map<string, Kept>();
  #countedMs: number | undefined;
  readonly #kv: KvBackend;
  readonly #clock: Pick<Clock, "monotonicMs">;

  constructor(kv: KvBackend, clock: Pick<Clock, "monotonicMs">) {
    this.#kv = kv;
    this.#clock = clock;
  }

  /** The kept answer, or undefined; another request under the same key is already_exists. */
  async lookup<T>(tx: Tx, idempotency: Idempotency<T>): Promise<{ answer: T } | undefined> {
    const row = await tx.read(buckets.answers, idempotency.key);
    if (!row) return undefined;
    const hash = new TextDecoder().decode(row.subarray(0, hashLength));
    if (hash !== idempotency.hash) {
      throw fault(
        "already_exists",
        "idempotency_mismatch",
        "Cannot repeat the call as its idempotency key was used with another request: wanted the same request or a new key",
      );
    }
    return { answer: idempotency.decode(row.subarray(hashLength)) };
  }

  /** Keeps the answer with the transaction's effect. */
  async keep<T>(tx: Tx, idempotency: Idempotency<T>, answer: T): Promise<void> {
    const bytes = idempotency.encode(answer);
    if (bytes.length > answerBytesMax) {
      throw fault(
        "resource_exhausted",
        "idempotency_answer_large",
        `Cannot keep an answer of ${bytes.length} bytes: wanted at most ${answerBytesMax}`,
      );
    }
    const caller = callerOf(idempotency.key);
    await this.#admit(caller);
    const row = new Uint8Array(hashLength + bytes.length);
    row.set(ascii.encode(idempotency.hash));
    row.set(bytes, hashLength);
    tx.write(buckets.answers, idempotency.key, row, answerTtlMs);
    tx.afterCommit(() => this.#note(caller, row.length));
  }

  #note(caller: string, bytes: number): void {
    let own = this.#byCaller.get(caller);
    if (own === undefined) this.#byCaller.set(caller, own = { count: 0, bytes: 0 });
    for (const kept of [this.#all, own]) {
      kept.count++;
      kept.bytes += bytes;
    }
  }

  async #admit(caller: string): Promise<void> {
    const now = this.#clock.monotonicMs();
    const due = this.#countedMs === undefined || now - this.#countedMs >= recountMs;
    if (this.#countedMs === undefined || (due && this.#fullFor(caller) !== undefined)) {
      this.#countedMs = now;
      await this.#recount();
    }
    const full = this.#fullFor(caller);
    if (full === undefined) return;
    throw fault(
      "resource_exhausted",
      "idempotency_table_full",
      `Cannot keep more answers: ${full.count} are kept for 24 h; wanted the call without a key, or later`,
      { retryAfterMs: recountMs },
    );
  }

  /** What is full: all that is kept or, of a person or account, what is kept for it. Components share the table. */
  #fullFor(caller: string): Kept | undefined {
    if (isFull(this.#all, 1)) return this.#all;
    const own = caller.startsWith("spiffe://") ? undefined : this.#byCaller.get(caller);
    return own !== undefined && isFull(own, answersShareMax) ? own : undefined;
  }

  /** Other replicas add rows and time takes them away, so the count is an estimate that is renewed when it matters. */
  async #recount(): Promise<void> {
    const rows: { readonly caller: string; readonly bytes: number }[] = [];
    let start = "";
    for (;;) {
      const items = await this.#kv.scan(buckets.answers, { start, limit: 1000 });
      for (const item of items) rows.push({ caller: callerOf(item.key), bytes: item.value.length });
      if (items.length < 1000) break;
      start = keyAfter(items.at(-1)!.key);
    }
    this.#all = { count: 0, bytes: 0 };
    this.#byCaller = new Map();
    for (const { caller, bytes } of rows) this.#note(caller, bytes);
  }
}

interface Kept {
  count: number;
  bytes: number;
}

function isFull(kept: Kept, share: number): boolean {
  return kept.count >= answersCountMax * share || kept.bytes >= answersBytesMax * share;
}

/** The principal in `Idempotency.key`; no principal holds a bar. */
function callerOf(key: string): string {
  return key.slice(0, key.indexOf("|"));
}
