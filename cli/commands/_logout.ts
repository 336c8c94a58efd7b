import type { Credentials } from "../frame/contexts.ts";
import type { Session } from "../frame/session.ts";

const clientId = "uc";
/** Logging out works without iam as well, so it does not wait long for it. */
const requestMsMax = 5_000;

/** Ends the login at iam, access tokens included (RFC 7009); false when it could not be asked. */
export async function endLogin(session: Session, held: Credentials): Promise<boolean> {
  const token = held.refreshToken ?? held.accessToken;
  try {
    const response = await fetch(`${session.endpoint("iam")}/oauth2/revoke`, {
      method: "POST",
      body: new URLSearchParams({ client_id: clientId, token }),
      signal: AbortSignal.any([session.io.signal, AbortSignal.timeout(requestMsMax)]),
      ...(session.http === undefined ? {} : { client: session.http }),
    });
    await response.body?.cancel();
    return response.ok;
  } catch {
    return false;
  }
}
