import { backoffMs, type Clock, fault, type Rng } from "@ultracloud/base";
import type { Counter, Health, Logger } from "@ultracloud/observe";
import { type ChangesResponse, SqlService } from "@ultracloud/proto/flaredb/v1";
import { type RpcClient, toFault } from "@ultracloud/rpc";
import { bodyOf } from "./body.ts";
import { deliverOnce, type Post } from "./delivery.ts";
import type { ProgressFile } from "./progress_file.ts";

export interface HookOptions {
  readonly name: string;
  readonly database: string;
  readonly tables: readonly string[];
  readonly secret: string;
  readonly giveUpMs: number;
}

export interface HookDeps {
  readonly client: Pick<RpcClient<typeof SqlService>, "changes">;
  readonly progress: ProgressFile;
  readonly post: Post;
  readonly clock: Clock;
  readonly rng: Rng;
  readonly log: Logger;
  readonly health: Health;
  readonly deliveries: Counter;
}

/** Between two requests with the same changes. */
const repeat = { baseMs: 1_000, maxMs: 300_000, tries: Infinity };
/** Between two tries to hear of changes. */
const reopen = { baseMs: 200, maxMs: 10_000, tries: Infinity };
/** How far it is without changes is written down this often, so that resuming does not fall behind what is held. */
const idleWriteMs = 10_000;

/**
 * One hook: posts what changed, in order, each page until the receiver accepts it, and remembers how far it is. At least
 * once: after a crash, or an answer that got lost, the receiver sees the same `webhook-id` again.
 */
export class Hook {
  readonly #options: HookOptions;
  readonly #deps: HookDeps;

  constructor(options: HookOptions, deps: HookDeps) {
    this.#options = options;
    this.#deps = deps;
  }

  /** Until the signal, or until it must stop: health and log then say why. */
  async run(signal: AbortSignal): Promise<void> {
    const { log, health, clock, rng } = this.#deps;
    const { name } = this.#options;
    const part = `hook ${name}`;
    health.set(part, "ready");
    for (let failures = 0; !signal.aborted;) {
      try {
        const page = await this.#next(signal);
        failures = 0;
        if (page === undefined) continue;
        await this.#deliver(page, part, signal);
        this.#deps.progress.write(page.index);
        health.set(part, "ready");
      } catch (error) {
        if (signal.aborted) return;
        const failed = toFault(error);
        if (stops.has(failed.code)) {
          health.set(part, "degraded", `stopped: ${failed.message}`);
          log.error("hook stopped", { hook: name, error: failed });
          return;
        }
        if (++failures === 3) {
          health.set(
            part,
            "degraded",
            `cannot hear of changes: ${failed.message}`,
          );
        }
        log.debug("cannot hear of changes", { hook: name, error: failed });
        await clock.sleep(
          backoffMs(reopen, Math.min(failures, 10), rng),
          signal,
        ).catch(() => {});
      }
    }
  }

  /** The next page with changes; undefined when the stream ended without one. Says how far it is meanwhile. */
  async #next(signal: AbortSignal): Promise<ChangesResponse | undefined> {
    const { client, progress, clock } = this.#deps;
    const { database, tables } = this.#options;
    const known = progress.read();
    const request = { database, tables: [...tables], afterIndex: known ?? 0n };
    let writtenMs = clock.monotonicMs();
    for await (const page of client.changes(request, { signal })) {
      if (page.changes.length > 0) return page;
      // A new hook begins where the stream does, whatever happens until the first change.
      const isNew = progress.read() === undefined;
      if (!isNew && clock.monotonicMs() - writtenMs < idleWriteMs) continue;
      progress.write(page.index);
      writtenMs = clock.monotonicMs();
    }
    return undefined;
  }

  async #deliver(
    page: ChangesResponse,
    part: string,
    signal: AbortSignal,
  ): Promise<void> {
    const { clock, rng, log, health, deliveries } = this.#deps;
    const { name, giveUpMs, secret } = this.#options;
    const body = bodyOf(this.#options, page);
    const id = `${name}.${page.index}`;
    const firstMs = clock.monotonicMs();
    for (let attempt = 1;; attempt++) {
      const failed = await deliverOnce({ id, body, secret }, this.#deps, signal);
      deliveries.inc({
        hook: name,
        outcome: failed === undefined ? "accepted" : failed.code,
      });
      if (failed === undefined) return;
      signal.throwIfAborted();
      log.warn("receiver did not accept changes", {
        hook: name,
        index: String(page.index),
        attempt,
        error: failed,
      });
      health.set(
        part,
        "degraded",
        `receiver does not accept changes up to ${page.index}: ${failed.message}`,
      );
      if (failed.code === "hook_gone") throw failed;
      if (clock.monotonicMs() - firstMs >= giveUpMs) {
        const message =
          `Cannot deliver changes up to ${page.index} of hook ${name} in ${giveUpMs} ms: ${failed.message}`;
        throw fault("deadline_exceeded", "hook_given_up", message, {
          cause: failed,
        });
      }
      await clock.sleep(backoffMs(repeat, Math.min(attempt, 20), rng), signal);
    }
  }
}

/** What another try would not mend. */
const stops: ReadonlySet<string> = new Set([
  "hook_gone",
  "hook_given_up",
  "progress_unreadable",
  "compacted",
  "future_index",
]);
