import { Fault } from "@ultracloud/base";
import { Hono } from "hono";
import type { Logins } from "./logins.ts";
import type { PolicyStore } from "./policy_store.ts";
import type { IssuedTokens, TokenMaker } from "./tokens.ts";

/** A token request is a few hundred bytes. */
const formBytesMax = 16 * 1024;
/** New signing keys are in the set this long before they are used. */
const keysMaxAgeSeconds = 300;

/** OAuth 2 and OIDC beside RPC: discovery, keys, and tokens for API keys and refresh tokens (RFC 6749, 8414). */
export function oidcRoutes(
  o: { readonly issuer: string },
  deps: { readonly policy: PolicyStore; readonly logins: Logins; readonly tokens: TokenMaker },
): (request: Request) => Response | Promise<Response> | undefined {
  const { policy, logins, tokens } = deps;
  const app = new Hono();
  app.get("/.well-known/openid-configuration", (c) => c.json(discovery(o.issuer)));
  app.get("/.well-known/oauth-authorization-server", (c) => c.json(discovery(o.issuer)));
  app.get("/oauth2/jwks", (c) => {
    const keys = policy.index()?.snapshot.keys;
    if (!keys) return c.json({ error: "temporarily_unavailable" }, 503);
    c.header("cache-control", `public, max-age=${keysMaxAgeSeconds}`);
    return c.json({ keys });
  });
  app.post("/oauth2/token", async (c) => {
    c.header("cache-control", "no-store");
    const form = await readForm(c.req.raw);
    if (!form) {
      return c.json({ error: "invalid_request", error_description: "Cannot read the form" }, 400);
    }
    try {
      switch (form.get("grant_type")) {
        case "client_credentials": {
          const client = clientOf(c.req.header("authorization"), form);
          return c.json(tokenBody(await logins.apiKey(client)));
        }
        case "refresh_token":
          return c.json(tokenBody(await tokens.refresh(form.get("refresh_token") ?? "")));
        default:
          return c.json({ error: "unsupported_grant_type" }, 400);
      }
    } catch (error) {
      if (!(error instanceof Fault)) throw error;
      if (error.kind === "unavailable") return c.json({ error: "temporarily_unavailable" }, 503);
      if (error.code === "refresh_refused") {
        return c.json({ error: "invalid_grant", error_description: error.message }, 400);
      }
      c.header("www-authenticate", 'Basic realm="ultracloud"');
      return c.json({ error: "invalid_client", error_description: error.message }, 401);
    }
  });
  app.onError((_error, c) => c.json({ error: "server_error" }, 500));
  const ours = new Set(app.routes.map((route) => route.path));
  return (request) => ours.has(new URL(request.url).pathname) ? app.fetch(request) : undefined;
}

function discovery(issuer: string) {
  return {
    issuer,
    jwks_uri: `${issuer}/oauth2/jwks`,
    token_endpoint: `${issuer}/oauth2/token`,
    grant_types_supported: ["client_credentials", "refresh_token"],
    token_endpoint_auth_methods_supported: ["client_secret_basic", "client_secret_post"],
    response_types_supported: [],
    subject_types_supported: ["public"],
    id_token_signing_alg_values_supported: ["EdDSA"],
  };
}

function tokenBody(issued: IssuedTokens) {
  return {
    access_token: issued.accessToken,
    token_type: "Bearer",
    expires_in: Number(issued.expiresInMs) / 1000,
    ...(issued.refreshToken === "" ? {} : { refresh_token: issued.refreshToken }),
  };
}

/** The form, at most `formBytesMax` of it; undefined when it is larger or none. */
async function readForm(request: Request): Promise<URLSearchParams | undefined> {
  const type = request.headers.get("content-type")?.split(";")[0]?.trim().toLowerCase();
  if (type !== "application/x-www-form-urlencoded" || request.body === null) {
    await request.body?.cancel();
    return undefined;
  }
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of request.body) {
    size += chunk.length;
    if (size > formBytesMax) return undefined;
    chunks.push(chunk);
  }
  return new URLSearchParams(await new Blob(chunks as Uint8Array<ArrayBuffer>[]).text());
}

/** Basic credentials (form-encoded inside, RFC 6749 section 2.3.1), or those in the form. */
function clientOf(authorization: string | undefined, form: URLSearchParams): { keyId: string; secret: string } {
  const [scheme, encoded] = authorization?.split(" ") ?? [];
  if (scheme?.toLowerCase() === "basic" && encoded !== undefined) {
    try {
      const text = atob(encoded);
      const colon = text.indexOf(":");
      return { keyId: decodeURIComponent(text.slice(0, colon)), secret: decodeURIComponent(text.slice(colon + 1)) };
    } catch {
      return { keyId: "", secret: "" };
    }
  }
  return { keyId: form.get("client_id") ?? "", secret: form.get("client_secret") ?? "" };
}
