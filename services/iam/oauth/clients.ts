import { isId } from "@ultracloud/base";
import type { Platform } from "@ultracloud/platform";
import { clientKind } from "../kinds.ts";
import type { Logins } from "../logins.ts";
import { equalSecrets, hashSecret } from "../seal.ts";
import { ucClientId } from "../tokens.ts";
import { OAuthError } from "./errors.ts";
import { clientCredentials } from "./form.ts";

/** Who asks for a token. */
export interface OAuthCaller {
  readonly id: string;
  readonly name: string;
  /** Users of this organisation only; empty: of any. */
  readonly org: string;
  readonly redirectUris: readonly string[];
  /** It proved who it is by a secret. */
  readonly confidential: boolean;
  /** The service account, when an API key asks for itself. */
  readonly principal?: string;
}

/** `uc` listens on a loopback port of its own choice (RFC 8252 section 7.3). */
const uc: OAuthCaller = {
  id: ucClientId,
  name: "uc, the command line of UltraCloud",
  org: "",
  redirectUris: ["http://127.0.0.1/callback", "http://[::1]/callback"],
  confidential: false,
};

export interface OAuthClients {
  /** A registered program; undefined when there is none. */
  find(id: string): Promise<(OAuthCaller & { readonly secretHash: string }) | undefined>;
  /** Who sends this token request; `invalid_client` when the proof is missing or wrong. */
  authenticate(authorization: string | null, form: ReadonlyMap<string, string>): Promise<OAuthCaller>;
}

export function oauthClients(deps: { readonly platform: Platform; readonly logins: Logins }): OAuthClients {
  const { platform, logins } = deps;
  const self: OAuthClients = {
    async find(id) {
      if (id === uc.id) return { ...uc, secretHash: "" };
      if (!isId("ocl", id)) return undefined;
      const record = await platform.findById(clientKind, id);
      if (!record) return undefined;
      const { redirectUris, secretHash } = record.value;
      return {
        id,
        name: record.name,
        org: record.project,
        redirectUris,
        confidential: secretHash !== "",
        secretHash,
      };
    },
    async authenticate(authorization, form) {
      const { id, secret } = clientCredentials(authorization, form);
      if (isId("key", id)) {
        const { principal, keyId } = await logins.keyHolder({ keyId: id, secret: secret ?? "" });
        return { id: keyId, name: keyId, org: "", redirectUris: [], confidential: true, principal };
      }
      const client = await self.find(id.slice(0, 64));
      // A public client has no secret; one that sends some is mistaken for another.
      const right = client !== undefined &&
        (client.secretHash === ""
          ? secret === undefined || secret === ""
          : equalSecrets(client.secretHash, hashSecret((secret ?? "").slice(0, 256))));
      if (!right) {
        throw new OAuthError("invalid_client", "Cannot accept the client: it is unknown or its proof is wrong", 401);
      }
      const { secretHash: _, ...caller } = client;
      return caller;
    },
  };
  return self;
}

const loopbackHosts = new Set(["127.0.0.1", "[::1]"]);

/** Exact match, but for the port of a loopback address. */
export function redirectAllowed(registered: readonly string[], asked: string): boolean {
  if (registered.includes(asked)) return true;
  if (!URL.canParse(asked)) return false;
  const url = new URL(asked);
  if (url.protocol !== "http:" || !loopbackHosts.has(url.hostname) || url.username !== "" || url.hash !== "") {
    return false;
  }
  const bare = `http://${url.hostname}${url.pathname}${url.search}`;
  // Only what was registered without port may come with any.
  return registered.includes(bare);
}

/** Why a redirect URI cannot be registered; undefined when it can. */
export function redirectRefusal(text: string): string | undefined {
  if (text.length > 512 || !URL.canParse(text)) return "wanted an absolute URI of at most 512 characters";
  const url = new URL(text);
  if (url.hash !== "" || text.includes("#")) return "wanted one without fragment";
  if (url.username !== "" || url.password !== "") return "wanted one without user";
  if (url.protocol === "https:") return undefined;
  if (url.protocol === "http:" && loopbackHosts.has(url.hostname)) return undefined;
  return "wanted https, or http on 127.0.0.1 or [::1]";
}
