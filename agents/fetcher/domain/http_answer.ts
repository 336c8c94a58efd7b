import { fault } from "@ultracloud/base";

/** What stands before an answer's content. */
export interface AnswerHead {
  readonly status: number;
  /** By name in lower case; the last of one that comes twice. */
  readonly headers: ReadonlyMap<string, string>;
  /** Bytes of the content; undefined: it ends with its chunks, or with the connection. */
  readonly length: number | undefined;
  readonly chunked: boolean;
}

/** No server that means well says more before its content. */
export const headBytesMax = 32 * 1024;
const chunkLineBytesMax = 1_024;

/** The head at the beginning of `bytes` and where it ends; undefined while it is not whole. */
export function parseHead(bytes: Uint8Array): { readonly head: AnswerHead; readonly end: number } | undefined {
  const text = new TextDecoder("latin1").decode(bytes.subarray(0, headBytesMax));
  const end = text.indexOf("\r\n\r\n");
  if (end < 0) return undefined;
  const [first = "", ...lines] = text.slice(0, end).split("\r\n");
  const status = /^HTTP\/1\.[01] (\d{3})(?: .*)?$/.exec(first)?.[1];
  if (status === undefined) throw malformed("no status line");
  const headers = new Map<string, string>();
  for (const line of lines) {
    const at = line.indexOf(":");
    if (at <= 0) throw malformed("a header without a name");
    const name = line.slice(0, at).toLowerCase();
    const value = line.slice(at + 1).trim();
    // Two lengths are how one answer is made to look like two.
    if (name === "content-length" && headers.get(name) !== undefined && headers.get(name) !== value) {
      throw malformed("two lengths");
    }
    headers.set(name, value);
  }
  const said = headers.get("content-length");
  const chunked = headers.get("transfer-encoding")?.toLowerCase() === "chunked";
  if (headers.has("transfer-encoding") && !chunked) throw malformed("a transfer coding that nobody asked for");
  if (said !== undefined && !/^\d{1,15}$/.test(said)) throw malformed("a length that is no number");
  return {
    head: {
      status: Number(status),
      headers,
      chunked,
      length: chunked || said === undefined ? undefined : Number(said),
    },
    end: end + 4,
  };
}

/** The content in what follows a head; ends with a fault when it is cut off. */
export async function* bodyOf(
  head: AnswerHead,
  raw: AsyncIterable<Uint8Array>,
  host: string,
): AsyncGenerator<Uint8Array> {
  if (head.chunked) return yield* chunksOf(raw, host);
  let left = head.length ?? Infinity;
  if (left === 0) return;
  for await (const piece of raw) {
    const part = piece.subarray(0, Math.min(piece.length, left));
    left -= part.length;
    yield part;
    if (left === 0) return;
  }
  if (head.length !== undefined) throw cutOff(host);
}

/** RFC 9112, section 7.1; trailers are read over. */
async function* chunksOf(raw: AsyncIterable<Uint8Array>, host: string): AsyncGenerator<Uint8Array> {
  let line = "";
  let left = 0;
  let state: "size" | "data" | "end" = "size";
  for await (const piece of raw) {
    for (let at = 0; at < piece.length;) {
      if (state === "data") {
        const part = piece.subarray(at, at + left);
        at += part.length;
        left -= part.length;
        if (part.length > 0) yield part;
        if (left === 0) state = "end";
        continue;
      }
      const byte = piece[at++]!;
      if (byte !== 0x0a) {
        line += String.fromCharCode(byte);
        if (line.length > chunkLineBytesMax) throw malformed("a chunk's line without end");
        continue;
      }
      const text = line.replace(/\r$/, "");
      line = "";
      if (state === "end") {
        if (text !== "") throw malformed("a chunk longer than it says");
        state = "size";
        continue;
      }
      const size = /^([0-9a-fA-F]{1,12})(?:;.*)?$/.exec(text)?.[1];
      if (size === undefined) throw malformed("a chunk without a size");
      left = Number.parseInt(size, 16);
      if (left === 0) return;
      state = "data";
    }
  }
  throw cutOff(host);
}

function malformed(what: string): Error {
  return fault("unavailable", "answer_malformed", `Cannot read an answer with ${what}: wanted HTTP/1.1`);
}

function cutOff(host: string): Error {
  return fault("unavailable", "content_cut_off", `Cannot fetch from ${host} as its content was cut off`);
}
