import { Fault, fault, namePattern, type Redacted, ulid } from "@ultracloud/base";
import type { StoredRecord } from "@ultracloud/platform";
import type { AuditTrail } from "./audit.ts";
import { changePolicy, type Core } from "./core.ts";
import { afterFailure, type FailedLogins, forgetMs, lockFailures, lockMs, waitMsOf } from "./domain/lockout.ts";
import {
  accountKind,
  type ApiKey,
  bindingKind,
  bindingName,
  keyKind,
  principalOf,
  rowKeys,
  type User,
  userKind,
} from "./kinds.ts";
import { hashPassword, verifyPassword } from "./passwords.ts";
import { equalSecrets, hashSecret, newSecret } from "./seal.ts";
import type { IssuedTokens } from "./tokens.ts";

/** Name of the first user, who runs the cluster. */
export const bootstrapUser = "admin";

/** Devices of a user that are remembered; the one used least recently makes room. */
export const devicesPerUserMax = 20;
const deviceTtlMs = 90 * 24 * 3600 * 1000;
const devicePattern = /^ucd_([0-9A-HJKMNP-TV-Z]{26})_([A-Za-z0-9_-]{43})$/;

interface Device {
  readonly secretHash: string;
  readonly usedMs: number;
}

export interface PasswordLogin {
  readonly org: string;
  readonly user: string;
  readonly password: string;
  /** From an earlier login; failures of a known device are counted apart, so that strangers cannot lock it out. */
  readonly deviceToken?: string;
}

/** A person who proved who they are. */
export interface Person {
  readonly user: StoredRecord<User>;
  /** Kept by the device; the one presented when that is known. */
  readonly deviceToken: string;
}

/** The ways to a first token. */
export interface Logins {
  /** Checks the password, with brakes against guessing; makes no token yet. */
  person(o: PasswordLogin): Promise<Person>;
  password(o: PasswordLogin): Promise<IssuedTokens>;
  /** Puts another password in the place of the one that `password` must be; ends every older login. */
  changed(o: {
    readonly user: StoredRecord<User>;
    readonly password: string;
    readonly newPassword: string;
  }): Promise<IssuedTokens>;
  /** The service account of a key; `unauthenticated` when the key is not good. */
  keyHolder(o: { readonly keyId: string; readonly secret: string }): Promise<{ principal: string; keyId: string }>;
  apiKey(o: { readonly keyId: string; readonly secret: string }): Promise<IssuedTokens>;
  bootstrap(adminToken: string): Promise<IssuedTokens>;
}

export function logins(
  core: Core,
  o: { readonly adminToken: Redacted<string>; readonly trail: Pick<AuditTrail, "noteFailedLogin"> },
): Logins {
  const { platform, tokens, log, clock, rng } = core;
  const note = (how: string, outcome: string, who: string) =>
    log.info("audit", { event: "login", how, outcome, principal: who, timeMs: clock.nowMs() });

  /** The id of the device when it is one of the user's. */
  const knownDevice = async (userId: string | undefined, token: string): Promise<string> => {
    const [, id, secret] = devicePattern.exec(token) ?? [];
    if (userId === undefined || id === undefined || secret === undefined) return "";
    const device = await platform.transact((tx) => tx.row<Device>(rowKeys.devices(userId, id)));
    return device && equalSecrets(device.secretHash, hashSecret(secret)) ? id : "";
  };

  /** Remembers the device of a login that went well; answers its token. */
  const remember = async (userId: string, id: string, token: string): Promise<string> => {
    const secret = newSecret(rng);
    const fresh = id === "" ? ulid(clock, rng) : id;
    await platform.transact(async (tx) => {
      const prefix = rowKeys.devices(userId);
      const held = id === "" ? await tx.rows<Device>(prefix) : [];
      const oldest = held.sort((a, b) => a.value.usedMs - b.value.usedMs).slice(
        0,
        Math.max(0, held.length + 1 - devicesPerUserMax),
      );
      for (const { key } of oldest) tx.deleteRow(key);
      const secretHash = hashSecret(id === "" ? secret : devicePattern.exec(token)![2]!);
      tx.putRow(rowKeys.devices(userId, fresh), { secretHash, usedMs: tx.nowMs }, deviceTtlMs);
    });
    return id === "" ? `ucd_${fresh}_${secret}` : token;
  };

  const self: Logins = {
    async person({ org, user: name, password, deviceToken = "" }) {
      const who = `${org}/${name}`.slice(0, 140);
      const failed = () => refused("login_failed", "Cannot log in: wrong organisation, user or password");
      // A name that nobody can have needs no row, and must not make one.
      if ((org !== "" && !namePattern.test(org)) || !namePattern.test(name)) throw failed();
      const device = deviceToken === ""
        ? ""
        : await knownDevice((await platform.find(userKind, org, name))?.id, deviceToken);
      const row = rowKeys.failedLogins(org, name, device);
      // The failure is counted before the password is looked at: guesses sent at once count each.
      const { waitMs, locked } = await platform.transact(async (tx) => {
        const before = await tx.row<FailedLogins>(row);
        const wait = waitMsOf(before, tx.nowMs);
        if (wait === 0) tx.putRow(row, afterFailure(before, tx.nowMs), forgetMs + lockMs);
        return { waitMs: wait, locked: (before?.count ?? 0) >= lockFailures };
      });
      const user = await platform.find(userKind, org, name);
      const account = user && principalOf.user(user.id);
      if (waitMs > 0) {
        note("password", "slowed", who);
        o.trail.noteFailedLogin({ principal: account, org, outcome: locked ? "login_locked" : "login_slowed" });
        throw fault(
          "resource_exhausted",
          locked ? "login_locked" : "login_slowed",
          `Cannot log in now: too many failures, wanted ${Math.ceil(waitMs / 1_000)} s of patience`,
          { retryAfterMs: waitMs },
        );
      }
      const right = await verifyPassword(password, user?.value.password ?? "");
      if (!user || !right || user.value.disabled) {
        note("password", "failed", who);
        o.trail.noteFailedLogin({ principal: account, org, outcome: "login_failed" });
        throw failed();
      }
      await platform.transact((tx) => tx.deleteRow(row));
      note("password", "ok", principalOf.user(user.id));
      return { user, deviceToken: await remember(user.id, device, deviceToken) };
    },

    async password(login) {
      const { user, deviceToken } = await self.person(login);
      return { ...await tokens.login(user.id), deviceToken };
    },

    async changed({ user: { project: org, name }, password, newPassword }) {
      const wrong = () =>
        fault("permission_denied", "wrong_password", "Cannot change the password: the old one is wrong");
      const { user } = await self.person({ org, user: name, password }).catch((error) => {
        // The caller is logged in: that the password is wrong must not read as if the token were.
        throw error instanceof Fault && error.code === "login_failed" ? wrong() : error;
      });
      const fresh = await hashPassword(newPassword, rng);
      const endedMs = await changePolicy(core, async (tx) => {
        const now = await tx.get(userKind, org, user.id);
        if (now.value.password !== user.value.password) throw wrong();
        tokens.revoke(tx, principalOf.user(user.id));
        tx.update(userKind, now, { value: { ...now.value, password: fresh } });
        return tx.nowMs;
      });
      // Tokens of the millisecond of the revocation are refused.
      await clock.sleep(Math.max(0, endedMs + 1 - clock.nowMs()));
      note("password_changed", "ok", principalOf.user(user.id));
      return await tokens.login(user.id);
    },

    async keyHolder({ keyId, secret }) {
      const key = await platform.findById<ApiKey>(keyKind, keyId.slice(0, 64));
      const account = key && await platform.findById(accountKind, key.value.serviceAccountId);
      const right = equalSecrets(hashSecret(secret.slice(0, 256)), key?.value.secretHash ?? "");
      if (!key || !account || !right || account.value.disabled || clock.nowMs() >= key.value.expiresAtMs) {
        note("api_key", "failed", keyId.slice(0, 64));
        const principal = account && principalOf.serviceAccount(account.id);
        o.trail.noteFailedLogin({ principal, org: account?.project ?? "", outcome: "api_key_refused" });
        throw refused("api_key_refused", "Cannot log in: the API key is unknown, wrong or expired");
      }
      return { principal: principalOf.serviceAccount(account.id), keyId: key.id };
    },

    async apiKey(credentials) {
      const { principal, keyId } = await self.keyHolder(credentials);
      const issued = await tokens.access(principal, keyId);
      note("api_key", "ok", issued.principal);
      return issued;
    },

    async bootstrap(adminToken) {
      if (!equalSecrets(adminToken, o.adminToken.expose())) {
        note("bootstrap", "failed", bootstrapUser);
        o.trail.noteFailedLogin({ principal: undefined, org: "", outcome: "admin_token_refused" });
        throw refused("admin_token_refused", "Cannot log in: the admin token is wrong");
      }
      const { id, fresh } = await ensureAdmin(core);
      if (fresh) await core.policy.refresh();
      const issued = await tokens.login(id);
      note("bootstrap", "ok", issued.principal);
      return issued;
    },
  };
  return self;
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
    // Whoever has the admin token gets all of the administrator's rights back.
    if (await tx.row(rowKeys.boundary("", principal))) {
      tx.deleteRow(rowKeys.boundary("", principal));
      fresh = true;
    }
    if (fresh) tx.putRow(rowKeys.policy, { changedMs: tx.nowMs });
    return { id: user.id, fresh };
  });
}

function refused(code: string, message: string): Fault {
  return fault("unauthenticated", code, message);
}
