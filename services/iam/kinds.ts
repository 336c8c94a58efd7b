import { createHash } from "node:crypto";
import type { Condition } from "@ultracloud/authz";
import { defineKind } from "@ultracloud/platform";

export interface Org {
  readonly displayName: string;
}
export interface Project {
  readonly displayName: string;
}
export interface User {
  readonly email: string;
  readonly disabled: boolean;
  /** As `hashPassword` writes it; empty: no password login. */
  readonly password: string;
}
export interface ServiceAccount {
  readonly disabled: boolean;
}
export interface ApiKey {
  readonly serviceAccountId: string;
  /** SHA-256 of the secret, base64url. */
  readonly secretHash: string;
  readonly expiresAtMs: number;
}
export interface Role {
  readonly permissions: readonly string[];
}
export interface Binding {
  readonly principal: string;
  readonly role: string;
  /** Of an organisation's own role; empty for a built-in one. */
  readonly roleId: string;
  readonly scope: string;
  readonly deny: boolean;
  readonly conditions?: readonly Condition[];
}
export interface Group {
  /** "user:<id>" and "service_account:<id>". */
  readonly members: readonly string[];
}
/** A program people log in to through iam's pages. */
export interface OAuthClient {
  readonly redirectUris: readonly string[];
  /** SHA-256 of the secret; empty for a public client. */
  readonly secretHash: string;
}
/** An S3-style key. */
export interface AccessKey {
  readonly serviceAccountId: string;
  /** The secret, sealed for the key's id. */
  readonly sealed: string;
}
export interface Federation {
  readonly serviceAccountId: string;
  readonly issuer: string;
  readonly audience: string;
  /** Exact, or any ending after a trailing "*". */
  readonly subject: string;
  /** JSON of the issuer's key set. */
  readonly jwks: string;
}

export const orgKind = defineKind<Org>({ name: "org", prefix: "org", title: "organisation" });
export const projectKind = defineKind<Project>({ name: "project", prefix: "prj" });
/** Users of "" run the cluster. */
export const userKind = defineKind<User>({ name: "user", prefix: "usr" });
export const accountKind = defineKind<ServiceAccount>({ name: "service_account", prefix: "sa" });
/** In the project of its service account; its name is nobody's business. */
export const keyKind = defineKind<ApiKey>({ name: "api_key", prefix: "key", title: "API key" });
export const roleKind = defineKind<Role>({ name: "role", prefix: "role" });
/** In the project or organisation of its scope; its name is a digest of what it says. */
export const bindingKind = defineKind<Binding>({ name: "binding", prefix: "bind" });
export const groupKind = defineKind<Group>({ name: "group", prefix: "grp" });
export const clientKind = defineKind<OAuthClient>({ name: "oauth_client", prefix: "ocl", title: "OAuth client" });
/** In the project of its service account. */
export const accessKeyKind = defineKind<AccessKey>({ name: "access_key", prefix: "ak", title: "access key" });
/** In the project of its service account. */
export const federationKind = defineKind<Federation>({ name: "federation", prefix: "fed" });

/** Rows beside the records. */
export const rowKeys = {
  /** Written with every change of policy: its version is the policy's. */
  policy: "policy",
  /** Fingerprint of the master key that seals. */
  masterKey: "masterkey",
  /** What a replica has, while it lives. */
  replica: (id: string) => `replica|${id}`,
  /** Sealed certificate authorities, and that there was a first one. */
  authorities: "authority|",
  authorityMade: "authoritymade",
  /** Names beside its own that an identity may have in its certificate. */
  certificateNames: (spiffeId: string) => `certnames|${spiffeId}`,
  /** Sealed signing keys. */
  signingKeys: "signkey|",
  /** Tokens of the principal issued before are refused. */
  revoked: (principal: string) => `revoked|${principal}`,
  /** Single tokens, logins and keys of the principal that are refused. */
  revokedIds: (principal: string, id = "") => `revid|${principal}|${id}`,
  /** Groups of a principal. */
  member: (principal: string, groupId = "") => `member|${principal}|${groupId}`,
  /** The permission boundary of a principal of the organisation. */
  boundary: (org: string, principal = "") => `boundary|${org}|${principal}`,
  /** Bindings of a principal. */
  bound: (principal: string, bindingId = "") => `bound|${principal}|${bindingId}`,
  /** Bindings that use an organisation's own role. */
  roleUse: (roleId: string, bindingId = "") => `roleuse|${roleId}|${bindingId}`,
  refresh: (family: string) => `refresh|${family}`,
  /** Failed logins; those from a known device are counted apart. */
  failedLogins: (org: string, user: string, device = "") => `login|${org}|${user}${device === "" ? "" : `|${device}`}`,
  /** Devices a user has logged in from with a password. */
  devices: (userId: string, device = "") => `device|${userId}|${device}`,
  /** An authorization code, by hash. */
  authorizationCode: (hash: string) => `authcode|${hash}`,
  /** A login under way on a device without a browser, by the hash of its device code. */
  deviceCode: (hash: string) => `devcode|${hash}`,
  /** What a person types, to the hash of the device code. */
  userCode: (code: string) => `usercode|${code}`,
} as const;

/** "user:usr_..." and "service_account:sa_...": what tokens and bindings name. */
export const principalOf = {
  user: (id: string) => `user:${id}`,
  serviceAccount: (id: string) => `service_account:${id}`,
  group: (id: string) => `group:${id}`,
} as const;

/** One binding says one thing once. */
export function bindingName(
  scope: string,
  principal: string,
  role: string,
  deny: boolean,
  conditions: readonly Condition[] = [],
): string {
  const said = [scope, principal, role, deny, ...(conditions.length > 0 ? [conditions] : [])];
  return createHash("sha256").update(JSON.stringify(said)).digest("hex").slice(0, 40);
}
