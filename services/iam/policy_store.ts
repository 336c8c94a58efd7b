import {
  fixedPolicyView,
  type PolicyIndex,
  type PolicySnapshot,
  policySnapshotTyp,
  policyStaleMsMax,
  type PolicyView,
  type VerifyKey,
  type WorkloadSigner,
} from "@ultracloud/authz";
import { type Clock, fault, utf8 } from "@ultracloud/base";
import type { Health, Logger } from "@ultracloud/observe";
import { buckets, keyAfter, type Kind, type Platform, type StoredRecord } from "@ultracloud/platform";
import type { Keyring } from "./keyring.ts";
import type { MasterKeys } from "./master_keys.ts";
import { bindingKind, groupKind, principalOf, roleKind, rowKeys } from "./kinds.ts";

/** The store is asked this often whether policy has changed, in case its watch fell silent: half the promised 2 s. */
const probeMs = 1_000;
/** Long polls held at once; a few per component of the cluster. */
export const policyWaitersMax = 1_024;
const pageRows = 1_000;

interface Held {
  readonly view: PolicyView;
  readonly jws: string;
}

/**
 * The policy as the store has it: read whole on each change, indexed for this process, signed for the others. Its
 * version is that of the store's write, so replicas agree on it; a snapshot holds everything up to its version.
 */
export class PolicyStore implements PolicyView {
  readonly #issuer: string;
  readonly #platform: Platform;
  readonly #keyring: Keyring;
  readonly #masterKeys: MasterKeys;
  readonly #signer: WorkloadSigner;
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #health: Health;
  readonly #waiters = new Set<() => void>();
  #held: Held | undefined;
  #heardAtMs = -Infinity;
  #running: Promise<void> | undefined;
  #next: Promise<void> | undefined;
  #wake = () => {};

  constructor(options: { readonly issuer: string }, deps: {
    readonly platform: Platform;
    readonly keyring: Keyring;
    readonly masterKeys: MasterKeys;
    readonly signer: WorkloadSigner;
    readonly clock: Clock;
    readonly log: Logger;
    readonly health: Health;
  }) {
    this.#issuer = options.issuer;
    this.#platform = deps.platform;
    this.#keyring = deps.keyring;
    this.#masterKeys = deps.masterKeys;
    this.#signer = deps.signer;
    this.#clock = deps.clock;
    this.#log = deps.log;
    this.#health = deps.health;
  }

  index(): PolicyIndex | undefined {
    return this.#held?.view.index();
  }

  get version(): number {
    return this.#held?.view.version ?? 0;
  }

  key(kid: string): VerifyKey | undefined {
    return this.#held?.view.key(kid);
  }

  stale(): boolean {
    return this.#clock.monotonicMs() - this.#heardAtMs > policyStaleMsMax;
  }

  /** The index; unavailable before the first read. */
  present(): PolicyIndex {
    const index = this.index();
    if (index) return index;
    throw fault("unavailable", "policy_not_ready", "Cannot decide yet: policy has not been read from the store", {
      retryAfterMs: 500,
    });
  }

  /** Resolves when everything committed before the call is in force here. One read serves all who ask meanwhile. */
  refresh(): Promise<void> {
    if (!this.#running) return this.#start();
    // The read under way may have begun before the caller's commit.
    this.#next ??= this.#running.catch(() => {}).then(() => {
      this.#next = undefined;
      // Somebody may have started in between; two at once could end in the wrong order.
      return this.#running ?? this.#start();
    });
    return this.#next;
  }

  #start(): Promise<void> {
    return this.#running = this.#read().finally(() => this.#running = undefined);
  }

  async #read(): Promise<void> {
    const row = await this.#platform.kv.get(buckets.rows, rowKeys.policy);
    if (!row) return;
    if (row.version !== this.#held?.view.version) {
      // The version is read before the content: content may be newer, never older than what the version promises.
      const snapshot = await this.#snapshot(row.version);
      const [view, jws] = await Promise.all([
        fixedPolicyView(snapshot),
        this.#signer.sign({ snapshot }, policySnapshotTyp),
      ]);
      this.#held = { view, jws };
      this.#log.debug("policy read", { version: row.version, bindings: snapshot.bindings.length });
      for (const waiter of [...this.#waiters]) waiter();
    }
    this.#heardAtMs = this.#clock.monotonicMs();
  }

  async #snapshot(version: number): Promise<PolicySnapshot> {
    await this.#masterKeys.load();
    const [keys, roles, bindings, groups, boundaries, revokedBefore, revokedIds] = await Promise.all([
      this.#keyring.load(),
      this.#all(roleKind),
      this.#all(bindingKind),
      this.#all(groupKind),
      this.#rows<{ permissions: string[] }>("boundary|"),
      this.#rows<{ beforeMs: number }>(rowKeys.revoked("")),
      this.#rows<{ untilMs: number }>("revid|"),
    ]);
    return {
      version,
      issuedAtMs: this.#clock.nowMs(),
      issuer: this.#issuer,
      keys,
      roles: roles.map((r) => ({ name: r.name, org: r.project, permissions: [...r.value.permissions] })),
      bindings: bindings.map(({ id, value: { principal, role, scope, deny, conditions } }) => ({
        id,
        principal,
        role,
        scope,
        deny,
        ...(conditions ? { conditions: [...conditions] } : {}),
      })),
      groups: Object.fromEntries(groups.map(({ id, value }) => [principalOf.group(id), [...value.members]])),
      boundaries: Object.fromEntries(
        boundaries.map(({ key, value }) => [key.slice(key.indexOf("|") + 1), value.permissions]),
      ),
      revokedBefore: Object.fromEntries(revokedBefore.map(({ key, value }) => [key, value.beforeMs])),
      revokedIds: Object.fromEntries(
        revokedIds.map(({ key, value }) => [key.slice(key.lastIndexOf("|") + 1), value.untilMs]),
      ),
    };
  }

  async #all<V>(kind: Kind<V>): Promise<StoredRecord<V>[]> {
    const all: StoredRecord<V>[] = [];
    for (let pageToken = "";;) {
      const page = await this.#platform.page(kind, { project: undefined, page: { pageSize: pageRows, pageToken } });
      all.push(...page.items);
      if (page.nextPageToken === "") return all;
      pageToken = page.nextPageToken;
    }
  }

  /** All small values below the prefix, keys without it. */
  async #rows<T>(prefix: string): Promise<{ key: string; value: T }[]> {
    const found: { key: string; value: T }[] = [];
    for (let start = "";;) {
      const items = await this.#platform.kv.scan(buckets.rows, { prefix, start, limit: pageRows });
      for (const { key, value } of items) {
        found.push({ key: key.slice(prefix.length), value: JSON.parse(utf8.decode(value)) });
      }
      if (items.length < pageRows) return found;
      start = keyAfter(items.at(-1)!.key);
    }
  }

  /** The signed snapshot when it is newer than `after`, waiting for one up to `waitMs`; undefined when none came. */
  async newerThan(
    after: number,
    waitMs: number,
    signal: AbortSignal,
  ): Promise<{ version: number; jws: string } | undefined> {
    this.present();
    if (this.version <= after && waitMs > 0) {
      // Answered at once instead, the caller would only ask again.
      if (this.#waiters.size >= policyWaitersMax) {
        throw fault(
          "resource_exhausted",
          "policy_waiters_full",
          `Cannot hold another long poll as ${policyWaitersMax} are held: wanted a later one`,
          { retryAfterMs: 1_000 },
        );
      }
      await this.#change(waitMs, signal);
    }
    return this.version > after ? { version: this.version, jws: this.#held!.jws } : undefined;
  }

  async #change(waitMs: number, signal: AbortSignal): Promise<void> {
    const over = new AbortController();
    const onAbort = () => over.abort();
    signal.addEventListener("abort", onAbort, { once: true });
    this.#waiters.add(onAbort);
    try {
      await this.#clock.sleep(waitMs, over.signal);
    } catch {
      // Woken, by a change or by the caller leaving.
    } finally {
      this.#waiters.delete(onAbort);
      signal.removeEventListener("abort", onAbort);
    }
  }

  /** Follows the store until the signal aborts; `prepare` runs first, again until it succeeds. */
  async follow(prepare: () => Promise<void>, signal: AbortSignal): Promise<void> {
    this.#health.set("policy", "starting", "policy has not been read yet");
    const watching = this.#watch(signal);
    let prepared = false;
    for (let failing = false; !signal.aborted;) {
      const woken = new AbortController();
      this.#wake = () => woken.abort();
      try {
        if (!prepared) await prepare();
        prepared = true;
        await this.refresh();
        if (this.#held) this.#health.set("policy", "ready");
        failing = false;
      } catch (error) {
        if (signal.aborted) break;
        const reason = error instanceof Error ? error.message : String(error);
        this.#health.set("policy", this.#held ? "degraded" : "starting", reason);
        if (!failing) this.#log.warn("cannot read policy", { error });
        failing = true;
      }
      await this.#clock.sleep(probeMs, AbortSignal.any([signal, woken.signal])).catch(() => {});
    }
    await watching;
  }

  /** Wakes `follow` as soon as any replica writes policy. */
  async #watch(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      try {
        for await (const _ of this.#platform.kv.watch(buckets.rows, rowKeys.policy, undefined, signal)) this.#wake();
      } catch (error) {
        if (signal.aborted) return;
        this.#log.debug("policy watch ended", { error });
      }
      await this.#clock.sleep(probeMs, signal).catch(() => {});
    }
  }
}
