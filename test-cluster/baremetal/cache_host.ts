/** What goes wrong at the cache, decided for each file that is asked for. */
export type CacheFault = "missing" | "truncated" | "down" | undefined;

/**
 * The binary cache of a site: a directory over HTTP, always at the same address. It may be down, and it may be damaged;
 * it counts what it serves.
 */
export class CacheHost implements AsyncDisposable {
  readonly url: string;
  readonly #dir: string;
  readonly #hostname: string;
  readonly #port: number;
  #server: Deno.HttpServer | undefined;
  #abort = new AbortController();
  /** Asked for each file; a machine that is installing asks for `nar/...` once for each path of the closure. */
  fault: (path: string) => CacheFault = () => undefined;
  /** Files with contents of paths that were served whole. */
  narsServed = 0;

  constructor(dir: string, hostname: string) {
    this.#dir = dir;
    this.#hostname = hostname;
    this.#server = this.#listen(0);
    this.#port = (this.#server.addr as Deno.NetAddr).port;
    this.url = `http://${hostname}:${this.#port}`;
  }

  #listen(port: number): Deno.HttpServer {
    this.#abort = new AbortController();
    const { signal } = this.#abort;
    return Deno.serve({ hostname: this.#hostname, port, signal, onListen: () => {}, onError: () => this.#gone() }, (
      request,
    ) => this.#answer(new URL(request.url).pathname));
  }

  #gone(): Response {
    return new Response(null, { status: 404 });
  }

  async #answer(path: string): Promise<Response> {
    if (path.includes("..")) return this.#gone();
    const wrong = this.fault(path);
    if (wrong === "missing") return this.#gone();
    const bytes = await Deno.readFile(`${this.#dir}${path}`).catch(() => undefined);
    if (bytes === undefined) return this.#gone();
    if (wrong === "truncated") return new Response(bytes.slice(0, bytes.length >> 1));
    if (wrong === "down") {
      // In the middle of an answer: half of it comes, then nobody is there any more.
      queueMicrotask(() => void this.stop());
      return new Response(
        new ReadableStream({
          start(controller) {
            controller.enqueue(bytes.slice(0, bytes.length >> 1));
          },
        }),
        { headers: { "content-length": String(bytes.length) } },
      );
    }
    if (path.startsWith("/nar/")) this.narsServed++;
    return new Response(bytes);
  }

  /** Nobody listens any more, and who is being answered is left alone. */
  async stop(): Promise<void> {
    const server = this.#server;
    this.#server = undefined;
    this.#abort.abort();
    await server?.finished;
  }

  start(): void {
    this.#server ??= this.#listen(this.#port);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }
}
