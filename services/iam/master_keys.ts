import { type Clock, fault, invalidField, type Redacted, type Rng, utf8 } from "@ultracloud/base";
import { readSecret } from "@ultracloud/config";
import type { Logger } from "@ultracloud/observe";
import { answerTtlMs, buckets, keyAfter, type Platform } from "@ultracloud/platform";
import { MasterKeyService } from "@ultracloud/proto/iam/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import { requirePrivate } from "./bootstrap.ts";
import { accessKeyKind, rowKeys } from "./kinds.ts";
import { answerPurpose, parseMasterKey, sealedWith, type Sealer } from "./seal.ts";

/** How often a replica tells the others which master keys it has, and looks for a new key file. */
const tellEveryMs = 1_000;
/** A replica that has not told for this long is gone. */
const replicaTtlMs = 10_000;
/** Kept answers looked at at once. */
const answersPageMax = 1_000;
/** A kept answer begins with the hash of its request (lib/platform). */
const answerHashChars = 64;

interface Replica {
  readonly known: readonly string[];
}

/** What is stored sealed: where it stands and how to write it anew. */
interface SealedPlace {
  readonly sealed: string;
  reseal(): Promise<void>;
}

/**
 * Which master keys there are and which one seals. The key of the configuration seals first; the next key is put into
 * a file beside it, on every replica; then everything is sealed anew while all goes on.
 */
export class MasterKeys {
  readonly #platform: Platform;
  readonly #sealer: Sealer;
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #nextFile: string | undefined;
  readonly #replica: string;
  #next: string | undefined;
  #seen = "";

  constructor(
    o: { readonly nextFile?: string | undefined },
    deps: {
      readonly platform: Platform;
      readonly sealer: Sealer;
      readonly clock: Clock;
      readonly log: Logger;
      readonly rng: Rng;
    },
  ) {
    this.#platform = deps.platform;
    this.#sealer = deps.sealer;
    this.#clock = deps.clock;
    this.#log = deps.log;
    this.#nextFile = o.nextFile;
    this.#replica = deps.rng.fill(new Uint8Array(8)).toHex();
  }

  /** Makes the key of the store the one that seals here. A key this replica lacks leaves its own in use for opening. */
  async load(): Promise<void> {
    const row = await this.#platform.transact((tx) => tx.row<{ current: string }>(rowKeys.masterKey));
    if (row && row.current !== this.#sealer.current && !this.#sealer.use(row.current)) {
      throw fault(
        "failed_precondition",
        "master_key_unknown",
        `Cannot open what is sealed with the master key ${row.current}: wanted it in the master key file or as the next key`,
      );
    }
  }

  /** Reads the next key when its file is new, and tells the other replicas what is known here; until the signal. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      try {
        await this.#readNext();
        await this.tell();
      } catch (error) {
        this.#log.debug("cannot tell of master keys", { error });
      }
      await this.#clock.sleep(tellEveryMs, signal).catch(() => {});
    }
  }

  async tell(): Promise<void> {
    const replica: Replica = { known: this.#sealer.known };
    await this.#platform.transact((tx) => tx.putRow(rowKeys.replica(this.#replica), replica, replicaTtlMs));
  }

  async #readNext(): Promise<void> {
    const file = this.#nextFile;
    if (file === undefined) return;
    const stat = await Deno.stat(file).catch(() => undefined);
    const stamp = `${stat?.mtime?.getTime()} ${stat?.size}`;
    if (!stat || stamp === this.#seen) return;
    this.#seen = stamp;
    try {
      await requirePrivate(file);
      this.addNext(parseMasterKey((await readSecret(file)).expose(), file));
    } catch (error) {
      this.#log.warn("cannot use the next master key", { file, error });
    }
  }

  addNext(key: Redacted<Uint8Array>): void {
    const fingerprint = this.#sealer.add(key);
    if (fingerprint === this.#sealer.current || fingerprint === this.#next) return;
    this.#next = fingerprint;
    this.#log.info("the next master key is known", { fingerprint });
  }

  async status() {
    const sealed: Record<string, bigint> = {};
    for (const place of await this.#places()) {
      const fingerprint = sealedWith(place.sealed);
      sealed[fingerprint] = (sealed[fingerprint] ?? 0n) + 1n;
    }
    const next = this.#next === this.#sealer.current ? "" : this.#next ?? "";
    return { current: this.#sealer.current, next, sealed };
  }

  /** Seals everything with the key, the next one or, after a failure, the current one. Calls go on meanwhile. */
  async reseal(target: string): Promise<void> {
    if (target === "" || (target !== this.#next && target !== this.#sealer.current)) {
      throw invalidField(
        "masterKey",
        `Cannot seal with ${JSON.stringify(target.slice(0, 40))}: wanted the next key ${
          this.#next ?? "(none yet)"
        } or the current one`,
        "master_key_other",
      );
    }
    await this.tell();
    await this.#platform.transact(async (tx) => {
      for (const { key, value } of await tx.rows<Replica>(rowKeys.replica(""))) {
        if (value.known.includes(target)) continue;
        throw fault(
          "failed_precondition",
          "master_key_missing",
          `Cannot seal with the master key ${target} as the replica ${
            key.slice(rowKeys.replica("").length)
          } lacks it: wanted it on every replica`,
        );
      }
      tx.putRow(rowKeys.masterKey, { current: target });
      tx.putRow(rowKeys.policy, { changedMs: tx.nowMs });
    });
    this.#sealer.use(target);
    for (const place of await this.#places()) if (sealedWith(place.sealed) !== target) await place.reseal();
    this.#log.info("audit", { event: "reseal", masterKey: target, timeMs: this.#clock.nowMs() });
  }

  /** Kept answers that hold a secret. */
  async #answers(): Promise<{ readonly key: string; readonly sealed: string }[]> {
    const found: { key: string; sealed: string }[] = [];
    for (let start = "";;) {
      const items = await this.#platform.kv.scan(buckets.answers, { start, limit: answersPageMax });
      for (const { key, value } of items) {
        const sealed = sealedText(value.subarray(answerHashChars), this.#sealer.known);
        if (sealed !== undefined) found.push({ key, sealed });
      }
      if (items.length < answersPageMax) return found;
      start = keyAfter(items.at(-1)!.key);
    }
  }

  async #places(): Promise<SealedPlace[]> {
    const again = (sealed: string, purpose: string) => this.#sealer.seal(this.#sealer.open(sealed, purpose), purpose);
    const rows = await this.#platform.transact(async (tx) => [
      ...await tx.rows<{ sealed: string }>(rowKeys.signingKeys),
      ...await tx.rows<{ sealed: string }>(rowKeys.authorities),
    ]);
    const keys = await this.#platform.list(accessKeyKind);
    const answers = await this.#answers();
    return [
      ...answers.map(({ key, sealed }) => ({
        sealed,
        reseal: () =>
          this.#platform.transact(async (tx) => {
            const row = await tx.read(buckets.answers, key);
            if (row === undefined) return;
            const [hash, held] = [row.subarray(0, answerHashChars), utf8.decode(row.subarray(answerHashChars))];
            const bytes = utf8.encode(again(held, answerPurpose(key)));
            const fresh = new Uint8Array(answerHashChars + bytes.length);
            fresh.set(hash);
            fresh.set(bytes, answerHashChars);
            tx.write(buckets.answers, key, fresh, answerTtlMs);
          }),
      })),
      ...rows.map(({ key, value }) => ({
        sealed: value.sealed,
        reseal: () =>
          this.#platform.transact(async (tx) => {
            const row = await tx.row<{ sealed: string }>(key);
            if (row) tx.putRow(key, { ...row, sealed: again(row.sealed, key) });
          }),
      })),
      ...keys.map((key) => ({
        sealed: key.value.sealed,
        reseal: () =>
          this.#platform.transact(async (tx) => {
            const record = await tx.findById(accessKeyKind, key.id);
            if (!record) return;
            const sealed = again(record.value.sealed, record.id);
            tx.update(accessKeyKind, record, { value: { ...record.value, sealed } });
          }),
      })),
    ];
  }
}

/** What was sealed by one of the keys; most answers are plain messages. */
function sealedText(bytes: Uint8Array, known: readonly string[]): string | undefined {
  const text = String.fromCharCode(...bytes.subarray(0, 11));
  if (text[10] !== "." || !known.includes(text.slice(0, 10))) return undefined;
  return utf8.decode(bytes);
}

export function masterKeyService(keys: MasterKeys): BoundService {
  return bind(MasterKeyService, {
    getMasterKeyStatus: () => keys.status(),
    async reseal({ masterKey }) {
      await keys.reseal(masterKey);
      return await keys.status();
    },
  }, {
    getMasterKeyStatus: { resource: "master_key", action: "get", scope: () => "" },
    reseal: { resource: "master_key", action: "rotate", scope: () => "" },
  });
}
