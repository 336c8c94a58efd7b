import { fault, toHex } from "@ultracloud/base";
import type { SiteImage } from "./site_iso.ts";

export interface ServedIso extends AsyncDisposable {
  /** Where the BMC fetches the image. Its path cannot be guessed, as the image holds the machine's token. */
  readonly url: string;
  /** Bytes sent so far. */
  readonly sentBytes: () => number;
}

/** Name that an image of ours has in a BMC's records: a later run may take it out of a drive. */
export const isOurImage = (image: string): boolean => /\/ultracloud-smoke-[0-9TZ]+\.iso$/.test(image);

/**
 * Serves one image on an address that the BMC's network reaches, whole or in ranges, as BMCs stream what the machine
 * reads. `listen` is `host:port`, the host as the BMC will write it in its request.
 */
export function serveIso(image: SiteImage, run: string, listen: string): ServedIso {
  const match = /^(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):(\d{1,5})$/.exec(listen);
  if (match === null || Number(match[2]) > 65_535) {
    throw fault("invalid_argument", "usage", `Cannot serve on ${listen}: wanted host:port`);
  }
  const path = `/${toHex(crypto.getRandomValues(new Uint8Array(16)))}/ultracloud-smoke-${run}.iso`;
  let sent = 0;
  const answer = (request: Request): Response => {
    if (new URL(request.url).pathname !== path) return new Response("not found\n", { status: 404 });
    if (request.method !== "GET" && request.method !== "HEAD") return new Response(null, { status: 405 });
    const headers = {
      "accept-ranges": "bytes",
      "content-type": "application/octet-stream",
      "cache-control": "no-store",
    };
    const range = rangeOf(request.headers.get("range"), image.bytesCount);
    if (range === "wrong") {
      return new Response(null, { status: 416, headers: { "content-range": `bytes */${image.bytesCount}` } });
    }
    const [start, end] = range ?? [0, image.bytesCount];
    const body = request.method === "HEAD" ? null : image.read(start, end).pipeThrough(
      new TransformStream({
        transform(chunk: Uint8Array<ArrayBuffer>, controller) {
          sent += chunk.length;
          controller.enqueue(chunk);
        },
      }),
    );
    return new Response(body, {
      status: range === undefined ? 200 : 206,
      headers: {
        ...headers,
        "content-length": String(end - start),
        ...(range === undefined ? {} : { "content-range": `bytes ${start}-${end - 1}/${image.bytesCount}` }),
      },
    });
  };
  const hostname = match[1]!.replace(/^\[|\]$/g, "");
  const server = Deno.serve({ hostname, port: Number(match[2]), onListen: () => {} }, answer);
  const { port } = server.addr as Deno.NetAddr;
  return {
    url: `http://${match[1]}:${port}${path}`,
    sentBytes: () => sent,
    [Symbol.asyncDispose]: () => server.shutdown(),
  };
}

/** The first and the byte behind the last that a Range header wants; "wrong" for one that cannot be satisfied. */
function rangeOf(header: string | null, size: number): [number, number] | "wrong" | undefined {
  if (header === null) return undefined;
  const match = /^bytes=(\d*)-(\d*)$/.exec(header.trim());
  // Several ranges at once are nothing a BMC asks for: the whole image is a valid answer to them.
  if (match === null) return undefined;
  const [, first = "", last = ""] = match;
  if (first === "" && last === "") return "wrong";
  const start = first === "" ? Math.max(0, size - Number(last)) : Number(first);
  const end = first === "" || last === "" ? size : Math.min(Number(last) + 1, size);
  return start < end ? [start, end] : "wrong";
}
