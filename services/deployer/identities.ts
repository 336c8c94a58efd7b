import { nodeGrants, type NodePrincipal, nodePrincipals, nodeSvcId, type TrustFile } from "@ultracloud/authz";
import { fault } from "@ultracloud/base";
import { Tx } from "@ultracloud/platform";
import type { CertificateService } from "@ultracloud/proto/iam/v1";
import type { Client } from "@connectrpc/connect";
import { z } from "zod";
import type { Core } from "./core.ts";
import type { Enrolment } from "./enrolment.ts";
import { sha256Hex } from "./hashes.ts";
import { nodeKind, type PublicKey, rowKeys, type TrustRow } from "./kinds.ts";

/** How old an answer may be: so often is the store asked, however many nodes wait. */
const lookMs = 500;

const publicKeySchema = z.strictObject({
  kty: z.literal("OKP"),
  crv: z.literal("Ed25519"),
  x: z.string().regex(/^[A-Za-z0-9_-]{43}$/),
});
/** Body of `POST /api/v1/identity`: public keys alone, the private halves stay where they were made. */
export const identitySchema = z.strictObject({
  node: z.string().max(63),
  identities: z.partialRecord(z.enum(nodePrincipals), publicKeySchema).refine(
    (keys) => Object.keys(keys).length > 0,
    "must name an agent",
  ),
});
/** Body of `POST /api/v1/certificate`. */
export const certificateSchema = z.strictObject({
  node: z.string().max(63),
  csr_pem: z.string().max(16 * 1024),
  authorization: z.string().max(8_192).regex(/^Bearer [A-Za-z0-9._~+/=-]+$/),
});

export interface IdentityDeps {
  /** The trust file that this deployer goes by; its hand-written part is what everybody goes by. */
  readonly trust: { readonly file: TrustFile };
  /** Signs documents with the deployer's own key. */
  readonly sign: (file: TrustFile) => Promise<string>;
  /** Absent: this cluster has no iam, so nobody issues certificates. */
  readonly certificates?: Pick<Client<typeof CertificateService>, "issueCertificate">;
}

export interface SignedTrust {
  readonly version: string;
  readonly file: TrustFile;
  readonly document: string;
}

/** Marks that what is trusted has changed; the revision never goes back, also not over an empty store. */
export async function bumpTrust(tx: Tx): Promise<void> {
  const before = (await tx.row<TrustRow>(rowKeys.trust))?.revision ?? 0;
  tx.putRow(rowKeys.trust, { revision: Math.max(before + 1, tx.nowMs) } satisfies TrustRow);
}

/** Who the agents of enrolled nodes are, and the trust file that says so to all others. */
export class Identities {
  readonly #core: Core;
  readonly #enrolment: Enrolment;
  readonly #deps: IdentityDeps;
  #held: { readonly atMs: number; readonly signed: Promise<SignedTrust> } | undefined;

  constructor(core: Core, enrolment: Enrolment, deps: IdentityDeps) {
    this.#core = core;
    this.#enrolment = enrolment;
    this.#deps = deps;
  }

  /** Keeps the keys that the machine made for its agents, in place of earlier ones. The token proves which node it is. */
  async keep(body: z.infer<typeof identitySchema>, token: string | undefined): Promise<{ node: string }> {
    // Lab mode lets machines in without a token; whom others trust is no matter of a lab.
    if (token === undefined) {
      throw fault("unauthenticated", "token_missing", "Cannot take keys without a bootstrap token");
    }
    const identities = body.identities as Partial<Record<NodePrincipal, PublicKey>>;
    const node = await this.#core.writer.change(async (tx) => {
      const name = await this.#enrolment.nodeOfToken(tx, token, body.node);
      const record = await tx.get(nodeKind, "", name);
      if (JSON.stringify(record.value.identities) === JSON.stringify(identities)) return name;
      tx.update(nodeKind, record, { value: { ...record.value, identities } });
      await bumpTrust(tx);
      return name;
    }, { serialize: `identity/${body.node}` });
    this.#held = undefined;
    this.#core.platform.log.info("keys of a node kept", { node, agents: Object.keys(identities).join() });
    return { node };
  }

  /** The trust file of the cluster as of half a second ago at most, signed. */
  async signed(): Promise<SignedTrust> {
    const nowMs = this.#core.platform.clock.monotonicMs();
    if (this.#held === undefined || nowMs - this.#held.atMs >= lookMs) {
      const before = this.#held?.signed;
      const held = { atMs: nowMs, signed: this.#make(before) };
      this.#held = held;
      held.signed.catch(() => this.#held === held && (this.#held = undefined));
    }
    return await this.#held.signed;
  }

  async #make(before: Promise<SignedTrust> | undefined): Promise<SignedTrust> {
    const { platform } = this.#core;
    const row = await new Tx(platform.kv, platform).row<TrustRow>(rowKeys.trust);
    const { clusterId, principals: present } = this.#deps.trust.file;
    // Those of nodes come from the records: one that was removed must not live on in our own file.
    const principals: TrustFile["principals"] = Object.fromEntries(
      Object.entries(present).filter(([, { node }]) => node === undefined),
    );
    for (const { name, value } of await platform.list(nodeKind)) {
      if (value.machine === undefined) continue;
      for (const [agent, publicKey] of Object.entries(value.identities ?? {}) as [NodePrincipal, PublicKey][]) {
        const grants = nodeGrants(agent, name);
        principals[nodeSvcId(clusterId, agent, name)] = { publicKey: { ...publicKey }, grants, node: name };
      }
    }
    const file: TrustFile = { clusterId, principals, revision: row?.revision ?? 0 };
    const version = `${file.revision}-${sha256Hex(JSON.stringify(file)).slice(0, 16)}`;
    const last = await before?.catch(() => undefined);
    return last?.version === version ? last : { version, file, document: await this.#deps.sign(file) };
  }

  /**
   * Passes a machine's request for a certificate on to iam, which a machine without a certificate cannot reach. The
   * request goes in the name of the machine's agent, by a token that it signed itself: iam decides, not the deployer.
   */
  async certificate(body: z.infer<typeof certificateSchema>, token: string | undefined) {
    const { platform } = this.#core;
    if (token === undefined) {
      throw fault("unauthenticated", "token_missing", "Cannot pass on a request without a bootstrap token");
    }
    const node = await this.#enrolment.nodeOfToken(new Tx(platform.kv, platform), token, body.node);
    const { certificates } = this.#deps;
    if (certificates === undefined) {
      throw fault("failed_precondition", "no_iam", "Cannot get a certificate: this cluster has no iam to issue it");
    }
    const answer = await certificates.issueCertificate({ csrPem: body.csr_pem }, {
      headers: { authorization: body.authorization },
    });
    platform.log.info("certificate of a node passed on", { node });
    return { node, certificate_pem: answer.certificatePem, authorities_pem: answer.bundlePem };
  }
}
