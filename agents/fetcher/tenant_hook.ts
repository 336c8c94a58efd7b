import { timestampFromMs, timestampMs } from "@bufbuild/protobuf/wkt";
import { backoffMs, type Clock, type Fault, type Rng } from "@ultracloud/base";
import type { Counter, Logger } from "@ultracloud/observe";
import type { ChangesResponse, SqlService, WebhookDelivery } from "@ultracloud/proto/flaredb/v1";
import { type RpcClient, toFault } from "@ultracloud/rpc";
import { bodyOf } from "./body.ts";
import { deliverOnce, type Post } from "./delivery.ts";
import type { Reports } from "./reports.ts";
import type { Slots } from "./slots.ts";

export interface TenantHookDeps {
  readonly client: Pick<RpcClient<typeof SqlService>, "changes">;
  readonly reports: Pick<Reports, "send">;
  readonly slots: Slots;
  readonly post: Post;
  readonly clock: Clock;
  readonly rng: Rng;
  readonly log: Logger;
  readonly deliveries: Counter;
  /** A webhook whose receiver refuses for this long is given up until somebody resumes it. */
  readonly giveUpMs: number;
}

/** Between two tries of a delivery. */
const repeat = { baseMs: 1_000, maxMs: 300_000, tries: Infinity };
/** Between two tries to hear of changes while flaredb is away, which is nobody's failure. */
const reopen = { baseMs: 200, maxMs: 10_000, tries: Infinity };
/** Small: each webhook may hold one while it waits for a slot. */
const pageBytes = 256 * 1024;

/**
 * A webhook that a tenant made, at one revision. Where it is stands in flaredb: after each page that was accepted, and
 * after each try that failed, with the index up to which the page went. So the same changes go out under the same id
 * however often they are tried and whoever tries them, and nothing is held in memory between tries.
 */
export class TenantHook {
  readonly #hook: WebhookDelivery;
  readonly #deps: TenantHookDeps;
  #position: bigint;
  #pending: bigint;
  #failures: number;
  #failingMs: number;
  #nextTryMs: number;

  constructor(hook: WebhookDelivery, deps: TenantHookDeps) {
    this.#hook = hook;
    this.#deps = deps;
    this.#position = hook.position;
    this.#pending = hook.pendingIndex;
    this.#failures = hook.failures;
    this.#failingMs = hook.failingSince === undefined ? 0 : timestampMs(hook.failingSince);
    this.#nextTryMs = hook.nextTryTime === undefined ? 0 : timestampMs(hook.nextTryTime);
  }

  /** Until the signal, or until nothing more is to be tried. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock, rng, log } = this.#deps;
    for (let unheard = 0; !signal.aborted;) {
      try {
        await this.#untilNextTry(signal);
        const went = await this.#follow(signal);
        if (went === "over") return;
        if (went === "again") unheard = 0;
        else await clock.sleep(backoffMs(reopen, Math.min(++unheard, 10), rng), signal);
      } catch (error) {
        if (signal.aborted) return;
        const failed = toFault(error);
        const final = lost.has(failed.code);
        if (final || failed.code === "not_captured") {
          if (!await this.#failed(this.#pending, failed, signal, final)) return;
          continue;
        }
        log.debug("cannot hear of changes", { webhook: this.#label, error: failed });
        await clock.sleep(backoffMs(reopen, Math.min(++unheard, 10), rng), signal).catch(() => {});
      }
    }
  }

  get #label(): string {
    return `${this.#hook.database}/${this.#hook.name}`;
  }

  async #untilNextTry(signal: AbortSignal): Promise<void> {
    const { clock } = this.#deps;
    const waitMs = this.#nextTryMs - clock.nowMs();
    if (this.#failures > 0 && waitMs > 0) await clock.sleep(Math.min(waitMs, repeat.maxMs), signal);
  }

  /** Delivers what comes until a try fails or the stream ends. */
  async #follow(signal: AbortSignal): Promise<"over" | "again" | "ended"> {
    const { client } = this.#deps;
    const { database, tables } = this.#hook;
    const request = { database, tables, afterIndex: this.#position, pageBytes };
    for await (const page of client.changes(request, { signal })) {
      if (page.changes.length === 0) {
        if (this.#pending === 0n) await this.#moved(page.index, signal);
        continue;
      }
      const due = this.#pending > 0n ? upTo(page, this.#pending) : page;
      const failed = await this.#deliver(due, signal);
      if (failed !== undefined) return await this.#failed(due.index, failed, signal, false) ? "again" : "over";
      // The rest of the page is read again, from behind what was accepted.
      if (due.index < page.index) return "again";
    }
    return "ended";
  }

  /** Undefined when the receiver accepted it. */
  async #deliver(page: Page, signal: AbortSignal): Promise<Fault | undefined> {
    const { slots, deliveries, reports } = this.#deps;
    const { id, revision, secret } = this.#hook;
    const body = bodyOf(this.#hook, page);
    const delivery = { id: `${this.#hook.database}.${id}.${page.index}`, body, secret };
    const failed = await slots.run(this.#hook.database, signal, () => deliverOnce(delivery, this.#deps, signal));
    signal.throwIfAborted();
    deliveries.inc({ hook: "tenants", outcome: failed === undefined ? "accepted" : failed.code });
    if (failed !== undefined) return failed;
    await reports.send({ id, revision, position: page.index, accepted: true }, signal);
    this.#position = page.index;
    this.#pending = 0n;
    this.#failures = this.#failingMs = this.#nextTryMs = 0;
    return undefined;
  }

  /** Nothing up to there is for this webhook. */
  async #moved(index: bigint, signal: AbortSignal): Promise<void> {
    if (index <= this.#position) return;
    const { id, revision } = this.#hook;
    await this.#deps.reports.send({ id, revision, position: index }, signal);
    this.#position = index;
  }

  /** Writes a failure down; false: nothing more is to be tried. */
  async #failed(pending: bigint, failed: Fault, signal: AbortSignal, isLost: boolean): Promise<boolean> {
    const { clock, rng, reports, log, giveUpMs } = this.#deps;
    const { id, revision } = this.#hook;
    const nowMs = clock.nowMs();
    if (this.#failures++ === 0) this.#failingMs = nowMs;
    const over = isLost || failed.code === "hook_gone" || nowMs - this.#failingMs >= giveUpMs;
    this.#nextTryMs = over ? 0 : nowMs + backoffMs(repeat, Math.min(this.#failures, 20), rng);
    this.#pending = pending;
    log.info("a webhook's changes were not accepted", {
      webhook: this.#label,
      failures: this.#failures,
      error: failed,
    });
    await reports.send({
      id,
      revision,
      position: this.#position,
      failure: {
        pendingIndex: pending,
        reason: reasonOf(failed, this.#hook),
        lost: isLost,
        ...(over ? {} : { nextTryTime: timestampFromMs(this.#nextTryMs) }),
      },
    }, signal);
    return !over;
  }
}

interface Page {
  readonly index: bigint;
  readonly changes: ChangesResponse["changes"];
}

/** What of a page is at or before the index, which is where an earlier page ended. */
function upTo(page: ChangesResponse, index: bigint): Page {
  const changes = page.changes.filter((change) => change.index <= index);
  return page.index <= index || changes.length === 0 ? page : { index, changes };
}

/** The changes behind the position are gone. */
const lost: ReadonlySet<string> = new Set(["compacted", "future_index"]);

/**
 * What a tenant is told. Never an address, nor what the runtime says of one: names of the inside may have answers that
 * are nobody's business outside.
 */
function reasonOf(failed: Fault, { url }: WebhookDelivery): string {
  const host = URL.canParse(url) ? new URL(url).host : "the receiver";
  switch (failed.code) {
    case "hook_refused":
    case "hook_gone":
    case "hook_slow":
    case "hook_plain":
    case "not_captured":
    case "compacted":
    case "future_index":
      return failed.message;
    case "hook_address_refused":
    case "hook_unresolved":
      return `Cannot post to ${host}: wanted a name with public IPv4 addresses only`;
    case "hook_answer_malformed":
      return `Cannot read what ${host} answers: wanted HTTP/1.1`;
    default:
      return `Cannot reach ${host}`;
  }
}
