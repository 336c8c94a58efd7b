import { backoffMs, type BackoffOptions, type Clock, fault, type Rng } from "@ultracloud/base";
import type { Logger } from "@ultracloud/observe";
import type { BoundService } from "@ultracloud/rpc";
import { type EventViews, serveEvents } from "./events.ts";
import { AnswerTable, type Idempotency } from "./idempotency.ts";
import type { KvBackend } from "./kv.ts";
import { Operations } from "./operations.ts";
import { type Page, type PageInput, pageRecords } from "./pages.ts";
import type { RecordCache } from "./record_cache.ts";
import type { Kind, StoredRecord } from "./records.ts";
import { SagaRunner } from "./sagas.ts";
import { Tx } from "./transaction.ts";

/** Tries of a transaction that loses against others; beyond it the caller gets `aborted`. */
export const transactTriesMax = 24;
const conflictBackoff: BackoffOptions = { baseMs: 2, maxMs: 250, tries: transactTriesMax };

export interface PlatformOptions {
  readonly service: string;
  /** Operations worked on at once. */
  readonly sagaConcurrency?: number;
  /** How often work of other replicas and dead processes is looked for. */
  readonly sagaPollMs?: number;
}

export interface PlatformDeps {
  readonly kv: KvBackend;
  readonly clock: Clock;
  readonly rng: Rng;
  readonly log: Logger;
}

export interface TransactOptions<T> {
  /** From `idempotencyOf`; the answer is kept with the effect. */
  readonly idempotency?: Idempotency<T> | undefined;
  /** Transactions of this process with the same name wait for each other instead of colliding. */
  readonly serialize?: string;
  readonly signal?: AbortSignal;
}

/** Records, transactions, operations, sagas and events of one service over its database. */
export class Platform {
  readonly service: string;
  readonly kv: KvBackend;
  readonly operations: Operations;
  readonly sagas: SagaRunner;
  readonly clock: Clock;
  readonly rng: Rng;
  readonly log: Logger;
  readonly #answers: AnswerTable;
  readonly #tails = new Map<string, Promise<void>>();

  /** @internal use `openPlatform` */
  constructor(o: PlatformOptions, deps: PlatformDeps) {
    this.service = o.service;
    this.kv = deps.kv;
    this.clock = deps.clock;
    this.rng = deps.rng;
    this.log = deps.log;
    this.#answers = new AnswerTable(deps.kv, deps.clock);
    this.operations = new Operations(o, deps);
    this.sagas = new SagaRunner({ concurrency: o.sagaConcurrency ?? 16, pollMs: o.sagaPollMs ?? 1000 }, {
      ...deps,
      operations: this.operations,
      transact: (fn) => this.transact(fn),
    });
  }

  /**
   * Runs `fn` until what it read is still true when its writes commit; all writes take effect at once. With an
   * idempotency key the first answer is given again instead. Failing often is `aborted`, code
   * `transaction_conflict`; `unavailable` leaves open whether it was done.
   */
  async transact<T>(fn: (tx: Tx) => Promise<T> | T, o: TransactOptions<T> = {}): Promise<T> {
    const leave = o.serialize === undefined ? undefined : await this.#enter(o.serialize);
    try {
      for (let attempt = 1; attempt <= transactTriesMax; attempt++) {
        const tx = new Tx(this.kv, this, o.signal);
        const kept = o.idempotency && await this.#answers.lookup(tx, o.idempotency);
        if (kept) return kept.answer;
        const answer = await fn(tx);
        if (o.idempotency) await this.#answers.keep(tx, o.idempotency, answer);
        if (await tx.commit()) return answer;
        await this.clock.sleep(backoffMs(conflictBackoff, Math.min(attempt, 8), this.rng), o.signal);
      }
    } finally {
      leave?.();
    }
    throw fault(
      "aborted",
      "transaction_conflict",
      `Cannot commit as others changed the same records ${transactTriesMax} times: wanted a retry`,
      { retryAfterMs: 100 },
    );
  }

  /** The record, or a not_found fault. Takes a name or an id. */
  get<V>(kind: Kind<V>, project: string, nameOrId: string, signal?: AbortSignal): Promise<StoredRecord<V>> {
    return new Tx(this.kv, this, signal).get(kind, project, nameOrId);
  }

  /** The record, or undefined. */
  find<V>(kind: Kind<V>, project: string, nameOrId: string): Promise<StoredRecord<V> | undefined> {
    return new Tx(this.kv, this).find(kind, project, nameOrId);
  }

  findById<V>(kind: Kind<V>, id: string): Promise<StoredRecord<V> | undefined> {
    return new Tx(this.kv, this).findById(kind, id);
  }

  getById<V>(kind: Kind<V>, id: string): Promise<StoredRecord<V>> {
    return new Tx(this.kv, this).getById(kind, id);
  }

  /** Every record of the kind, at most 10 000, by name; `project` undefined means all of them. */
  list<V>(kind: Kind<V>, project?: string): Promise<StoredRecord<V>[]> {
    return new Tx(this.kv, this).list(kind, project);
  }

  /** One page of records by name. */
  page<V>(
    kind: Kind<V>,
    o: {
      readonly project: string | undefined;
      readonly page?: PageInput | undefined;
      readonly where?: (record: StoredRecord<V>) => boolean;
      readonly view?: (record: StoredRecord<V>) => unknown;
      readonly cache?: RecordCache | undefined;
    },
  ): Promise<Page<StoredRecord<V>>> {
    return pageRecords(this.kv, kind, o);
  }

  /** `ultracloud.common.v1.OperationService`, ready to be served. */
  operationService(): BoundService {
    return this.operations.serve((fn) => this.transact(fn));
  }

  /** `ultracloud.common.v1.EventService` over the kinds in `views`. */
  eventService(views: EventViews): BoundService {
    return serveEvents(this.kv, { service: this.service, views });
  }

  /** Waits for the turn under a name; answers how to give it on. */
  async #enter(name: string): Promise<() => void> {
    const before = this.#tails.get(name);
    let leave = () => {};
    const tail = new Promise<void>((resolve) => leave = resolve);
    const chain = (before ?? Promise.resolve()).then(() => tail);
    this.#tails.set(name, chain);
    await before;
    return () => {
      leave();
      if (this.#tails.get(name) === chain) this.#tails.delete(name);
    };
  }
}

/** The platform of one service. Nothing runs until `platform.sagas.run(signal)`. */
export function openPlatform(o: PlatformOptions, deps: PlatformDeps): Platform {
  return new Platform(o, deps);
}
