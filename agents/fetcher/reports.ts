import { backoffMs, type Clock, type Rng } from "@ultracloud/base";
import type { Logger } from "@ultracloud/observe";
import type { WebhookDeliveryService } from "@ultracloud/proto/flaredb/v1";
import type { RpcClient } from "@ultracloud/rpc";

type Client = Pick<RpcClient<typeof WebhookDeliveryService>, "reportDeliveries">;
export type Report = NonNullable<NonNullable<Parameters<Client["reportDeliveries"]>[0]["reports"]>[number]>;

interface Waiting {
  readonly report: Report;
  readonly done: () => void;
}

/** Between two tries to tell flaredb. */
const repeat = { baseMs: 100, maxMs: 10_000, tries: Infinity };
/** Below what flaredb takes at once. */
const reportsMax = 500;

/**
 * Tells flaredb what became of deliveries, until it has taken it: what comes while a call is under way goes with the
 * next one. Each webhook waits for its report, so that there are never more than webhooks.
 */
export class Reports implements AsyncDisposable {
  readonly #deps: { readonly client: Client; readonly clock: Clock; readonly rng: Rng; readonly log: Logger };
  readonly #stop = new AbortController();
  #waiting: Waiting[] = [];
  #sending: Promise<void> | undefined;

  constructor(deps: { readonly client: Client; readonly clock: Clock; readonly rng: Rng; readonly log: Logger }) {
    this.#deps = deps;
  }

  /** Resolves once it is stored; rejects when the signal comes first, and it may be stored all the same. */
  send(report: Report, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    return new Promise((resolve, reject) => {
      const abort = () => reject(signal.reason);
      signal.addEventListener("abort", abort, { once: true });
      const done = () => {
        signal.removeEventListener("abort", abort);
        resolve();
      };
      this.#waiting.push({ report, done });
      this.#sending ??= this.#sendAll().finally(() => this.#sending = undefined);
    });
  }

  async #sendAll(): Promise<void> {
    const { client, clock, rng, log } = this.#deps;
    const { signal } = this.#stop;
    // Whatever is sent in the same round of the event loop goes together.
    await Promise.resolve();
    for (let failures = 0; this.#waiting.length > 0 && !signal.aborted;) {
      const now = this.#waiting.slice(0, reportsMax);
      try {
        await client.reportDeliveries({ reports: now.map(({ report }) => report) }, { signal });
        failures = 0;
        this.#waiting = this.#waiting.slice(now.length);
        for (const { done } of now) done();
      } catch (error) {
        if (signal.aborted) return;
        log.debug("cannot report deliveries", { error });
        await clock.sleep(backoffMs(repeat, Math.min(++failures, 10), rng), signal).catch(() => {});
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#sending;
  }
}
