import { Hono } from "hono";
import { authorizeEndpoint } from "./authorize.ts";
import type { OAuthDeps } from "./deps.ts";
import { scopesKnown } from "./deps.ts";
import { deviceEndpoint } from "./device.ts";
import { OAuthError, toOAuthError } from "./errors.ts";
import { readForm } from "./form.ts";
import { inspectEndpoints } from "./inspect.ts";
import { grantTypes, tokenEndpoint } from "./token.ts";

/** OAuth 2.1 and OpenID Connect beside RPC, under /oauth2 and /.well-known. */
export function oauthRoutes(
  deps: OAuthDeps,
  o: { /** How long others may keep the key set. */ readonly keysMaxAgeMs: number },
): (request: Request) => Response | Promise<Response> | undefined {
  const { core, issuer, clients } = deps;
  const authorize = authorizeEndpoint(deps);
  const device = deviceEndpoint(deps);
  const token = tokenEndpoint({ ...deps, authorize, device });
  const inspect = inspectEndpoints(deps);
  const app = new Hono();

  const noStore = { "cache-control": "no-store", pragma: "no-cache" };
  /** Answers JSON, and errors as OAuth has them. */
  const answered = async (work: () => Promise<Record<string, unknown> | undefined>): Promise<Response> => {
    try {
      const body = await work();
      return body === undefined
        ? new Response(null, { status: 200, headers: noStore })
        : Response.json(body, { headers: noStore });
    } catch (error) {
      const known = toOAuthError(error);
      if (!known) throw error;
      const headers = new Headers(noStore);
      if (known.status === 401) headers.set("www-authenticate", 'Basic realm="ultracloud"');
      return Response.json({ error: known.error, error_description: known.message }, { status: known.status, headers });
    }
  };
  const withForm = (
    work: (
      form: ReadonlyMap<string, string>,
      authorization: string | null,
    ) => Promise<Record<string, unknown> | undefined>,
  ) =>
  (c: { readonly req: { readonly raw: Request } }) =>
    answered(async () => {
      const form = await readForm(c.req.raw);
      if (!form) throw new OAuthError("invalid_request", "Cannot read the form");
      return await work(form, c.req.raw.headers.get("authorization"));
    });

  for (const path of ["/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"]) {
    app.get(path, (c) => c.json(discovery(issuer)));
  }
  app.get("/oauth2/jwks", (c) => {
    const keys = core.policy.index()?.snapshot.keys;
    if (!keys) return c.json({ error: "temporarily_unavailable" }, 503);
    c.header("cache-control", `public, max-age=${Math.floor(o.keysMaxAgeMs / 1000)}`);
    return c.json({ keys });
  });
  app.post("/oauth2/token", withForm((form, authorization) => token(authorization, form)));
  app.post(
    "/oauth2/introspect",
    withForm(async (form, authorization) => {
      const client = await clients.authenticate(authorization, form);
      if (!client.confidential) throw new OAuthError("invalid_client", "Cannot tell a public client about tokens", 401);
      return await inspect.introspect(client, form);
    }),
  );
  app.post(
    "/oauth2/revoke",
    withForm(async (form, authorization) => {
      await inspect.revoke(await clients.authenticate(authorization, form), form);
      return undefined;
    }),
  );
  app.post(
    "/oauth2/device_authorization",
    withForm(async (form, authorization) =>
      await device.start(await clients.authenticate(authorization, form), form.get("scope"))
    ),
  );
  const userinfo = (c: { readonly req: { readonly raw: Request } }) =>
    answered(() => inspect.userinfo(c.req.raw.headers)).then((response) => {
      if (response.status === 401) response.headers.set("www-authenticate", 'Bearer error="invalid_token"');
      return response;
    });
  app.get("/oauth2/userinfo", userinfo);
  app.post("/oauth2/userinfo", userinfo);
  app.get("/oauth2/authorize", (c) => authorize.show(c.req.raw));
  app.post("/oauth2/authorize", (c) => authorize.show(c.req.raw));
  app.post("/oauth2/login", (c) => authorize.submit(c.req.raw));
  app.get("/oauth2/device", (c) => device.show(c.req.raw));
  app.post("/oauth2/device", (c) => device.submit(c.req.raw));
  app.onError((error, c) => {
    core.log.error("cannot answer", { path: c.req.path, error });
    return c.json({ error: "server_error" }, 500);
  });
  const ours = new Set(app.routes.map((route) => route.path));
  return (request) => ours.has(new URL(request.url).pathname) ? app.fetch(request) : undefined;
}

function discovery(issuer: string) {
  return {
    issuer,
    jwks_uri: `${issuer}/oauth2/jwks`,
    authorization_endpoint: `${issuer}/oauth2/authorize`,
    token_endpoint: `${issuer}/oauth2/token`,
    userinfo_endpoint: `${issuer}/oauth2/userinfo`,
    introspection_endpoint: `${issuer}/oauth2/introspect`,
    revocation_endpoint: `${issuer}/oauth2/revoke`,
    device_authorization_endpoint: `${issuer}/oauth2/device_authorization`,
    grant_types_supported: grantTypes,
    response_types_supported: ["code"],
    response_modes_supported: ["query"],
    code_challenge_methods_supported: ["S256"],
    authorization_response_iss_parameter_supported: true,
    token_endpoint_auth_methods_supported: ["client_secret_basic", "client_secret_post", "none"],
    introspection_endpoint_auth_methods_supported: ["client_secret_basic", "client_secret_post"],
    revocation_endpoint_auth_methods_supported: ["client_secret_basic", "client_secret_post", "none"],
    scopes_supported: scopesKnown,
    claims_supported: [
      "sub",
      "iss",
      "aud",
      "exp",
      "iat",
      "auth_time",
      "nonce",
      "at_hash",
      "name",
      "preferred_username",
      "email",
    ],
    subject_types_supported: ["public"],
    id_token_signing_alg_values_supported: ["EdDSA"],
    request_parameter_supported: false,
    request_uri_parameter_supported: false,
    claims_parameter_supported: false,
  };
}
