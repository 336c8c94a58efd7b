import { fault } from "@ultracloud/base";
import type { SqlService, WebhookDelivery, WebhookDeliveryService } from "@ultracloud/proto/flaredb/v1";
import type { Health } from "@ultracloud/observe";
import type { RpcClient } from "@ultracloud/rpc";
import type { Range } from "./domain/addresses.ts";
import { post, type PostDeps } from "./post.ts";
import { Reports } from "./reports.ts";
import { Slots } from "./slots.ts";
import { TenantHook, type TenantHookDeps } from "./tenant_hook.ts";

export interface TenantHooksOptions {
  /** How often it is asked which webhooks there are. */
  readonly pollMs: number;
  readonly allowPlain: boolean;
  /** Private ranges that tenants may reach all the same. */
  readonly privateRanges: readonly Range[];
  /** Public ranges that they may not. */
  readonly deniedRanges: readonly Range[];
  readonly caCerts: readonly string[];
  readonly requestMsMax: number;
  readonly giveUpMs: number;
}

export interface TenantHooksDeps
  extends Omit<TenantHookDeps, "client" | "reports" | "slots" | "post" | "giveUpMs">, PostDeps {
  readonly sql: Pick<RpcClient<typeof SqlService>, "changes">;
  readonly webhooks: Pick<RpcClient<typeof WebhookDeliveryService>, "listDeliveries" | "reportDeliveries">;
  readonly health: Health;
}

/** Requests under way at once: each holds a page and a connection. */
const postsMax = 64;
/** Of one database, so that receivers who take their time hold up their own tenant only. */
const postsPerDatabaseMax = 4;
const part = "tenants' hooks";

interface Running {
  readonly revision: bigint;
  readonly stop: AbortController;
  readonly done: Promise<void>;
}

/** Follows the webhooks that tenants made: those that are new are run, those that changed run anew, others end. */
export class TenantHooks {
  readonly #options: TenantHooksOptions;
  readonly #deps: TenantHooksDeps;
  readonly #running = new Map<bigint, Running>();
  readonly #slots = new Slots({ totalMax: postsMax, perKeyMax: postsPerDatabaseMax });

  constructor(options: TenantHooksOptions, deps: TenantHooksDeps) {
    this.#options = options;
    this.#deps = deps;
  }

  /** Until the signal; resolves once nothing of it runs any more. */
  async run(signal: AbortSignal): Promise<void> {
    const { webhooks, clock, log, health } = this.#deps;
    await using reports = new Reports({ ...this.#deps, client: webhooks });
    let knownRevision = 0n;
    for (let failures = 0; !signal.aborted;) {
      try {
        const listed = await webhooks.listDeliveries({ knownRevision }, { signal });
        if (!listed.unchanged) {
          await this.#agree(listed.webhooks, reports, signal);
          knownRevision = listed.revision;
        }
        failures = 0;
        health.set(part, "ready");
      } catch (error) {
        if (signal.aborted) break;
        if (++failures === 3) health.set(part, "degraded", "cannot ask flaredb for webhooks");
        log.debug("cannot ask for webhooks", { error });
      }
      await clock.sleep(this.#options.pollMs, signal).catch(() => {});
    }
    await Promise.all([...this.#running.values()].map(({ done }) => done));
  }

  async #agree(wanted: readonly WebhookDelivery[], reports: Reports, signal: AbortSignal): Promise<void> {
    const revisions = new Map(wanted.map(({ id, revision }) => [id, revision]));
    const over = [...this.#running].filter(([id, { revision }]) => revisions.get(id) !== revision);
    for (const [, { stop }] of over) stop.abort();
    for (const [id, { done }] of over) {
      await done;
      this.#running.delete(id);
    }
    for (const hook of wanted) if (!this.#running.has(hook.id)) this.#start(hook, reports, signal);
  }

  #start(hook: WebhookDelivery, reports: Reports, signal: AbortSignal): void {
    const stop = new AbortController();
    const ends = AbortSignal.any([signal, stop.signal]);
    const { log } = this.#deps;
    const work = hook.position === 0n ? this.#begin(hook, reports, ends) : this.#hook(hook, reports).run(ends);
    const done = work.catch((error) => {
      if (!ends.aborted) log.error("a webhook ended", { webhook: `${hook.database}/${hook.name}`, error });
    });
    this.#running.set(hook.id, { revision: hook.revision, stop, done });
  }

  /** Says where a webhook begins whose maker was cut off before saying so; it is listed anew then. */
  async #begin({ id, revision, database }: WebhookDelivery, reports: Reports, signal: AbortSignal): Promise<void> {
    const { sql, clock, log } = this.#deps;
    while (!signal.aborted) {
      try {
        for await (const { index } of sql.changes({ database }, { signal })) {
          return await reports.send({ id, revision, position: index, begin: true }, signal);
        }
      } catch (error) {
        log.debug("cannot begin a webhook", { database, error });
      }
      await clock.sleep(this.#options.pollMs, signal).catch(() => {});
    }
  }

  #hook(hook: WebhookDelivery, reports: Reports): TenantHook {
    const { allowPlain, privateRanges, deniedRanges, caCerts, requestMsMax: timeoutMs, giveUpMs } = this.#options;
    const url = new URL(hook.url);
    return new TenantHook(hook, {
      ...this.#deps,
      client: this.#deps.sql,
      reports,
      slots: this.#slots,
      giveUpMs,
      post: async (body, headers, signal) => {
        // flaredb refuses it, too; what goes out is decided here.
        if (url.protocol !== "https:" && !allowPlain) {
          throw fault("permission_denied", "hook_plain", `Cannot post to ${url.host} by plain http: wanted https`);
        }
        return await post({ url, headers, body, privateRanges, deniedRanges, caCerts, timeoutMs }, this.#deps, signal);
      },
    });
  }
}
