import { createHash } from "node:crypto";
import { Fault, utf8 } from "@ultracloud/base";
import { rowKeys } from "../kinds.ts";
import { hashSecret, newSecret } from "../seal.ts";
import { checkCsrf, csrfOf, deviceTokenHeader, deviceTokenOf } from "./browser.ts";
import { redirectAllowed } from "./clients.ts";
import { grantedScope, type OAuthDeps } from "./deps.ts";
import { OAuthError } from "./errors.ts";
import { fieldsOf, readForm } from "./form.ts";
import { loginPage, messagePage, pageHeaders } from "./pages.ts";

/** A program fetches its tokens at once; RFC 6749 section 4.1.2 wants at most ten minutes. */
const codeTtlMs = 60_000;
/** A used code is remembered, so that its second use ends the login it made. */
const usedCodeTtlMs = 600_000;
/** How long a login page may stay open. */
const pageTtlMs = 900_000;
const parameterCharsMax = 1_024;
const challengePattern = /^[A-Za-z0-9_-]{43}$/;
const verifierPattern = /^[A-Za-z0-9._~-]{43,128}$/;
const loginPath = "/oauth2/login";

/** What a program asked for, kept sealed in the page between showing and sending it. */
interface Ask {
  readonly client: string;
  readonly clientName: string;
  readonly org: string;
  readonly redirectUri: string;
  readonly challenge: string;
  readonly scope: string;
  readonly state?: string;
  readonly nonce?: string;
  readonly endMs: number;
}

/** An authorization code until it is used, and for a while after. */
interface Code {
  readonly client: string;
  readonly redirectUri: string;
  readonly challenge: string;
  readonly userId: string;
  readonly scope: string;
  readonly nonce?: string;
  readonly endMs: number;
  /** The login it became. */
  readonly used?: string;
}

export interface RedeemedCode {
  readonly userId: string;
  readonly scope: string;
  readonly nonce: string | undefined;
  readonly loginId: string;
}

export interface AuthorizeEndpoint {
  /** Shows the login page, or sends the browser back with an error. */
  show(request: Request): Promise<Response>;
  /** Takes the login page's form. */
  submit(request: Request): Promise<Response>;
  /** Uses a code up; `invalid_grant` when it is not good. */
  redeem(o: {
    readonly code: string;
    readonly client: string;
    readonly redirectUri: string;
    readonly verifier: string;
  }): Promise<RedeemedCode>;
}

/** Authorization code flow with PKCE (RFC 6749, 7636, 9207; OAuth 2.1: no other flow through the browser). */
export function authorizeEndpoint(deps: OAuthDeps): AuthorizeEndpoint {
  const { core, issuer, logins, clients } = deps;
  const { platform, sealer, clock } = core;

  const problem = (message: string, status = 400) =>
    new Response(messagePage("This login cannot go on", message), { status, headers: pageHeaders() });

  const back = (ask: Pick<Ask, "redirectUri" | "state">, answer: Record<string, string>): Response => {
    const url = new URL(ask.redirectUri);
    for (const [name, value] of Object.entries(answer)) url.searchParams.set(name, value);
    if (ask.state !== undefined) url.searchParams.set("state", ask.state);
    url.searchParams.set("iss", issuer);
    return new Response(null, { status: 303, headers: { location: url.href, "cache-control": "no-store" } });
  };

  const form = (
    request: Request,
    ask: Ask,
    o: { readonly org?: string; readonly user?: string; readonly error?: string; readonly status?: number } = {},
  ): Response => {
    const csrf = csrfOf(core, issuer, request);
    const html = loginPage({
      client: ask.clientName,
      action: loginPath,
      fields: { csrf: csrf.field, request: sealer.seal(utf8.encode(JSON.stringify(ask)), "authorize") },
      org: o.org ?? ask.org,
      user: o.user ?? "",
      error: o.error,
    });
    // Browsers hold the redirect that answers the form against form-action too.
    const headers = new Headers(pageHeaders(` ${new URL(ask.redirectUri).origin}`));
    headers.append("set-cookie", csrf.header);
    return new Response(html, { status: o.status ?? 200, headers });
  };

  return {
    async show(request) {
      const asked = request.method === "POST" ? await readForm(request) : fieldsOf(new URL(request.url).searchParams);
      if (!asked) return problem("The program asked in a way that cannot be read.");
      const clientId = asked.get("client_id") ?? "";
      const client = await clients.find(clientId.slice(0, 64));
      if (!client) return problem("The program is not known here.");
      const redirectUri = asked.get("redirect_uri") ?? "";
      // Nobody is sent to an address that was not registered, not even with an error.
      if (!redirectAllowed(client.redirectUris, redirectUri)) {
        return problem("The program wants the answer at an address that is not registered.");
      }
      const state = asked.get("state");
      const to = { redirectUri, ...(state === undefined ? {} : { state }) };
      const refuse = (error: string, description: string) => back(to, { error, error_description: description });
      for (const [name, value] of asked) {
        if (value.length > parameterCharsMax) {
          return refuse("invalid_request", `Cannot take ${name.slice(0, 40)}: too long`);
        }
      }
      if (asked.has("request")) return refuse("request_not_supported", "Cannot read request objects");
      if (asked.has("request_uri")) return refuse("request_uri_not_supported", "Cannot fetch request objects");
      if (asked.get("response_type") !== "code") {
        return refuse("unsupported_response_type", "Cannot answer with anything but a code");
      }
      if ((asked.get("response_mode") ?? "query") !== "query") {
        return refuse("invalid_request", "Cannot use the response_mode: wanted query");
      }
      const challenge = asked.get("code_challenge") ?? "";
      if (asked.get("code_challenge_method") !== "S256" || !challengePattern.test(challenge)) {
        return refuse("invalid_request", "Cannot go on without PKCE: wanted code_challenge with method S256");
      }
      // iam keeps no session in the browser: every login is typed.
      if (asked.get("prompt") === "none") return refuse("login_required", "Cannot log in without a person");
      const nonce = asked.get("nonce");
      return form(request, {
        client: client.id,
        clientName: client.name,
        org: client.org,
        ...to,
        challenge,
        scope: grantedScope(asked.get("scope")),
        ...(nonce === undefined ? {} : { nonce }),
        endMs: clock.nowMs() + pageTtlMs,
      });
    },

    async submit(request) {
      const fields = await readForm(request);
      if (!fields) return problem("The form cannot be read.");
      let ask: Ask;
      try {
        checkCsrf(core, issuer, request, fields.get("csrf") ?? "");
        ask = JSON.parse(utf8.decode(sealer.open(fields.get("request") ?? "", "authorize")));
      } catch {
        return problem("The form was not shown in this browser. Start again from the program.", 403);
      }
      if (clock.nowMs() >= ask.endMs) return problem("The page was open for too long. Start again from the program.");
      if (fields.get("decision") === "deny") {
        return back(ask, { error: "access_denied", error_description: "The person refused" });
      }
      const [org, user] = [(fields.get("org") ?? "").trim(), (fields.get("user") ?? "").trim()];
      let person;
      try {
        person = await logins.person({
          org,
          user,
          password: fields.get("password") ?? "",
          deviceToken: deviceTokenOf(request),
        });
      } catch (error) {
        const refusal = loginRefusal(error);
        if (!refusal) throw error;
        return form(request, ask, { org, user, ...refusal });
      }
      if (ask.org !== "" && person.user.project !== ask.org) {
        return form(request, ask, { org, user, error: `This program is for users of ${ask.org}.`, status: 403 });
      }
      const code = newSecret(core.rng);
      const row: Code = {
        client: ask.client,
        redirectUri: ask.redirectUri,
        challenge: ask.challenge,
        userId: person.user.id,
        scope: ask.scope,
        ...(ask.nonce === undefined ? {} : { nonce: ask.nonce }),
        endMs: clock.nowMs() + codeTtlMs,
      };
      await platform.transact((tx) => tx.putRow(rowKeys.authorizationCode(hashSecret(code)), row, codeTtlMs));
      const answer = back(ask, { code });
      answer.headers.append("set-cookie", deviceTokenHeader(issuer, person.deviceToken));
      return answer;
    },

    async redeem({ code, client, redirectUri, verifier }) {
      const refused = new OAuthError(
        "invalid_grant",
        "Cannot take the code: it is unknown, used, expired or not yours",
      );
      if (!verifierPattern.test(verifier)) throw refused;
      const challenge = createHash("sha256").update(verifier).digest("base64url");
      const key = rowKeys.authorizationCode(hashSecret(code.slice(0, 128)));
      const loginId = core.tokens.newLoginId();
      const outcome = await platform.transact(async (tx) => {
        const row = await tx.row<Code>(key);
        if (!row || row.client !== client || row.redirectUri !== redirectUri || row.challenge !== challenge) {
          return undefined;
        }
        if (row.used !== undefined) return { row, reused: row.used };
        if (tx.nowMs >= row.endMs) return undefined;
        tx.putRow(key, { ...row, used: loginId }, usedCodeTtlMs);
        return { row, reused: undefined };
      });
      if (outcome?.reused !== undefined) {
        core.log.warn("an authorization code was used twice, its login is over", { client });
        await core.tokens.endLoginById(outcome.reused);
      }
      if (!outcome || outcome.reused !== undefined) throw refused;
      return { userId: outcome.row.userId, scope: outcome.row.scope, nonce: outcome.row.nonce, loginId };
    },
  };
}

/** What the page says of a login that did not go through; undefined for what is no refusal. */
export function loginRefusal(error: unknown): { error: string; status: number } | undefined {
  if (!(error instanceof Fault)) return undefined;
  if (error.kind === "unauthenticated") return { error: "Wrong organisation, user or password.", status: 401 };
  if (error.kind !== "resource_exhausted") return undefined;
  const seconds = Math.ceil((error.detail.retryAfterMs ?? 1_000) / 1_000);
  return { error: `Too many failed logins. Try again in ${seconds} seconds.`, status: 429 };
}
