import { codeToHttpStatus, errorToJsonBytes } from "@connectrpc/connect/protocol-connect";
import { type Fault, fault, utf8 } from "@ultracloud/base";
import { gunzip, gzip, readBody } from "./body.ts";
import type { Call } from "./call.ts";
import type { Chain } from "./chain.ts";
import { decodeMessage, encodeMessage } from "./codec.ts";
import { shownFault, toConnectError } from "./errors.ts";
import { compressBytesMin } from "./limits.ts";
import type { Route } from "./routes.ts";
import type { Peer } from "./types.ts";

const jsonType = /^application\/json(?:; ?charset=utf-?8)?$/i;
const protoType = /^application\/proto$/i;

/** True for binary, false for JSON, undefined when the content type is no unary Connect one. */
export function unaryFormat(contentType: string | null): boolean | undefined {
  if (contentType === "application/json") return false;
  if (contentType === "application/proto") return true;
  if (contentType === null) return undefined;
  if (jsonType.test(contentType)) return false;
  return protoType.test(contentType) ? true : undefined;
}

/** How a unary call is written: as the RPC itself, or as another API that stands for it (`Calls.serve`). */
export interface UnaryWire {
  /** Of an answer. */
  readonly contentType: string;
  /** The request message, or an invalid_argument fault. */
  decode(body: Uint8Array<ArrayBuffer>, route: Route): unknown;
  /** The handler's answer as it is sent; bytes stay as they are until the next one is encoded. */
  encode(output: unknown, route: Route): Uint8Array<ArrayBuffer> | string;
  /** What the caller may see of a failure. */
  failure(error: Fault, call: Pick<Call, "requestId" | "touchedResponseHeader">): Response;
}

const failure: UnaryWire["failure"] = (error, call) => errorResponse(call, error);
const binaryWire: UnaryWire = {
  contentType: "application/proto",
  decode: (body, { codec, method }) => codec?.read?.(body) ?? decodeMessage(method.input, body, true),
  encode: (output, { codec, method, registry }) =>
    codec?.write?.(output as never) ?? encodeMessage(method.output, output, true, registry),
  failure,
};
const jsonWire: UnaryWire = {
  contentType: "application/json",
  decode: (body, route) => decodeMessage(route.method.input, body, false),
  encode: (output, route) => encodeMessage(route.method.output, output, false, route.registry),
  failure,
};

/** The RPC's own wire in one of its two forms. */
export function connectWire(binary: boolean): UnaryWire {
  return binary ? binaryWire : jsonWire;
}

/**
 * Serves a unary call: one read, one decode, one handler, one encode, one chunk out. The generic path of
 * connect-es costs about eight times as much; both answer the same (see parity_test.ts).
 */
export function serveUnary(
  chain: Chain,
  route: Route,
  request: Request,
  peer: Peer,
  wire: UnaryWire,
): Promise<Response> {
  const call = chain.open(route, request);
  return new Promise((resolve) => {
    // The deadline answers for a handler that does not stop; its place stays taken until it does.
    call.onAbort((reason) => {
      chain.settle(call, route, reason);
      resolve(wire.failure(shownFault(reason), call));
    });
    void run(chain, route, call, request, peer, wire, resolve);
  });
}

/** Never rejects. Resolves the caller's promise itself: one that waited for another would cost two more turns. */
async function run(
  chain: Chain,
  route: Route,
  call: Call,
  request: Request,
  peer: Peer,
  wire: UnaryWire,
  resolve: (response: Response) => void,
): Promise<void> {
  try {
    chain.admit(call, route);
    const authenticated = chain.authenticate(call, route, peer);
    if (authenticated !== undefined) await authenticated;
    const encoding = call.requestHeader.get("content-encoding");
    if (encoding !== null && encoding !== "gzip" && encoding !== "identity") {
      throw fault(
        "unimplemented",
        "unknown_compression",
        `Cannot read compression ${JSON.stringify(encoding.slice(0, 40))}: wanted gzip or identity`,
      );
    }
    const { messageBytesMax } = chain.limits;
    let bytes = await readBody(request, messageBytesMax);
    if (encoding === "gzip") bytes = await gunzip(bytes, messageBytesMax);
    const message = wire.decode(bytes, route);
    if (wire === binaryWire) call.received = { message, bytes };
    const authorised = chain.authorise(call, route, message);
    if (authorised !== undefined) await authorised;
    let output = route.handler(message, call);
    if (output instanceof Promise) output = await output;
    let body = wire.encode(output, route);
    // A plain record is the cheapest form for `new Response`.
    const headers: Record<string, string> = {
      "content-type": wire.contentType,
      "x-request-id": call.requestId,
    };
    if (body.length >= compressBytesMin && acceptsGzip(call.requestHeader, encoding)) {
      body = await gzip(typeof body === "string" ? utf8.encode(body) : body.slice());
      headers["content-encoding"] = "gzip";
      headers.vary = "accept-encoding";
    }
    call.touchedResponseHeader?.forEach((value, name) => headers[name] = value);
    // It copies the bytes.
    const response = new Response(body, { headers });
    chain.settle(call, route);
    resolve(response);
  } catch (error) {
    chain.settle(call, route, error);
    resolve(wire.failure(shownFault(error), call));
  } finally {
    chain.release(call, route);
  }
}

function acceptsGzip(header: Headers, requestEncoding: string | null): boolean {
  const accept = header.get("accept-encoding");
  if (accept === null || accept === "") return requestEncoding === "gzip";
  return accept.split(",").some((name) => {
    const [coding, ...parameters] = name.split(";").map((part) => part.trim());
    return coding === "gzip" && !parameters.some((p) => /^q=0(\.0*)?$/.test(p));
  });
}

/** A unary error in Connect's JSON form, whatever the format of the request. */
export function errorResponse(call: Pick<Call, "requestId" | "touchedResponseHeader">, error: unknown): Response {
  const wire = toConnectError(error, call.requestId);
  const headers: [string, string][] = [["content-type", "application/json"], ["x-request-id", call.requestId]];
  call.touchedResponseHeader?.forEach((value, name) => headers.push([name, value]));
  return new Response(errorToJsonBytes(wire, undefined) as Uint8Array<ArrayBuffer>, {
    status: codeToHttpStatus(wire.code),
    headers,
  });
}
