import type { WorkloadSigner } from "@ultracloud/authz";
import type { Clock } from "@ultracloud/base";
import type { Health, Logger } from "@ultracloud/observe";
import { CertificateService } from "@ultracloud/proto/iam/v1";
import type { RpcClient } from "@ultracloud/rpc";
import { makeRequest, readCertificate, subjectOf } from "./csr.ts";
import { renewalDue } from "./domain/renewal.ts";
import { readSet, writeSet } from "./files.ts";

/** One identity and where its certificate goes. */
export interface Kept {
  /** Signs for the identity: iam issues to who proves to be it. */
  readonly signer: WorkloadSigner;
  readonly client: RpcClient<typeof CertificateService>;
  readonly dir: string;
  readonly names: readonly string[];
}

export interface KeeperOptions {
  readonly pollMs: number;
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
    const caPem = authorities.map((a) => a.certificatePem).join("");
    const signingSubject = subjectOf(signing.certificatePem);
    const done = await Promise.allSettled(this.#deps.kept.map((kept) => this.#keep(kept, caPem, signingSubject)));
    const failed = done.find((outcome) => outcome.status === "rejected");
    if (failed) throw failed.reason;
  }

  async #keep({ signer, client, dir, names }: Kept, caPem: string, signingSubject: string): Promise<void> {
    const { clock, log } = this.#deps;
    const set = await readSet(dir);
    const held = set && readCertificate(set.certPem);
    const why = renewalDue(held, { nowMs: clock.nowMs(), signingSubject });
    if (why === undefined) {
      if (set!.caPem === caPem) return;
      await writeSet(dir, { ...set!, caPem });
      log.info("authorities changed", { identity: signer.id });
      return;
    }
    const { csrPem, keyPem } = await makeRequest(signer.id, names);
    const answer = await client.issueCertificate({ csrPem });
    await writeSet(dir, { certPem: answer.certificatePem, keyPem, caPem: answer.bundlePem });
    log.info("certificate renewed", { identity: signer.id, why });
  }
}
