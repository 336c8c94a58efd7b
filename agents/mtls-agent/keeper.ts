import type { Clock } from "@ultracloud/base";
import type { Health, Logger } from "@ultracloud/observe";
import { CertificateService } from "@ultracloud/proto/iam/v1";
import type { RpcClient } from "@ultracloud/rpc";
import { makeRequest, readCertificate, subjectOf } from "./csr.ts";
import { renewalDue } from "./domain/renewal.ts";
import { joinAuthorities, readAuthorities, readSet, type TlsPlace, writeAuthorities, writeSet } from "./files.ts";

/** One identity and where its certificate goes. */
export interface Kept extends TlsPlace {
  readonly spiffeId: string;
  /** Calls as the identity: iam issues to who proves to be it. */
  readonly client: RpcClient<typeof CertificateService>;
  readonly names: readonly string[];
}

export interface KeeperOptions {
  readonly pollMs: number;
  /** Trusted beside iam's authorities while it is there. */
  readonly standingCaFile?: string | undefined;
}

export interface KeeperDeps {
  /** With the agent's own identity. */
  readonly authorities: RpcClient<typeof CertificateService>;
  readonly kept: readonly Kept[];
  readonly clock: Clock;
  readonly log: Logger;
  readonly health: Health;
}

/** Keeps certificates fresh: renews at half life and when the authority changes, and spreads the authorities. */
export class Keeper {
  readonly #o: KeeperOptions;
  readonly #deps: KeeperDeps;

  constructor(o: KeeperOptions, deps: KeeperDeps) {
    this.#o = o;
    this.#deps = deps;
  }

  async run(signal: AbortSignal): Promise<void> {
    const { clock, health, log } = this.#deps;
    health.set("certificates", "starting", "no certificate has been looked at yet");
    while (!signal.aborted) {
      try {
        await this.round();
        health.set("certificates", "ready");
      } catch (error) {
        if (signal.aborted) break;
        health.set("certificates", "degraded", error instanceof Error ? error.message : String(error));
        log.warn("cannot keep certificates fresh", { error });
      }
      await clock.sleep(this.#o.pollMs, signal).catch(() => {});
    }
  }

  /** Looks at everything once; what fails does not keep the others from being renewed. */
  async round(): Promise<void> {
    const { authorities } = await this.#deps.authorities.listAuthorities({});
    const signing = authorities.find((a) => a.phase === "signing");
    if (!signing) throw new Error("Cannot keep certificates: iam has no authority that signs");
    // A standing file that cannot be read must not keep certificates from being renewed.
    const [standing] = await Promise.allSettled([readAuthorities(this.#o.standingCaFile)]);
    const caPem = joinAuthorities(
      authorities.map((a) => a.certificatePem).join(""),
      standing.status === "fulfilled" ? standing.value : "",
    );
    const signingSubject = subjectOf(signing.certificatePem);
    const done = await Promise.allSettled(this.#deps.kept.map((kept) => this.#keep(kept, caPem, signingSubject)));
    const failed = [standing, ...done].find((outcome) => outcome.status === "rejected");
    if (failed) throw failed.reason;
  }

  async #keep(kept: Kept, caPem: string, signingSubject: string): Promise<void> {
    const { clock, log } = this.#deps;
    const { spiffeId, client, names } = kept;
    const set = await readSet(kept);
    const held = set && readCertificate(set.certPem, set.obtainedMs);
    const why = renewalDue(held, { nowMs: clock.nowMs(), signingSubject });
    if (why === undefined) {
      if (set!.caPem === caPem) return;
      await writeAuthorities(kept, caPem);
      log.info("authorities changed", { identity: spiffeId });
      return;
    }
    const { csrPem, keyPem } = await makeRequest(spiffeId, names);
    const answer = await client.issueCertificate({ csrPem });
    await writeSet(kept, { certPem: answer.certificatePem, keyPem, caPem: joinAuthorities(answer.bundlePem, caPem) });
    log.info("certificate renewed", { identity: spiffeId, why });
  }
}
