import { type TrustFile, type TrustStore, verifyTrust } from "@ultracloud/authz";
import { backoffMs, type Clock, type Rng } from "@ultracloud/base";
import type { Health, Logger } from "@ultracloud/observe";
import type { TrustService } from "@ultracloud/proto/deployer/v1";
import type { RpcClient } from "@ultracloud/rpc";

/** Longest wait for another version; a call is given more. */
const waitMs = 30_000;
const backoff = { baseMs: 500, maxMs: 30_000, tries: Number.POSITIVE_INFINITY };
const failuresCounted = 8;

export interface TrustKeeperDeps {
  readonly client: RpcClient<typeof TrustService>;
  readonly trust: TrustStore;
  readonly clock: Clock;
  readonly rng: Rng;
  readonly log: Logger;
  readonly health: Health;
}

/**
 * Keeps the trust file of this node what the deployer says it is, so that components of nodes that enrolled are
 * believed here, and those of nodes that were removed no longer. A document is taken only when it is signed with the
 * deployer's key that the file in force holds.
 */
export class TrustKeeper {
  readonly #file: string;
  readonly #deps: TrustKeeperDeps;
  #version = "";

  constructor(o: { readonly trustFile: string }, deps: TrustKeeperDeps) {
    this.#file = o.trustFile;
    this.#deps = deps;
  }

  async run(signal: AbortSignal): Promise<void> {
    const { clock, rng, log, health } = this.#deps;
    let failures = 0;
    while (!signal.aborted) {
      try {
        await this.round(waitMs, signal);
        if (failures > 0) log.info("the deployer's trust document is to be had again");
        failures = 0;
        health.set("trust", "ready");
      } catch (error) {
        if (signal.aborted) return;
        failures++;
        // What is in force stays so: nothing fails at once, but nodes that come and go are not noticed.
        health.set("trust", "degraded", error instanceof Error ? error.message : String(error));
        if (failures === 1) log.warn("cannot renew the trust file", { error });
        await clock.sleep(backoffMs(backoff, Math.min(failures, failuresCounted), rng), signal).catch(() => {});
      }
    }
  }

  /** Asks once, waits for another version as long as it is told, and writes it. */
  async round(waitMs: number, signal: AbortSignal): Promise<void> {
    const { client, trust, clock, log } = this.#deps;
    const request = { knownVersion: this.#version, waitMs };
    const { version, document } = await client.getTrust(request, { signal, timeoutMs: waitMs + 10_000 });
    if (document === "") return;
    await trust.refresh();
    const file = await verifyTrust(document, trust.file, { clock });
    if (!sameTrust(file, trust.file)) {
      await this.#write(file);
      const principals = Object.keys(file.principals).length;
      log.info("trust file renewed", { revision: file.revision, principals });
    }
    this.#version = version;
  }

  /** All of it or nothing is seen, and whoever could read it can. */
  async #write(file: TrustFile): Promise<void> {
    const next = `${this.#file}.new`;
    const { mode } = await Deno.stat(this.#file);
    await Deno.remove(next).catch(() => {});
    const options = { createNew: true, mode: mode === null ? 0o600 : mode & 0o777 };
    await Deno.writeTextFile(next, JSON.stringify(file, null, 2), options);
    await Deno.rename(next, this.#file);
  }
}

function sameTrust(a: TrustFile, b: TrustFile): boolean {
  const text = ({ clusterId, principals, revision }: TrustFile) =>
    JSON.stringify([clusterId, revision ?? 0, Object.entries(principals).sort(([a], [b]) => a < b ? -1 : 1)]);
  return text(a) === text(b);
}
