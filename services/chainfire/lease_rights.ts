import { keyScope } from "@ultracloud/authz";
import { concatBytes, fault } from "@ultracloud/base";
import type { Authorizer, Principal } from "@ultracloud/rpc";
import type { Op } from "./domain/types.ts";
import type { Member } from "./member.ts";

/** What somebody wants to do with a lease, as an action on each key that it holds. */
type Use = "get" | "update" | "delete";

const afterKey = new Uint8Array(1);

/**
 * Leases have no keys of their own: who may do what with one follows from the keys bound to it. Keeping it alive and
 * binding to it takes the right to write all of them, ending it to delete, seeing them to read.
 */
export class LeaseRights {
  readonly #member: Member;
  readonly #authorizer: Authorizer;

  constructor(member: Member, deps: { readonly authorizer: Authorizer }) {
    this.#member = member;
    this.#authorizer = deps.authorizer;
  }

  /** Throws permission_denied unless the principal may use each of the leases so. Those of id 0 are none. */
  async check(principal: Principal, use: Use, leases: Iterable<bigint>): Promise<void> {
    for (const lease of new Set(leases)) if (lease !== 0n) await this.#checkOne(principal, use, lease);
  }

  /** The same for each lease that an operation binds keys to. */
  async checkOp(principal: Principal, op: Op): Promise<void> {
    if (binds(op)) await this.check(principal, "update", leasesOf(op));
  }

  async #checkOne(principal: Principal, use: Use, lease: bigint): Promise<void> {
    if (await this.#may(principal, use, "")) return;
    const { state, group } = this.#member;
    // A key may have been bound to it on another member.
    await group.readBarrier();
    const keys = state.leaseKeys(lease);
    const [first, last] = [keys[0], keys.at(-1)];
    if (first === undefined || last === undefined) return;
    // Keys lie close together as a rule: one question for all of them.
    if (await this.#may(principal, use, keyScope(first, concatBytes([last, afterKey])))) return;
    for (const key of keys) {
      if (await this.#may(principal, use, keyScope(key))) continue;
      // The key is not named: the caller may not know that it is there.
      throw fault(
        "permission_denied",
        "permission_denied",
        `Cannot use lease ${lease}: it holds a key that needs chainfire.kv.${use}`,
        { metadata: { permission: `chainfire.kv.${use}` } },
      );
    }
  }

  async #may(principal: Principal, use: Use, scope: string): Promise<boolean> {
    return (await this.#authorizer.authorize(principal, `chainfire.kv.${use}`, scope, use !== "get")).allow;
  }
}

function binds(op: Op): boolean {
  if (op.kind === "put") return op.lease !== 0n;
  return op.kind === "txn" && (op.success.some(binds) || op.failure.some(binds));
}

function leasesOf(op: Op): bigint[] {
  if (op.kind === "put") return [op.lease];
  return op.kind === "txn" ? [...op.success, ...op.failure].flatMap(leasesOf) : [];
}
