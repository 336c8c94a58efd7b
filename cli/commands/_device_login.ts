import { fault, systemClock } from "@ultracloud/base";

/** What the token endpoint gives at the end of a device login. */
export interface DeviceTokens {
  readonly accessToken: string;
  readonly refreshToken: string;
  readonly expiresInMs: bigint;
}

const clientId = "uc";
const deviceGrant = "urn:ietf:params:oauth:grant-type:device_code";
/** RFC 8628 section 3.5. */
const slowDownMs = 5_000;
const requestMsMax = 30_000;

export interface DeviceLogin {
  /** Of iam. */
  readonly endpoint: string;
  /** With the certificate that iam wants to see, where it wants one. */
  readonly http: Deno.HttpClient | undefined;
  readonly signal: AbortSignal;
  /** Gets the address and the code that a person needs. */
  readonly show: (uri: string, code: string) => void;
}

interface Answer {
  readonly status: number;
  readonly body: Record<string, unknown>;
}

async function post(
  url: string,
  form: Record<string, string>,
  o: Pick<DeviceLogin, "signal" | "http">,
): Promise<Answer> {
  try {
    const response = await fetch(url, {
      method: "POST",
      body: new URLSearchParams(form),
      signal: AbortSignal.any([o.signal, AbortSignal.timeout(requestMsMax)]),
      ...(o.http === undefined ? {} : { client: o.http }),
    });
    return { status: response.status, body: await response.json() };
  } catch (cause) {
    throw fault("unavailable", "connect_failed", `Cannot reach ${new URL(url).origin}`, { cause });
  }
}

/**
 * Logs in through a browser on any device (RFC 8628); the promise settles when the person has decided or the code is
 * too old.
 */
export async function deviceLogin(o: DeviceLogin): Promise<DeviceTokens> {
  const base = o.endpoint.replace(/\/$/, "");
  const started = await post(`${base}/oauth2/device_authorization`, { client_id: clientId }, o);
  const { device_code: deviceCode, user_code: userCode, verification_uri_complete: uri } = started.body;
  if (typeof deviceCode !== "string" || typeof userCode !== "string" || typeof uri !== "string") {
    throw fault(
      started.status === 429 ? "resource_exhausted" : "unavailable",
      "login_not_started",
      `Cannot start the login: ${String(started.body.error_description ?? `the answer was ${started.status}`)}`,
    );
  }
  o.show(uri, userCode);
  let waitMs = Number(started.body.interval ?? 5) * 1_000;
  for (;;) {
    await systemClock.sleep(waitMs, o.signal);
    const { status, body } = await post(
      `${base}/oauth2/token`,
      { grant_type: deviceGrant, device_code: deviceCode, client_id: clientId },
      o,
    );
    if (status === 200) {
      return {
        accessToken: String(body.access_token),
        refreshToken: String(body.refresh_token ?? ""),
        expiresInMs: BigInt(Number(body.expires_in) * 1_000),
      };
    }
    if (body.error === "slow_down") waitMs += slowDownMs;
    else if (body.error !== "authorization_pending" && body.error !== "temporarily_unavailable") {
      throw fault("unauthenticated", "login_refused", `Cannot log in: ${String(body.error_description ?? body.error)}`);
    }
  }
}
