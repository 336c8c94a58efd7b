import { fault } from "@ultracloud/base";
import { type ComponentSignal, type NodeProcess, type Pipe, type StartSpec } from "../substrate.ts";
import type { ToolOptions, ToolResult } from "../tools.ts";
import { type AgentFile, agentPort, type AttachRequest, type ExecRequest } from "./agent_api.ts";

/** A call that runs no program. */
const callTimeoutMs = 10_000;
const execTimeoutMs = 60_000;
/** What the way there and back may take beyond the program itself. */
const wayMs = 5_000;

/** The harness's side of a node's agent. */
export class AgentClient implements Disposable {
  readonly #host: string;
  readonly #token: string;
  readonly #patience: number;
  // A node that lost its power has forgotten every connection: none is used twice.
  readonly #http = Deno.createHttpClient({ poolMaxIdlePerHost: 0, http2: false });

  constructor(options: { readonly address: string; readonly token: string; readonly patience: number }) {
    this.#host = `${options.address}:${agentPort}`;
    this.#token = options.token;
    this.#patience = options.patience;
  }

  async isReady(): Promise<boolean> {
    return await this.#call("GET", "/healthz", undefined, { timeoutMs: 1_000 }).then(() => true, () => false);
  }

  async processes(): Promise<NodeProcess[]> {
    return await (await this.#call("GET", "/processes")).json();
  }

  async start(spec: StartSpec, files: readonly AgentFile[]): Promise<void> {
    await (await this.#call("POST", "/start", { spec, files })).body?.cancel();
  }

  async writeFiles(files: readonly AgentFile[]): Promise<void> {
    await (await this.#call("POST", "/files", files)).body?.cancel();
  }

  async signal(component: string, signal: ComponentSignal): Promise<boolean> {
    return await (await this.#call("POST", "/signal", { component, signal })).json();
  }

  async exec(argv: readonly string[], options: ToolOptions = {}): Promise<ToolResult> {
    const timeoutMs = (options.timeoutMs ?? execTimeoutMs) * this.#patience;
    const request: ExecRequest = { argv, timeoutMs };
    const limits = { timeoutMs: (timeoutMs + wayMs) / this.#patience, signal: options.signal };
    return await (await this.#call("POST", "/exec", request, limits)).json();
  }

  /** Empty when the file is absent. */
  async readFile(path: string): Promise<string> {
    const response = await this.#call("GET", `/file?path=${encodeURIComponent(path)}`);
    return await response.text();
  }

  async #call(
    method: string,
    path: string,
    body?: unknown,
    options: { readonly timeoutMs?: number; readonly signal?: AbortSignal | undefined } = {},
  ): Promise<Response> {
    const late = AbortSignal.timeout((options.timeoutMs ?? callTimeoutMs) * this.#patience);
    let response: Response;
    try {
      response = await fetch(`http://${this.#host}${path}`, {
        method,
        headers: { authorization: `Bearer ${this.#token}` },
        client: this.#http,
        signal: options.signal === undefined ? late : AbortSignal.any([late, options.signal]),
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      });
    } catch (cause) {
      options.signal?.throwIfAborted();
      throw fault("unavailable", "node_silent", `Cannot reach the agent of ${this.#host}: it does not answer`, {
        cause,
      });
    }
    if (response.ok || response.status === 404) return response;
    const text = await response.text();
    const said = response.status === 500 ? JSON.parse(text) as { code: string; message: string } : undefined;
    throw fault("internal", said?.code ?? "agent_refused", said?.message ?? `The agent refused ${path}: ${text}`);
  }

  /** A program with its input and output; `code` settles with how it ended. */
  async #run(argv: readonly string[], terminal: boolean): Promise<Pipe & { readonly code: Promise<number> }> {
    const socket = new WebSocket(`ws://${this.#host}/attach`);
    socket.binaryType = "arraybuffer";
    const opened = Promise.withResolvers<void>();
    const ended = Promise.withResolvers<number>();
    // Whoever only reads and writes does not look at it.
    ended.promise.catch(() => {});
    const output = new TransformStream<Uint8Array, Uint8Array>();
    const writer = output.writable.getWriter();
    let code: number | undefined;
    socket.onopen = () => {
      socket.send(JSON.stringify({ token: this.#token, argv, terminal } satisfies AttachRequest));
      opened.resolve();
    };
    socket.onmessage = ({ data }) => {
      if (typeof data === "string") code = Number(data);
      else writer.write(new Uint8Array(data)).catch(() => socket.close());
    };
    socket.onclose = ({ reason }) => {
      const silent = fault("unavailable", "node_silent", `The node ended the program: ${reason || "no answer"}`);
      if (code === undefined) ended.reject(silent);
      else ended.resolve(code);
      opened.reject(silent);
      writer.close().catch(() => {});
    };
    await opened.promise;
    const writable = new WritableStream<Uint8Array>({
      write(chunk) {
        if (socket.readyState !== WebSocket.OPEN) throw new Error("The program has ended");
        socket.send(chunk.slice());
      },
      close() {
        if (socket.readyState === WebSocket.OPEN) socket.send("end");
      },
      abort: () => socket.close(),
    });
    return { readable: output.readable, writable, code: ended.promise };
  }

  async pipe(argv: readonly string[]): Promise<Pipe> {
    return await this.#run(argv, false);
  }

  /** A program on this terminal; answers its exit code. */
  async attach(argv: readonly string[]): Promise<number> {
    const terminal = Deno.stdin.isTerminal();
    const { readable, writable, code } = await this.#run(argv, terminal);
    if (terminal) Deno.stdin.setRaw(true);
    try {
      Deno.stdin.readable.pipeTo(writable).catch(() => {});
      for await (const chunk of readable) Deno.stdout.writeSync(chunk);
      return await code;
    } finally {
      if (terminal) Deno.stdin.setRaw(false);
    }
  }

  [Symbol.dispose](): void {
    this.#http.close();
  }
}
