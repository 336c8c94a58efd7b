/** Responses whose body arrives in pieces; a listener must not wait for their end. */
const pieces: WeakSet<Response> = new WeakSet();

export function isStreamed(response: Response): boolean {
  return pieces.has(response);
}

/** Notes that the body of the response arrives in pieces. */
export function markStreamed(response: Response): Response {
  pieces.add(response);
  return response;
}

/**
 * A response whose body is written piece by piece, as fast as it is read. When the caller leaves, `left` is called, for
 * what waits to stop waiting, and the iterator is told to return; a failure of it cuts the body.
 */
export function streamedResponse(
  parts: AsyncIterable<Uint8Array>,
  init: ResponseInit,
  left: () => void = () => {},
): Response {
  const iterator = parts[Symbol.asyncIterator]();
  const body = new ReadableStream<Uint8Array>({
    async pull(controller) {
      const item = await iterator.next();
      if (item.done === true) controller.close();
      else controller.enqueue(item.value);
    },
    async cancel() {
      left();
      await iterator.return?.();
    },
  }, { highWaterMark: 0 });
  return markStreamed(new Response(body as ReadableStream<Uint8Array<ArrayBuffer>>, init));
}
