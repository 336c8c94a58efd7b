import { fault } from "@ultracloud/base";
import { rowKeys } from "../kinds.ts";
import { hashSecret, newSecret } from "../seal.ts";
import { loginRefusal } from "./authorize.ts";
import { checkCsrf, csrfOf, deviceTokenHeader, deviceTokenOf } from "./browser.ts";
import type { OAuthCaller } from "./clients.ts";
import { grantedScope, type OAuthDeps } from "./deps.ts";
import { OAuthError } from "./errors.ts";
import { readForm } from "./form.ts";
import { devicePage, messagePage, pageHeaders } from "./pages.ts";

const deviceTtlMs = 600_000;
const intervalMs = 5_000;
const slowDownMs = 5_000;
/** No vowels, so that no words; no letters that look like digits (RFC 8628 section 6.1). 20^8 codes. */
const codeLetters = "BCDFGHJKLMNPQRSTVWXZ";
const codeLength = 8;
/** Anybody may start a login: this many a second and replica, and some at once. */
const startsPerSecond = 20;
const startsBurst = 100;
const devicePath = "/oauth2/device";

interface DeviceLogin {
  readonly client: string;
  readonly clientOrg: string;
  readonly userCode: string;
  readonly scope: string;
  readonly endMs: number;
  readonly lastPollMs: number;
  readonly intervalMs: number;
  readonly state: "pending" | "approved" | "denied";
  readonly userId?: string;
}

export interface DeviceEndpoint {
  /** Starts a login (RFC 8628 section 3.1). */
  start(caller: OAuthCaller, scope: string | undefined): Promise<Record<string, unknown>>;
  show(request: Request): Response;
  submit(request: Request): Promise<Response>;
  /** The user who approved; otherwise an error that says whether to ask again. */
  poll(caller: OAuthCaller, deviceCode: string): Promise<{ readonly userId: string; readonly scope: string }>;
}

/** Logins of devices without a browser: the person types a code on another one. */
export function deviceEndpoint(deps: OAuthDeps): DeviceEndpoint {
  const { core, issuer, logins } = deps;
  const { platform, clock, rng } = core;
  let tokens = startsBurst;
  let filledMs = clock.monotonicMs();
  const admit = () => {
    const now = clock.monotonicMs();
    tokens = Math.min(startsBurst, tokens + (now - filledMs) / 1_000 * startsPerSecond);
    filledMs = now;
    if (tokens < 1) {
      throw fault("resource_exhausted", "logins_busy", "Cannot start a login now: too many are started", {
        retryAfterMs: 1_000,
      });
    }
    tokens--;
  };
  const newUserCode = () => {
    let code = "";
    // Bytes of 240 and more would prefer some letters.
    while (code.length < codeLength) {
      for (const byte of rng.fill(new Uint8Array(16))) {
        if (byte < 240 && code.length < codeLength) code += codeLetters[byte % codeLetters.length]!;
      }
    }
    return code;
  };
  const form = (
    request: Request,
    o: {
      readonly code: string;
      readonly org?: string;
      readonly user?: string;
      readonly error?: string;
      readonly status?: number;
    },
  ) => {
    const csrf = csrfOf(core, issuer, request);
    const { code, org = "", user = "", error } = o;
    const html = devicePage({ action: devicePath, fields: { csrf: csrf.field }, code, org, user, error });
    const headers = new Headers(pageHeaders());
    headers.append("set-cookie", csrf.header);
    return new Response(html, { status: o.status ?? 200, headers });
  };

  return {
    async start(caller, scope) {
      admit();
      const deviceCode = newSecret(rng);
      const hash = hashSecret(deviceCode);
      const userCode = await platform.transact(async (tx) => {
        const code = newUserCode();
        if (await tx.row(rowKeys.userCode(code))) {
          throw fault("unavailable", "code_taken", "Cannot start a login now: wanted another try", {
            retryAfterMs: 100,
          });
        }
        const login: DeviceLogin = {
          client: caller.id,
          clientOrg: caller.org,
          userCode: code,
          scope: grantedScope(scope),
          endMs: tx.nowMs + deviceTtlMs,
          lastPollMs: 0,
          intervalMs,
          state: "pending",
        };
        tx.putRow(rowKeys.deviceCode(hash), login, deviceTtlMs);
        tx.putRow(rowKeys.userCode(code), hash, deviceTtlMs);
        return code;
      });
      const shown = `${userCode.slice(0, 4)}-${userCode.slice(4)}`;
      return {
        device_code: deviceCode,
        user_code: shown,
        verification_uri: issuer + devicePath,
        verification_uri_complete: `${issuer}${devicePath}?user_code=${shown}`,
        expires_in: deviceTtlMs / 1_000,
        interval: intervalMs / 1_000,
      };
    },

    show: (request) => form(request, { code: (new URL(request.url).searchParams.get("user_code") ?? "").slice(0, 16) }),

    async submit(request) {
      const fields = await readForm(request);
      const page = (title: string, message: string, status = 200) =>
        new Response(messagePage(title, message), { status, headers: pageHeaders() });
      try {
        checkCsrf(core, issuer, request, fields?.get("csrf") ?? "");
      } catch {
        return page("This login cannot go on", "The form was not shown in this browser. Open the page again.", 403);
      }
      const typed = (fields!.get("user_code") ?? "").slice(0, 16);
      const code = typed.toUpperCase().replace(/[^A-Z]/g, "");
      const [org, user] = [(fields!.get("org") ?? "").trim(), (fields!.get("user") ?? "").trim()];
      let person;
      try {
        // The password first: without one nobody may find out which codes exist.
        person = await logins.person({
          org,
          user,
          password: fields!.get("password") ?? "",
          deviceToken: deviceTokenOf(request),
        });
      } catch (error) {
        const refusal = loginRefusal(error);
        if (!refusal) throw error;
        return form(request, { code: typed, org, user, ...refusal });
      }
      const approved = fields!.get("decision") !== "deny";
      const found = await platform.transact(async (tx) => {
        const hash = code.length === codeLength ? await tx.row<string>(rowKeys.userCode(code)) : undefined;
        const login = hash && await tx.row<DeviceLogin>(rowKeys.deviceCode(hash));
        if (!hash || !login || login.state !== "pending" || tx.nowMs >= login.endMs) return false;
        if (login.clientOrg !== "" && login.clientOrg !== person.user.project) return false;
        tx.deleteRow(rowKeys.userCode(code));
        const next: DeviceLogin = { ...login, state: approved ? "approved" : "denied", userId: person.user.id };
        tx.putRow(rowKeys.deviceCode(hash), next, Math.max(1, login.endMs - tx.nowMs));
        return true;
      });
      if (!found) {
        return form(request, { code: typed, org, user, error: "The code is wrong, used or too old.", status: 404 });
      }
      const answer = approved
        ? page("You are logged in", "Your device goes on by itself.")
        : page("The login was refused", "The device gets nothing.");
      answer.headers.append("set-cookie", deviceTokenHeader(issuer, person.deviceToken));
      return answer;
    },

    async poll(caller, deviceCode) {
      const key = rowKeys.deviceCode(hashSecret(deviceCode.slice(0, 128)));
      const login = await platform.transact(async (tx) => {
        const row = await tx.row<DeviceLogin>(key);
        if (!row || row.client !== caller.id) return undefined;
        if (row.state !== "pending") {
          tx.deleteRow(key);
          return { ...row, early: false };
        }
        const early = tx.nowMs - row.lastPollMs < row.intervalMs;
        const next: DeviceLogin = {
          ...row,
          lastPollMs: tx.nowMs,
          intervalMs: early ? row.intervalMs + slowDownMs : row.intervalMs,
        };
        tx.putRow(key, next, Math.max(1, row.endMs - tx.nowMs));
        return { ...row, early };
      });
      if (!login) throw new OAuthError("expired_token", "Cannot go on: the device code is unknown, used or too old");
      if (login.state === "denied") throw new OAuthError("access_denied", "Cannot go on: the person refused");
      if (login.state === "approved") return { userId: login.userId!, scope: login.scope };
      if (login.early) {
        throw new OAuthError("slow_down", "Cannot answer yet: wanted five seconds more between questions");
      }
      throw new OAuthError("authorization_pending", "Cannot answer yet: the person has not decided");
    },
  };
}
