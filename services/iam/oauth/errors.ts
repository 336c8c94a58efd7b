import { Fault } from "@ultracloud/base";

/** An error as OAuth says it (RFC 6749 section 5.2). */
export class OAuthError extends Error {
  readonly error: string;
  readonly status: number;
  constructor(error: string, message: string, status = 400) {
    super(message);
    this.error = error;
    this.status = status;
  }
}

/** The OAuth form of what a handler threw; undefined for what callers must not see. */
export function toOAuthError(error: unknown): OAuthError | undefined {
  if (error instanceof OAuthError) return error;
  if (!(error instanceof Fault)) return undefined;
  switch (error.kind) {
    case "unavailable":
      return new OAuthError("temporarily_unavailable", error.message, 503);
    case "resource_exhausted":
      return new OAuthError("slow_down", error.message, 429);
    case "unauthenticated":
      return error.code === "refresh_refused"
        ? new OAuthError("invalid_grant", error.message)
        : new OAuthError("invalid_client", error.message, 401);
    case "permission_denied":
      return new OAuthError("access_denied", error.message, 403);
    case "invalid_argument":
    case "not_found":
      return new OAuthError("invalid_request", error.message);
    default:
      return undefined;
  }
}
