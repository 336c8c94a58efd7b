import { type Clock, isId, type Rng } from "@ultracloud/base";
import type { Logger } from "@ultracloud/observe";
import type { Platform, TransactOptions, Tx } from "@ultracloud/platform";
import type { Access } from "./access.ts";
import { accountKind, bindingKind, rowKeys, userKind } from "./kinds.ts";
import type { PolicyStore } from "./policy_store.ts";
import type { Sealer } from "./seal.ts";
import type { TokenMaker } from "./tokens.ts";

/** What handlers share. */
export interface Core {
  readonly platform: Platform;
  readonly policy: PolicyStore;
  readonly access: Access;
  readonly tokens: TokenMaker;
  readonly sealer: Sealer;
  readonly clock: Clock;
  readonly rng: Rng;
  readonly log: Logger;
}

/** A transaction that changes policy. When it answers, the change is in force in this replica. */
export async function changePolicy<T>(
  core: Core,
  fn: (tx: Tx) => Promise<T>,
  o: TransactOptions<T> = {},
): Promise<T> {
  const answer = await core.platform.transact(async (tx) => {
    const done = await fn(tx);
    tx.putRow(rowKeys.policy, { changedMs: tx.nowMs });
    return done;
  }, o);
  // It is committed: failing now would be a lie, and the store is asked again within a second.
  await core.policy.refresh().catch((error) => core.log.warn("cannot read policy after a change", { error }));
  return answer;
}

/** The user or service account behind a principal when it belongs to the organisation ("" is the root alone). */
export async function memberOf(tx: Tx, org: string, principal: string): Promise<{ readonly id: string } | undefined> {
  const colon = principal.indexOf(":");
  const [kind, id] = [principal.slice(0, colon), principal.slice(colon + 1)];
  let found: { readonly id: string; readonly project: string } | undefined;
  if (kind === "user" && isId("usr", id)) found = await tx.findById(userKind, id);
  if (kind === "service_account" && isId("sa", id)) found = await tx.findById(accountKind, id);
  return found && (found.project === org || (org !== "" && found.project.startsWith(`${org}/`))) ? found : undefined;
}

/** Removes every binding of a principal. */
export async function dropBindingsOf(tx: Tx, principal: string): Promise<void> {
  const prefix = rowKeys.bound(principal);
  for (const { key } of await tx.rows(prefix)) await dropBinding(tx, key.slice(prefix.length));
}

/** Removes every binding whose scope belongs to the organisation or project, so that a later namesake gets none. */
export async function dropBindingsAt(tx: Tx, owner: string): Promise<void> {
  for (const binding of await tx.list(bindingKind, owner)) await dropBinding(tx, binding.id);
}

/** Removes a binding with the rows that point at it; no binding is no error. */
export async function dropBinding(tx: Tx, id: string): Promise<void> {
  const binding = await tx.findById(bindingKind, id);
  if (!binding) return;
  tx.remove(bindingKind, binding);
  tx.deleteRow(rowKeys.bound(binding.value.principal, id));
  if (binding.value.roleId !== "") tx.deleteRow(rowKeys.roleUse(binding.value.roleId, id));
}
