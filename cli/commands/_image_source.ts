import { fault } from "@ultracloud/base";

/** Bytes sent in one message of an import; the contract allows 1 MiB. */
const chunkBytes = 512 * 1024;
const redirectsMax = 5;
const digestPattern = /^[0-9a-f]{64}$/;

/** Content of an image on its way to the cloud. */
export interface ImageSource {
  /** 0: unknown beforehand. */
  readonly bytes: number;
  chunks(): AsyncIterable<Uint8Array>;
}

/** A file of this machine. */
export async function fileSource(path: string): Promise<ImageSource> {
  return {
    bytes: (await Deno.stat(path)).size,
    async *chunks() {
      using file = await Deno.open(path);
      const buffer = new Uint8Array(chunkBytes);
      for (;;) {
        const n = await file.read(buffer);
        if (n === null) return;
        yield buffer.slice(0, n);
      }
    },
  };
}

/**
 * What a web server answers, fetched by this machine with its own rights and passed on as it comes: the cloud calls
 * nobody. Over plain http the digest must be known, as anybody on the way could answer something else; so must it be
 * where a server sends the caller on to plain http.
 */
export async function urlSource(
  url: string,
  options: { readonly sha256: string | undefined; readonly signal: AbortSignal },
): Promise<ImageSource> {
  let at = url;
  for (let redirects = 0;; redirects++) {
    checkUrl(at, options.sha256);
    let response: Response;
    try {
      response = await fetch(at, { redirect: "manual", signal: options.signal });
    } catch (cause) {
      options.signal.throwIfAborted();
      throw fault("unavailable", "fetch_failed", `Cannot fetch ${at}`, { cause });
    }
    const next = response.headers.get("location");
    if (response.status >= 300 && response.status < 400 && next !== null) {
      await response.body?.cancel();
      if (redirects === redirectsMax) {
        throw fault("failed_precondition", "fetch_failed", `Cannot follow ${url} further than ${redirectsMax} times`);
      }
      at = new URL(next, at).href;
      continue;
    }
    if (!response.ok || response.body === null) {
      await response.body?.cancel();
      const kind = response.status === 404
        ? "not_found"
        : response.status >= 500
        ? "unavailable"
        : "failed_precondition";
      throw fault(kind, "fetch_failed", `Cannot fetch ${at}: its server answers ${response.status}`);
    }
    const { body } = response;
    // A length is that of what was sent; fetch has undone its compression.
    const plain = response.headers.get("content-encoding") === null;
    return {
      bytes: plain ? Number(response.headers.get("content-length") ?? 0) : 0,
      async *chunks() {
        for await (const piece of body) {
          for (let from = 0; from < piece.length; from += chunkBytes) yield piece.subarray(from, from + chunkBytes);
        }
      },
    };
  }
}

function checkUrl(url: string, sha256: string | undefined): void {
  const { protocol, username, password } = URL.canParse(url)
    ? new URL(url)
    : { protocol: "", username: "", password: "" };
  if (protocol !== "https:" && protocol !== "http:") {
    throw fault("invalid_argument", "invalid_url", `Cannot fetch ${url}: wanted an https or http URL`, {
      field: "url",
    });
  }
  if (username !== "" || password !== "") {
    throw fault("invalid_argument", "invalid_url", "Cannot fetch a URL with credentials in it: they end up in logs", {
      field: "url",
    });
  }
  if (protocol === "http:" && !digestPattern.test(sha256 ?? "")) {
    throw fault("invalid_argument", "digest_wanted", `Cannot trust ${url} over plain http: wanted --sha256`, {
      field: "sha256",
    });
  }
}
