import { concatBytes, fault, invalidField } from "@ultracloud/base";

function tooLarge(messageBytesMax: number) {
  return fault(
    "resource_exhausted",
    "message_too_large",
    `Cannot read a message of more than ${messageBytesMax} bytes`,
    { metadata: { limit_bytes: String(messageBytesMax) } },
  );
}

async function collect(stream: ReadableStream<Uint8Array>, bytesMax: number): Promise<Uint8Array<ArrayBuffer>> {
  const parts: Uint8Array[] = [];
  let total = 0;
  for await (const part of stream) {
    total += part.length;
    if (total > bytesMax) throw tooLarge(bytesMax);
    parts.push(part);
  }
  return concatBytes(parts);
}

/**
 * The body of a request, never more than `bytesMax`. A declared length is trusted to be an upper bound, as the HTTP
 * parser enforces it; a body without one is counted while it arrives.
 */
export function readBody(request: Request, bytesMax: number): Promise<Uint8Array<ArrayBuffer>> {
  const declared = request.headers.get("content-length");
  if (declared !== null) {
    const length = Number(declared);
    if (!(length <= bytesMax)) return Promise.reject(tooLarge(bytesMax));
    return request.bytes();
  }
  if (request.body === null) return Promise.resolve(new Uint8Array(0));
  return collect(request.body, bytesMax);
}

function blobStream(bytes: Uint8Array): ReadableStream<Uint8Array<ArrayBuffer>> {
  return new ReadableStream({
    start(controller) {
      controller.enqueue(bytes as Uint8Array<ArrayBuffer>);
      controller.close();
    },
  });
}

/** Inflates at most `bytesMax`; what would grow past it is refused while it grows. */
export async function gunzip(bytes: Uint8Array, bytesMax: number): Promise<Uint8Array<ArrayBuffer>> {
  try {
    return await collect(blobStream(bytes).pipeThrough(new DecompressionStream("gzip")), bytesMax);
  } catch (cause) {
    if (cause instanceof Error && cause.name === "Fault") throw cause;
    throw invalidField("", "Cannot decompress the message: wanted gzip", "bad_compression");
  }
}

export async function gzip(bytes: Uint8Array): Promise<Uint8Array<ArrayBuffer>> {
  return await new Response(blobStream(bytes).pipeThrough(new CompressionStream("gzip"))).bytes();
}
