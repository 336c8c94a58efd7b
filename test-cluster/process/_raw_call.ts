import type { DescField, DescMessage, DescMethod, DescService } from "@bufbuild/protobuf";
import { ScalarType } from "@bufbuild/protobuf";
import { fault, utf8 } from "@ultracloud/base";

/** What a server answered to bytes that no client of ours would send. */
export interface Answer {
  /** "ok", or the Connect code of the error. */
  readonly code: string;
  /** Code of the ErrorDetail; empty when there is none. */
  readonly detail: string;
  /** The whole body as text, for a look at what it gives away. */
  readonly text: string;
}

/** How long a stream may stay open without failing until it counts as accepted. */
const streamAcceptedMs = 700;
const answerTextMax = 100_000;

/** Posts a body to a method by the Connect protocol; streams get it as one enveloped message. */
export async function rawCall(
  url: string,
  service: DescService,
  method: DescMethod,
  body: string | Uint8Array<ArrayBuffer>,
  authorization?: string,
): Promise<Answer> {
  const unary = method.methodKind === "unary";
  const bytes = typeof body === "string" ? utf8.encode(body) : body;
  const response = await fetch(`${url}/${service.typeName}/${method.name}`, {
    method: "POST",
    headers: {
      "content-type": unary ? "application/json" : "application/connect+json",
      "connect-protocol-version": "1",
      "connect-timeout-ms": unary ? "20000" : String(streamAcceptedMs),
      ...(authorization === undefined ? {} : { authorization }),
    },
    body: unary ? bytes : envelope(bytes),
    signal: AbortSignal.timeout(30_000),
  });
  const answer = new Uint8Array(await response.arrayBuffer());
  if (answer.length > answerTextMax) {
    throw fault("internal", "answer_too_large", `Cannot judge an answer of ${answer.length} bytes from ${method.name}`);
  }
  const text = utf8.decode(answer);
  if (unary) return response.ok ? { code: "ok", detail: "", text } : { ...errorIn(text, response.status), text };
  if (!response.ok) return { ...errorIn(text, response.status), text };
  return { ...endOf(answer, method.name), text };
}

function envelope(message: Uint8Array): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(5 + message.length);
  new DataView(out.buffer).setUint32(1, message.length);
  out.set(message, 5);
  return out;
}

/** The end-of-stream message: an error, or the deadline that we set, which means that the stream was served. */
function endOf(bytes: Uint8Array<ArrayBuffer>, name: string): { code: string; detail: string } {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  for (let at = 0; at + 5 <= bytes.length;) {
    const flags = bytes[at]!;
    const length = view.getUint32(at + 1);
    const message = bytes.subarray(at + 5, at + 5 + length);
    at += 5 + length;
    if ((flags & 2) === 0) continue;
    const { error } = JSON.parse(utf8.decode(message));
    if (error === undefined) return { code: "ok", detail: "" };
    const found = errorIn(JSON.stringify(error), 200);
    return found.code === "deadline_exceeded" ? { code: "ok", detail: "" } : found;
  }
  throw fault("internal", "stream_unfinished", `Cannot find the end of the stream that ${name} answered`);
}

function errorIn(text: string, status: number): { code: string; detail: string } {
  try {
    const { code, details } = JSON.parse(text) as { code?: string; details?: { debug?: { code?: string } }[] };
    return { code: code ?? `http ${status}`, detail: details?.[0]?.debug?.code ?? "" };
  } catch {
    return { code: `http ${status}`, detail: "" };
  }
}

/** A value no field of any kind takes: a list in a list. */
export function wrongType(input: DescMessage): string {
  const first = input.fields[0];
  return first === undefined ? '{"noSuchField":1}' : JSON.stringify({ [first.jsonName]: [[]] });
}

const integerMax: Partial<Record<ScalarType, string | number>> = {
  [ScalarType.INT32]: 2_147_483_647,
  [ScalarType.UINT32]: 4_294_967_295,
  [ScalarType.INT64]: "9223372036854775807",
  [ScalarType.UINT64]: "18446744073709551615",
};

/**
 * A well-formed request that nobody should accept: `fill` for every text at every depth but for those that `but` names,
 * the largest value for every number. Bytes and flags keep their defaults, as any of their values is a valid one.
 */
export function filled(
  input: DescMessage,
  fill: string,
  but: Readonly<Record<string, string>> = {},
  depth = 0,
): Record<string, unknown> {
  const out: Record<string, unknown> = {};
  const oneofs = new Set<string>();
  for (const field of input.fields) {
    // One member of a oneof at most may be set.
    if (field.oneof !== undefined && oneofs.has(field.oneof.name)) continue;
    const value = but[field.name] ?? valueOf(field, fill, but, depth);
    if (value === undefined) continue;
    if (field.oneof !== undefined) oneofs.add(field.oneof.name);
    out[field.jsonName] = value;
  }
  return out;
}

function valueOf(field: DescField, fill: string, but: Readonly<Record<string, string>>, depth: number): unknown {
  const scalar = (type: ScalarType) => type === ScalarType.STRING ? fill : integerMax[type];
  const message = (of: DescMessage) =>
    depth > 3 || of.typeName.startsWith("google.") ? undefined : filled(of, fill, but, depth + 1);
  switch (field.fieldKind) {
    case "scalar":
      return scalar(field.scalar);
    case "message":
      return message(field.message);
    case "enum":
      return undefined;
    case "list": {
      const item = field.listKind === "scalar"
        ? scalar(field.scalar)
        : field.listKind === "message"
        ? message(field.message)
        : undefined;
      return item === undefined ? undefined : [item];
    }
    case "map":
      return field.mapKind === "scalar" && field.scalar === ScalarType.STRING && field.mapKey === ScalarType.STRING
        ? { [fill]: fill }
        : undefined;
  }
}

/** A request about a place that exists, for somebody who has no business there; a stream's header is its first part. */
export function aimedAt(input: DescMessage, place: { org: string; project: string; name: string }): unknown {
  const out: Record<string, unknown> = {};
  for (const field of input.fields) {
    if (field.fieldKind === "message" && field.name === "header") out.header = aimedAt(field.message, place);
    if (field.fieldKind === "list" && field.listKind === "message") {
      out[field.jsonName] = [aimedAt(field.message, place)];
    }
    if (field.fieldKind !== "scalar" || field.scalar !== ScalarType.STRING) continue;
    out[field.jsonName] = field.name === "project"
      ? place.project
      : field.name === "org"
      ? place.org
      : field.name === "scope"
      ? place.project
      : field.name === "action"
      ? "iam.org.get"
      : place.name;
  }
  return out;
}
