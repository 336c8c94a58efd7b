const loopbackOrigin = /^https?:\/\/(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?$/;

const requestHeaders = [
  "authorization",
  "connect-accept-encoding",
  "connect-content-encoding",
  "connect-protocol-version",
  "connect-timeout-ms",
  "content-type",
  "grpc-timeout",
  "idempotency-key",
  "x-grpc-web",
  "x-request-id",
  "x-user-agent",
].join(", ");
const answerHeaders = "grpc-message, grpc-status, grpc-status-details-bin, x-request-id";

/** Lets browser pages of allowed origins call. Credentials travel in headers, never in cookies. */
export class Cors {
  readonly #origins: ReadonlySet<string>;
  readonly #loopback: boolean;

  constructor(options: { readonly origins: readonly string[]; readonly loopback: boolean }) {
    this.#origins = new Set(options.origins);
    this.#loopback = options.loopback;
  }

  allows(origin: string): boolean {
    return this.#origins.has(origin) || (this.#loopback && loopbackOrigin.test(origin));
  }

  preflight(origin: string): Response {
    if (!this.allows(origin)) return new Response(null, { status: 403 });
    return new Response(null, {
      status: 204,
      headers: {
        "access-control-allow-origin": origin,
        "access-control-allow-methods": "GET, POST",
        "access-control-allow-headers": requestHeaders,
        "access-control-max-age": "7200",
        vary: "origin",
      },
    });
  }

  /** Adds what the browser of an allowed origin needs to see the answer. */
  mark(response: Response, origin: string): Response {
    if (this.allows(origin)) {
      response.headers.set("access-control-allow-origin", origin);
      response.headers.set("access-control-expose-headers", answerHeaders);
      response.headers.append("vary", "origin");
    }
    return response;
  }
}
