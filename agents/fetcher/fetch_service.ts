import { fault, invalidField } from "@ultracloud/base";
import { FetchService } from "@ultracloud/proto/fetcher/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import type { Range } from "./domain/addresses.ts";
import { type FetchDeps, fetchUrl } from "./fetch.ts";

/** Told in one message; the wire allows more. */
const chunkBytesMax = 512 * 1024;
const urlCharsMax = 2_048;
/** Images are few and large: more at once would only share the line. */
const fetchesMax = 8;

export interface FetchServiceOptions {
  readonly privateRanges: readonly Range[];
  readonly silenceMsMax: number;
}

/** What other components have fetched for them. */
export function fetchService(o: FetchServiceOptions, deps: FetchDeps): BoundService {
  let open = 0;
  return bind(FetchService, {
    async *fetch({ url, bytesMax, allowPlain }, { signal }) {
      if (url.length > urlCharsMax) throw invalidField("url", `Cannot fetch a URL of ${url.length} characters`);
      if (bytesMax < 1n || bytesMax > BigInt(Number.MAX_SAFE_INTEGER)) {
        throw invalidField("bytes_max", `Cannot fetch at most ${bytesMax} bytes: wanted 1 or more`);
      }
      if (open >= fetchesMax) {
        const message = `Cannot fetch more than ${fetchesMax} at once`;
        throw fault("unavailable", "fetcher_busy", message, { retryAfterMs: 5_000 });
      }
      open++;
      try {
        const { bytes, chunks } = await fetchUrl({ url, allowPlain, bytesMax: Number(bytesMax), ...o }, deps, signal);
        yield { part: { case: "head", value: { bytes: BigInt(bytes) } } };
        for await (const piece of chunks) {
          for (let at = 0; at < piece.length; at += chunkBytesMax) {
            yield { part: { case: "chunk", value: piece.subarray(at, at + chunkBytesMax) } };
          }
        }
      } finally {
        open--;
      }
    },
  }, {
    fetch: { resource: "url", action: "fetch", scope: () => "" },
  });
}
