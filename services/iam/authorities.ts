import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { clockSkewMs } from "@ultracloud/authz";
import { type Clock, fault, invalidField, type Rng, ulid } from "@ultracloud/base";
import type { Platform, Tx } from "@ultracloud/platform";
import { CertificateService } from "@ultracloud/proto/iam/v1";
import { bind, type BoundService, type Principal } from "@ultracloud/rpc";
import type { Access } from "./access.ts";
import type { AuthoritySeed } from "./authority_seed.ts";
import { makeAuthority, readRequest, signRequest } from "./certificates.ts";
import { phaseOf } from "./domain/phases.ts";
import { rowKeys } from "./kinds.ts";
import type { Sealer } from "./seal.ts";

export interface AuthorityOptions {
  readonly clusterId: string;
  /** How long a new authority is known before it signs: every component must have read it by then. */
  readonly authorityPublishMs: number;
  readonly certificateTtlMsMax: number;
  /** Becomes the first authority where there is none yet: what it has signed stays good. */
  readonly authoritySeed?: AuthoritySeed | undefined;
}

interface StoredAuthority {
  readonly id: string;
  readonly certPem: string;
  /** The private key as PKCS #8, sealed for the row's key. */
  readonly sealed: string;
  readonly createMs: number;
  readonly signFromMs: number;
  readonly retireAtMs?: number;
}

const certificateTtlMsMin = 1_000;
const namesMax = 32;
const namePattern = /^[a-z0-9]([a-z0-9.:-]{0,251}[a-z0-9])?$/;
/** What every certificate may have: it names nothing beyond the host itself. */
const ownNames = new Set(["localhost", "127.0.0.1", "::1"]);

/** The authorities of the cluster in the store, sealed; phases as with signing keys. */
export class Authorities {
  readonly #o: AuthorityOptions;
  readonly #platform: Platform;
  readonly #sealer: Sealer;
  readonly #access: Access;
  readonly #clock: Clock;
  readonly #rng: Rng;

  constructor(
    o: AuthorityOptions,
    deps: {
      readonly platform: Platform;
      readonly sealer: Sealer;
      readonly access: Access;
      readonly clock: Clock;
      readonly rng: Rng;
    },
  ) {
    this.#o = o;
    this.#platform = deps.platform;
    this.#sealer = deps.sealer;
    this.#access = deps.access;
    this.#clock = deps.clock;
    this.#rng = deps.rng;
  }

  /** Those that are trusted, with their phases, the oldest first; the first is made when there is none. */
  async list() {
    const nowMs = this.#clock.nowMs();
    const all = await this.#stored();
    const signing = signingOf(all, nowMs)?.id;
    return all.map((authority) => ({ ...authority, phase: phaseOf(authority, nowMs, authority.id === signing) }));
  }

  async #stored(): Promise<StoredAuthority[]> {
    const read = async (tx: Tx) =>
      (await tx.rows<StoredAuthority>(rowKeys.authorities)).map((row) => row.value)
        .filter((a) => (a.retireAtMs ?? Infinity) > tx.nowMs).sort((a, b) => a.createMs - b.createMs);
    const found = await this.#platform.transact(read);
    if (found.length > 0) return found;
    const nowMs = this.#clock.nowMs();
    const seed = this.#o.authoritySeed;
    const fresh = seed ? this.#sealed(seed.certPem, seed.privateKey.expose(), nowMs) : await this.#make(nowMs, nowMs);
    return await this.#platform.transact(async (tx) => {
      // Of two replicas that find none one commits.
      const made = await tx.row(rowKeys.authorityMade);
      if (made !== undefined) return await read(tx);
      tx.putRow(rowKeys.authorityMade, { createMs: tx.nowMs });
      tx.putRow(rowKeys.authorities + fresh.id, fresh);
      return [fresh];
    });
  }

  async #make(nowMs: number, signFromMs: number): Promise<StoredAuthority> {
    const id = ulid(this.#clock, this.#rng);
    const { certPem, privateKey } = await makeAuthority({ clusterId: this.#o.clusterId, id, nowMs }, this.#rng);
    return { ...this.#sealed(certPem, privateKey, nowMs, id), signFromMs };
  }

  #sealed(certPem: string, privateKey: Uint8Array, nowMs: number, id = ulid(this.#clock, this.#rng)): StoredAuthority {
    const sealed = this.#sealer.seal(privateKey, rowKeys.authorities + id);
    return { id, certPem, sealed, createMs: nowMs, signFromMs: nowMs };
  }

  async rotate(authority: string): Promise<void> {
    const nowMs = this.#clock.nowMs();
    const signing = signingOf(await this.#stored(), nowMs)?.id;
    if (authority !== signing) {
      throw invalidField(
        "authority",
        `Cannot replace ${JSON.stringify(authority.slice(0, 60))} as it does not sign: wanted ${signing}`,
        "authority_other",
      );
    }
    const fresh = await this.#make(nowMs, nowMs + this.#o.authorityPublishMs);
    await this.#platform.transact(async (tx) => {
      for (const { key, value } of await tx.rows<StoredAuthority>(rowKeys.authorities)) {
        if (value.signFromMs > tx.nowMs) {
          throw fault(
            "failed_precondition",
            "rotation_under_way",
            `Cannot publish another authority as ${value.id} does not sign yet`,
          );
        }
        if ((value.retireAtMs ?? Infinity) <= tx.nowMs) tx.deleteRow(key);
        else if (value.retireAtMs === undefined) {
          // Trusted until the last certificate it signed has ended.
          tx.putRow(key, { ...value, retireAtMs: fresh.signFromMs + this.#o.certificateTtlMsMax + clockSkewMs });
        }
      }
      tx.putRow(rowKeys.authorities + fresh.id, fresh);
    });
  }

  async setNames(spiffeId: string, names: readonly string[]): Promise<void> {
    this.#checkId(spiffeId, "spiffeId");
    const wrong = names.find((name) => !namePattern.test(name));
    if (names.length > namesMax || wrong !== undefined) {
      throw invalidField(
        "names",
        `Cannot allow ${
          JSON.stringify(wrong ?? names.length)
        }: wanted at most ${namesMax} lower-case DNS names and IP addresses`,
      );
    }
    await this.#platform.transact((tx) => tx.putRow(rowKeys.certificateNames(spiffeId), { names }));
  }

  async issue(caller: Principal, csrPem: string, ttlAskedMs: number) {
    const anybody = await this.#access.allowed(caller, "iam.certificate.issue", "");
    if (!anybody && caller.kind !== "workload") {
      throw fault(
        "permission_denied",
        "permission_denied",
        "Cannot issue a certificate: wanted a component, or iam.certificate.issue",
      );
    }
    const ttlMs = ttlAskedMs === 0 ? this.#o.certificateTtlMsMax : ttlAskedMs;
    if (ttlMs < certificateTtlMsMin || ttlMs > this.#o.certificateTtlMsMax) {
      throw invalidField(
        "ttlMs",
        `Cannot issue a certificate for ${ttlMs} ms: wanted ${certificateTtlMsMin} to ${this.#o.certificateTtlMsMax}`,
      );
    }
    const request = await readRequest(csrPem);
    const { spiffeId } = request;
    this.#checkId(spiffeId, "csrPem");
    const own = caller.kind === "workload" && (spiffeId === caller.id || spiffeId.startsWith(`${caller.id}/`));
    if (!own && !anybody) {
      throw fault(
        "permission_denied",
        "permission_denied",
        `Cannot issue a certificate of ${spiffeId}: wanted its own identity or iam.certificate.issue`,
      );
    }
    const row = await this.#platform.transact((tx) => tx.row<{ names: string[] }>(rowKeys.certificateNames(spiffeId)));
    const stranger = request.names.find(({ value }) => !ownNames.has(value) && !row?.names.includes(value));
    if (stranger) {
      throw fault(
        "permission_denied",
        "name_not_allowed",
        `Cannot issue a certificate of ${spiffeId} with the name ${stranger.value.slice(0, 80)}: not allowed`,
      );
    }
    const nowMs = this.#clock.nowMs();
    const all = await this.#stored();
    const authority = signingOf(all, nowMs)!;
    const privateKey = this.#sealer.open(authority.sealed, rowKeys.authorities + authority.id);
    const endMs = nowMs + ttlMs;
    const certificatePem = await signRequest(
      request,
      { certPem: authority.certPem, privateKey, nowMs, endMs },
      this.#rng,
    );
    return { certificatePem, bundlePem: all.map((a) => a.certPem).join(""), expireTime: timestampFromMs(endMs) };
  }

  #checkId(spiffeId: string, field: string): void {
    const [scheme, empty, cluster, kind, name, instance, more] = spiffeId.split("/");
    const part = /^[A-Za-z0-9._-]{1,63}$/;
    const good = scheme === "spiffe:" && empty === "" && cluster === this.#o.clusterId &&
      (kind === "svc" || kind === "node") &&
      part.test(name ?? "") && (instance === undefined || part.test(instance)) && more === undefined;
    if (good) return;
    throw invalidField(
      field,
      `Cannot use ${
        JSON.stringify(spiffeId.slice(0, 120))
      } as a SPIFFE id: wanted spiffe://${this.#o.clusterId}/svc/NAME or /node/NAME`,
      "invalid_spiffe_id",
    );
  }
}

/** The latest in force. A first one that another clock dates ahead of ours signs at once: there is no other. */
function signingOf(all: readonly StoredAuthority[], nowMs: number): StoredAuthority | undefined {
  const ordered = [...all].sort((a, b) => a.signFromMs - b.signFromMs);
  return ordered.findLast((a) => a.signFromMs <= nowMs) ?? ordered[0];
}

export function certificateService(authorities: Authorities): BoundService {
  const list = async () => ({
    authorities: (await authorities.list()).map(({ id, phase, certPem, signFromMs, retireAtMs }) => ({
      id,
      phase,
      certificatePem: certPem,
      signTime: timestampFromMs(signFromMs),
      ...(retireAtMs === undefined ? {} : { retireTime: timestampFromMs(retireAtMs) }),
    })),
  });
  return bind(CertificateService, {
    issueCertificate: (request, { principal }) => authorities.issue(principal, request.csrPem, Number(request.ttlMs)),
    async setCertificateNames({ spiffeId, names }) {
      await authorities.setNames(spiffeId, names);
      return {};
    },
    listAuthorities: list,
    async rotateAuthority({ authority }) {
      await authorities.rotate(authority);
      return await list();
    },
  }, {
    issueCertificate: {
      authenticated: "a component gets its own identity's; the handler asks for iam.certificate.issue otherwise",
    },
    setCertificateNames: { resource: "certificate", action: "allow", scope: () => "" },
    listAuthorities: { resource: "authority", action: "list", scope: () => "" },
    rotateAuthority: { resource: "authority", action: "rotate", scope: () => "" },
  });
}
