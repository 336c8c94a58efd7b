import { type Fault, fault, namePattern, type Redacted } from "@ultracloud/base";
import type { Core } from "./core.ts";
import { afterFailure, type FailedLogins, forgetMs, lockFailures, lockMs, waitMsOf } from "./domain/lockout.ts";
import {
  accountKind,
  type ApiKey,
  bindingKind,
  bindingName,
  keyKind,
  principalOf,
  rowKeys,
  userKind,
} from "./kinds.ts";
import { verifyPassword } from "./passwords.ts";
import { equalSecrets, hashSecret } from "./seal.ts";
import type { IssuedTokens } from "./tokens.ts";

/** Name of the first user, who runs the cluster. */
export const bootstrapUser = "admin";

/** The ways to a first token. */
export interface Logins {
  password(o: { readonly org: string; readonly user: string; readonly password: string }): Promise<IssuedTokens>;
  apiKey(o: { readonly keyId: string; readonly secret: string }): Promise<IssuedTokens>;
  bootstrap(adminToken: string): Promise<IssuedTokens>;
}

export function logins(core: Core, o: { readonly adminToken: Redacted<string> }): Logins {
  const { platform, tokens, log, clock } = core;
  const note = (how: string, outcome: string, who: string) =>
    log.info("audit", { event: "login", how, outcome, principal: who, timeMs: clock.nowMs() });

  return {
    async password({ org, user: name, password }) {
      const who = `${org}/${name}`.slice(0, 140);
      const failed = () => refused("login_failed", "Cannot log in: wrong organisation, user or password");
      // A name that nobody can have needs no row, and must not make one.
      if ((org !== "" && !namePattern.test(org)) || !namePattern.test(name)) throw failed();
      const row = rowKeys.failedLogins(org, name);
      // The failure is counted before the password is looked at: guesses sent at once count each.
      const { waitMs, locked } = await platform.transact(async (tx) => {
        const before = await tx.row<FailedLogins>(row);
        const wait = waitMsOf(before, tx.nowMs);
        if (wait === 0) tx.putRow(row, afterFailure(before, tx.nowMs), forgetMs + lockMs);
        return { waitMs: wait, locked: (before?.count ?? 0) >= lockFailures };
      });
      if (waitMs > 0) {
        note("password", "slowed", who);
        throw fault(
          "resource_exhausted",
          locked ? "login_locked" : "login_slowed",
          `Cannot log in now: too many failures, wanted ${Math.ceil(waitMs / 1_000)} s of patience`,
          { retryAfterMs: waitMs },
        );
      }
      const user = await platform.find(userKind, org, name);
      const right = await verifyPassword(password, user?.value.password ?? "");
      if (!user || !right || user.value.disabled) {
        note("password", "failed", who);
        throw failed();
      }
      await platform.transact((tx) => tx.deleteRow(row));
      const issued = await tokens.login(user.id);
      note("password", "ok", issued.principal);
      return issued;
    },

    async apiKey({ keyId, secret }) {
      const key = await platform.findById<ApiKey>(keyKind, keyId.slice(0, 64));
      const account = key && await platform.findById(accountKind, key.value.serviceAccountId);
      const right = equalSecrets(hashSecret(secret.slice(0, 256)), key?.value.secretHash ?? "");
      if (!key || !account || !right || account.value.disabled || clock.nowMs() >= key.value.expiresAtMs) {
        note("api_key", "failed", keyId.slice(0, 64));
        throw refused("api_key_refused", "Cannot log in: the API key is unknown, wrong or expired");
      }
      const issued = await tokens.access(principalOf.serviceAccount(account.id), key.id);
      note("api_key", "ok", issued.principal);
      return issued;
    },

    async bootstrap(adminToken) {
      if (!equalSecrets(adminToken, o.adminToken.expose())) {
        note("bootstrap", "failed", bootstrapUser);
        throw refused("admin_token_refused", "Cannot log in: the admin token is wrong");
      }
      const { id, fresh } = await ensureAdmin(core);
      if (fresh) await core.policy.refresh();
      const issued = await tokens.login(id);
      note("bootstrap", "ok", issued.principal);
      return issued;
    },
  };
}

/** The first user and its binding at the root; made when missing, so that whoever has the admin token gets back in. */
async function ensureAdmin(core: Core): Promise<{ id: string; fresh: boolean }> {
  return await core.platform.transact(async (tx) => {
    let fresh = false;
    let user = await tx.find(userKind, "", bootstrapUser);
    if (!user) {
      user = await tx.create(userKind, {
        project: "",
        name: bootstrapUser,
        value: { email: "", disabled: false, password: "" },
      });
      fresh = true;
    } else if (user.value.disabled) {
      user = tx.update(userKind, user, { value: { ...user.value, disabled: false } });
      fresh = true;
    }
    const principal = principalOf.user(user.id);
    const scope = "";
    const name = bindingName(scope, principal, "admin", false);
    if (!await tx.find(bindingKind, "", name)) {
      const value = { principal, role: "admin", roleId: "", scope, deny: false };
      const binding = await tx.create(bindingKind, { project: "", name, value });
      tx.putRow(rowKeys.bound(principal, binding.id), {});
      fresh = true;
    }
    if (fresh) tx.putRow(rowKeys.policy, { changedMs: tx.nowMs });
    return { id: user.id, fresh };
  });
}

function refused(code: string, message: string): Fault {
  return fault("unauthenticated", code, message);
}
