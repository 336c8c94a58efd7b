import { systemClock } from "@ultracloud/base";
import { jsonValues } from "./json_stream.ts";
import type { EtcdRequest } from "./test_requests.ts";
import type { Answer, Json } from "./test_rules.ts";

/** A server that has no time refuses so, before it looks at the request: it is asked again, this often. */
const overload = "etcdserver: too many requests";
const overloadTriesMax = 100;
const overloadPauseMs = 200;

type JsonObject = { readonly [name: string]: Json };

/** One change as a watch told it, and whether its revision was told as a whole. */
export interface Seen {
  readonly watch: string;
  readonly event: JsonObject;
  readonly revision: number;
}

/** One of the two servers under comparison. */
export class Side {
  readonly name: string;
  readonly url: string;
  readonly #headers: () => Promise<Record<string, string>>;

  constructor(name: string, url: string, headers: () => Promise<Record<string, string>>) {
    this.name = name;
    this.url = url;
    this.#headers = headers;
  }

  async send(request: EtcdRequest): Promise<Answer> {
    for (let tries = 1;; tries++) {
      const answer = await this.#sendOnce(request);
      const refused = answer.status === 429 && (answer.body as JsonObject | null)?.message === overload;
      if (!refused || tries === overloadTriesMax) return answer;
      await systemClock.sleep(overloadPauseMs);
    }
  }

  async #sendOnce({ path, body }: EtcdRequest): Promise<Answer> {
    const response = await fetch(this.url + path, {
      method: "POST",
      headers: await this.#headers(),
      body: typeof body === "string" ? body : JSON.stringify(body),
    });
    const text = await response.text();
    // A stream of lines is one answer: the list of them.
    const lines = text.trim().split("\n").filter((line) => line !== "");
    try {
      const values = lines.map((line) => JSON.parse(line) as Json);
      return { status: response.status, body: path.endsWith("/keepalive") ? values : values[0] ?? null };
    } catch {
      return { status: response.status, body: text };
    }
  }

  /** Opens watches in one body and collects what they tell until it is closed. */
  async watch(requests: readonly JsonObject[]): Promise<SideWatch> {
    const stop = new AbortController();
    const response = await fetch(`${this.url}/v3/watch`, {
      method: "POST",
      headers: await this.#headers(),
      body: requests.map((request) => JSON.stringify(request)).join("\n"),
      signal: stop.signal,
    });
    return new SideWatch(response, stop);
  }
}

export class SideWatch implements AsyncDisposable {
  /** Messages that are no events, in order: created, cancelled, progress. */
  readonly control: JsonObject[] = [];
  readonly events: Seen[] = [];
  /** Messages with events, by watch: the revisions that each held. */
  readonly messages: { readonly watch: string; readonly revisions: readonly number[]; readonly fragment: boolean }[] =
    [];
  readonly status: number;
  readonly #stop: AbortController;
  readonly #reading: Promise<void>;

  constructor(response: Response, stop: AbortController) {
    this.status = response.status;
    this.#stop = stop;
    this.#reading = this.#read(response.body).catch((error) => {
      if (!stop.signal.aborted) throw error;
    });
  }

  async #read(body: ReadableStream<Uint8Array> | null): Promise<void> {
    for await (const text of jsonValues(body, 64 * 2 ** 20, this.#stop.signal)) {
      const { result } = JSON.parse(text) as { result: JsonObject };
      const watch = String(result?.watch_id ?? 0);
      const events = result?.events as readonly JsonObject[] | undefined;
      if (events === undefined) {
        this.control.push(result ?? JSON.parse(text));
        continue;
      }
      const revisions = events.map((event) => Number((event.kv as JsonObject).mod_revision));
      this.messages.push({ watch, revisions, fragment: result.fragment === true });
      events.forEach((event, i) => this.events.push({ watch, event, revision: revisions[i]! }));
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#reading;
  }
}
