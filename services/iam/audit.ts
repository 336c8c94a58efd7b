import { timestampFromMs, timestampMs } from "@bufbuild/protobuf/wkt";
import { type Clock, invalidField, type Rng, ulid, utf8 } from "@ultracloud/base";
import type { Logger, Registry } from "@ultracloud/observe";
import { buckets, keyAfter, type Platform } from "@ultracloud/platform";
import { AuditService } from "@ultracloud/proto/iam/v1";
import { type AuditRecord, bind, type BoundService } from "@ultracloud/rpc";

/** How long an event is kept. */
const keptMs = 90 * 24 * 3600 * 1000;
/** Events that wait to be written; beyond it they are in the log alone, and counted. */
const waitingMax = 10_000;
const batchMax = 100;
const flushEveryMs = 250;
const pageSizeDefault = 100;
const pageSizeMax = 1_000;
/** Rows looked at for one page, so that a rare principal does not make one call read everything. */
const scannedMax = 5_000;
const prefix = "audit|";
/** Failed logins that no brake bounds are kept one by one up to this many a window; more are counted. */
const unbrakedMax = 6;
const unbrakedWindowMs = 60_000;
/** What failed logins are called in the trail. */
const loginMethod = "/ultracloud.iam.v1.TokenService/Login";

export interface FailedLogin {
  /** Whose account was tried; undefined when there is no such account. */
  readonly principal: string | undefined;
  /** Organisation that was asked for. */
  readonly org: string;
  /** "login_failed", "login_slowed", "login_locked", "api_key_refused", "admin_token_refused". */
  readonly outcome: string;
}

type Event = Pick<AuditRecord, "timeMs" | "requestId" | "principal" | "method" | "scope" | "outcome">;

/** Writes who changed what into the store, in batches, behind the calls; and reads it again. */
export class AuditTrail {
  readonly #platform: Platform;
  readonly #clock: Clock;
  readonly #rng: Rng;
  readonly #log: Logger;
  readonly #waiting: Event[] = [];
  #dropped = 0;
  #unbraked = { sinceMs: 0, count: 0 };

  constructor(deps: { readonly platform: Platform; readonly clock: Clock; readonly rng: Rng; readonly log: Logger }) {
    this.#platform = deps.platform;
    this.#clock = deps.clock;
    this.#rng = deps.rng;
    this.#log = deps.log;
  }

  expose(registry: Registry): void {
    const gauge = registry.gauge(
      "iam_audit_dropped",
      "Audit events that are in the log alone as the store was away",
      [],
    );
    registry.onExpose(() => gauge.set(this.#dropped, {}));
  }

  /** Takes a record; also a log line, which outlives a lost store. */
  note(record: AuditRecord): void {
    const { timeMs, requestId, principal, method, scope, outcome } = record;
    this.#log.info("audit", { ...record });
    // Who fails to log in is told by noteFailedLogin(), which anybody may cause without filling the store.
    if (principal === "anonymous" && outcome !== "ok") return;
    this.#keep({ timeMs, requestId, principal, method, scope, outcome });
  }

  /**
   * Takes a failed login. Brakes bound wrong passwords of an account; everything else costs a stranger nothing, so
   * beyond a few a minute it is counted in one event.
   */
  noteFailedLogin({ principal, org, outcome }: FailedLogin): void {
    const timeMs = this.#clock.nowMs();
    const event = {
      timeMs,
      requestId: "",
      principal: principal ?? "anonymous",
      method: loginMethod,
      scope: org,
      outcome,
    };
    if (principal !== undefined && outcome === "login_failed") return this.#keep(event);
    this.#endWindow(timeMs);
    if (this.#unbraked.count++ < unbrakedMax) this.#keep(event);
  }

  /** When the time of the window is over: tells how many failed logins were left out, and begins anew. */
  #endWindow(nowMs: number): void {
    const { sinceMs, count } = this.#unbraked;
    if (nowMs - sinceMs < unbrakedWindowMs) return;
    this.#unbraked = { sinceMs: nowMs, count: 0 };
    if (count <= unbrakedMax) return;
    const outcome = `login_failed (${count - unbrakedMax} more)`;
    this.#keep({ timeMs: nowMs, requestId: "", principal: "anonymous", method: loginMethod, scope: "", outcome });
  }

  #keep(event: Event): void {
    if (this.#waiting.length >= waitingMax) this.#dropped++;
    else this.#waiting.push(event);
  }

  /** Writes what waits until the signal aborts, and what is left then. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await this.#clock.sleep(flushEveryMs, signal).catch(() => {});
      await this.flush().catch((error) => this.#log.debug("cannot write audit events yet", { error }));
    }
  }

  async flush(): Promise<void> {
    this.#endWindow(this.#clock.nowMs());
    while (this.#waiting.length > 0) {
      const batch = this.#waiting.slice(0, batchMax);
      await this.#platform.transact((tx) => {
        for (const event of batch) {
          const key = `${prefix}${ulid({ nowMs: () => event.timeMs }, this.#rng)}`;
          tx.putRow(key, event, keptMs);
        }
      });
      this.#waiting.splice(0, batch.length);
    }
  }

  /** Events in order of time, from `after` (a key) or `sinceMs`, as many as fit; the key to go on after when there may be more. */
  async read(
    o: {
      readonly sinceMs: number;
      readonly untilMs: number;
      readonly principal: string;
      readonly after: string;
      readonly limit: number;
    },
  ) {
    const found: Event[] = [];
    // The first ten characters of the key are the time.
    let start = o.after === ""
      ? prefix + ulid({ nowMs: () => o.sinceMs }, this.#rng).slice(0, 10)
      : keyAfter(prefix + o.after);
    for (let scanned = 0; scanned < scannedMax;) {
      const limit = Math.min(500, scannedMax - scanned);
      const items = await this.#platform.kv.scan(buckets.rows, { prefix, start, limit });
      for (const { key, value } of items) {
        const event = JSON.parse(utf8.decode(value)) as Event;
        if (event.timeMs >= o.untilMs) return { events: found, next: "" };
        if (event.timeMs >= o.sinceMs && (o.principal === "" || event.principal === o.principal)) found.push(event);
        if (found.length >= o.limit) return { events: found, next: key.slice(prefix.length) };
        start = keyAfter(key);
      }
      scanned += items.length;
      if (items.length < limit) return { events: found, next: "" };
      if (scanned >= scannedMax) return { events: found, next: items.at(-1)!.key.slice(prefix.length) };
    }
    return { events: found, next: "" };
  }
}

export function auditService(trail: AuditTrail): BoundService {
  return bind(AuditService, {
    async listAuditEvents({ since, until, principal, page }) {
      const size = page?.pageSize ?? 0;
      const after = page?.pageToken ?? "";
      if (size < 0 || size > pageSizeMax) {
        throw invalidField("page.pageSize", `Cannot answer ${size} events: wanted 0 to ${pageSizeMax}`);
      }
      if (after !== "" && !/^[0-9A-HJKMNP-TV-Z]{26}$/.test(after)) {
        throw invalidField(
          "page.pageToken",
          "Cannot use the page token: wanted one of an earlier answer",
          "invalid_page_token",
        );
      }
      const { events, next } = await trail.read({
        sinceMs: since ? Math.max(0, timestampMs(since)) : 0,
        untilMs: until ? timestampMs(until) : Number.MAX_SAFE_INTEGER,
        principal,
        after,
        limit: size === 0 ? pageSizeDefault : size,
      });
      return {
        events: events.map(({ timeMs, ...event }) => ({ time: timestampFromMs(timeMs), ...event })),
        page: { nextPageToken: next },
      };
    },
  }, {
    listAuditEvents: { resource: "audit", action: "read", scope: () => "" },
  });
}
