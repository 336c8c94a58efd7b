import type { Authenticator } from "@ultracloud/rpc";
import type { Core } from "../core.ts";
import type { Logins } from "../logins.ts";
import type { OAuthClients } from "./clients.ts";

/** What the endpoints share. */
export interface OAuthDeps {
  readonly core: Core;
  readonly issuer: string;
  readonly logins: Logins;
  readonly clients: OAuthClients;
  readonly authenticator: Authenticator;
}

/** Scopes a program may ask for; others are left out of what it gets (RFC 6749 section 3.3). */
export const scopesKnown = ["openid", "profile", "email", "offline_access"] as const;

/** The known scopes of a request, each once. */
export function grantedScope(asked: string | undefined): string {
  const words = new Set((asked ?? "").split(" "));
  return scopesKnown.filter((scope) => words.has(scope)).join(" ");
}
