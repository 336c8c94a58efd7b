import { fault } from "@ultracloud/base";
import type { Core } from "../core.ts";
import { equalSecrets, newSecret } from "../seal.ts";

const csrfCookie = "uc_csrf";
const deviceCookie = "uc_device";
const deviceCookieSeconds = 90 * 24 * 3600;
const cookiePattern = /^[A-Za-z0-9_-]{1,128}$/;

function cookieOf(request: Request, name: string): string {
  for (const part of (request.headers.get("cookie") ?? "").slice(0, 8_192).split(";")) {
    const [key, value] = part.trim().split("=");
    if (key === name && value !== undefined && cookiePattern.test(value)) return value;
  }
  return "";
}

function cookie(issuer: string, name: string, value: string, more = ""): string {
  const secure = issuer.startsWith("https:") ? "; Secure" : "";
  return `${name}=${value}; Path=/oauth2; HttpOnly; SameSite=Strict${secure}${more}`;
}

/** Ties a form to the browser it was shown in: a random cookie, and its keyed digest in the form. */
export function csrfOf(
  core: Core,
  issuer: string,
  request: Request,
): { readonly field: string; readonly header: string } {
  const held = cookieOf(request, csrfCookie);
  const value = held === "" ? newSecret(core.rng) : held;
  return { field: core.sealer.digest(value, "csrf"), header: cookie(issuer, csrfCookie, value) };
}

/** Refuses a form that did not come from our own page in this browser. */
export function checkCsrf(core: Core, issuer: string, request: Request, field: string): void {
  const origin = request.headers.get("origin");
  const held = cookieOf(request, csrfCookie);
  const foreign = origin !== null && origin !== "null" && origin !== new URL(issuer).origin;
  if (!foreign && held !== "" && equalSecrets(core.sealer.digest(held, "csrf"), field)) return;
  throw fault("permission_denied", "form_foreign", "Cannot take the form as it was not shown in this browser");
}

/** The token of a browser that has logged in before. */
export const deviceTokenOf = (request: Request) => cookieOf(request, deviceCookie);

export const deviceTokenHeader = (issuer: string, token: string) =>
  cookie(issuer, deviceCookie, token, `; Max-Age=${deviceCookieSeconds}`);
