import { type Clock, Fault, fault } from "@ultracloud/base";
import type { RawAnswer, RawRequest, Transport } from "./transport.ts";

/** A JSON document of a BMC. What it holds is up to its maker: every use looks before it reads. */
export type Resource = Readonly<Record<string, unknown>>;

export interface Credentials {
  readonly username: string;
  readonly password: string;
}

export interface RedfishOptions {
  readonly credentials: Credentials;
  /** A session where the BMC has them, else basic; or always basic. */
  readonly auth?: "session" | "basic";
  /** How long a task of the BMC (inserting media, a reset) may take. */
  readonly taskTimeoutMs?: number;
  readonly signal?: AbortSignal;
}

export interface RedfishDeps {
  readonly transport: Transport;
  readonly clock: Clock;
}

/** Fetching the first blocks of an image over a slow management network. */
const taskTimeoutMsDefault = 180_000;
const taskPollMs = 1_000;

/**
 * One login at one BMC. Faults: `bmc_denied` (permission_denied: wrong name or password, or too few rights),
 * `bmc_refused` (failed_precondition, the BMC said no; metadata.status is its HTTP status), `bmc_busy` (unavailable),
 * `bmc_task_failed`, `bmc_task_timeout`, `bmc_protocol`, and those of the transport.
 */
export class Redfish implements AsyncDisposable {
  /** The service root, read before the login. */
  readonly root: Resource;
  readonly #options: RedfishOptions;
  readonly #transport: Transport;
  readonly #clock: Clock;
  #session: { readonly token: string; readonly path: string | undefined } | undefined;

  private constructor(root: Resource, options: RedfishOptions, deps: RedfishDeps) {
    this.root = root;
    this.#options = options;
    this.#transport = deps.transport;
    this.#clock = deps.clock;
  }

  /** Reads the service root and logs in; the session ends with the disposal. */
  static async open(options: RedfishOptions, deps: RedfishDeps): Promise<Redfish> {
    const answer = await deps.transport({ method: "GET", path: "/redfish/v1/", ...signalOf(options) });
    if (answer.status !== 200) throw refused("read the service root", answer);
    const redfish = new Redfish(parse(answer, "/redfish/v1/"), options, deps);
    if (options.auth !== "basic") await redfish.#login();
    return redfish;
  }

  get signal(): AbortSignal | undefined {
    return this.#options.signal;
  }

  get clock(): Clock {
    return this.#clock;
  }

  /** Whether calls carry a session's token; otherwise they carry name and password. */
  get hasSession(): boolean {
    return this.#session !== undefined;
  }

  async get(path: string): Promise<Resource> {
    const answer = await this.#send({ method: "GET", path });
    if (answer.status !== 200) throw refused(`read ${path}`, answer);
    return parse(answer, path);
  }

  /** Runs an action to its end: a task that it starts is waited for. */
  async post(path: string, body: Resource): Promise<void> {
    const answer = await this.#send({ method: "POST", path, body: JSON.stringify(body) });
    await this.#settle(`call ${path}`, answer);
  }

  /**
   * Changes a resource. BMCs that want to know which version is changed answer 412 or 428: then the ETag is read and
   * sent along, first as it is, then without its weakness, as some compare letter by letter.
   */
  async patch(path: string, body: Resource): Promise<void> {
    const send = (etag?: string) =>
      this.#send({
        method: "PATCH",
        path,
        body: JSON.stringify(body),
        ...(etag === undefined ? {} : { headers: { "if-match": etag } }),
      });
    let answer = await send();
    if (answer.status === 412 || answer.status === 428) {
      const read = await this.#send({ method: "GET", path });
      if (read.status !== 200) throw refused(`read ${path}`, read);
      const etag = read.headers.etag ?? textOf(parse(read, path), "@odata.etag");
      for (const tag of etag === undefined ? ["*"] : [...new Set([etag, etag.replace(/^W\//, "")])]) {
        answer = await send(tag);
        if (answer.status !== 412 && answer.status !== 428) break;
      }
    }
    await this.#settle(`change ${path}`, answer);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const session = this.#session;
    this.#session = undefined;
    if (session?.path === undefined) return;
    // A BMC that is restarting ends the session by itself; nothing depends on this answer.
    await this.#transport({
      method: "DELETE",
      path: session.path,
      headers: { "x-auth-token": session.token },
      signal: AbortSignal.timeout(10_000),
    }).catch(() => {});
  }

  async #login(): Promise<void> {
    const links = this.root["Links"];
    const sessions = linkOf(isResource(links) ? links : {}, "Sessions");
    if (sessions === undefined) return;
    const { username, password } = this.#options.credentials;
    const answer = await this.#transport({
      method: "POST",
      path: sessions,
      body: JSON.stringify({ UserName: username, Password: password }),
      ...signalOf(this.#options),
    });
    // Without a session service the calls carry name and password instead.
    if ([404, 405, 501].includes(answer.status)) return;
    const token = answer.headers["x-auth-token"];
    if (answer.status >= 300) throw refused(`log in as ${username}`, answer);
    if (token === undefined) throw protocol(`log in as ${username}: the answer has no X-Auth-Token`);
    const { location } = answer.headers;
    this.#session = { token, path: location === undefined ? undefined : localPath(location) };
  }

  async #send(request: RawRequest): Promise<RawAnswer> {
    if (!request.path.startsWith("/") || request.path.startsWith("//")) {
      throw protocol(`follow ${request.path.slice(0, 120)}: wanted a path of this BMC`);
    }
    const call = () => {
      const { username, password } = this.#options.credentials;
      const proof: Record<string, string> = this.#session !== undefined ? { "x-auth-token": this.#session.token } : {
        authorization: `Basic ${btoa(String.fromCharCode(...new TextEncoder().encode(`${username}:${password}`)))}`,
      };
      return this.#transport({ ...request, headers: { ...proof, ...request.headers }, ...signalOf(this.#options) });
    };
    const answer = await call();
    if (answer.status !== 401 || this.#session === undefined) return answer;
    // Sessions end with the BMC's own restart or after minutes of silence; once is enough to tell that from a refusal.
    this.#session = undefined;
    await this.#login();
    return await call();
  }

  async #settle(action: string, answer: RawAnswer): Promise<void> {
    if (answer.status >= 300 || answer.status < 200) throw refused(action, answer);
    if (answer.status !== 202) return;
    const { location } = answer.headers;
    const path = location !== undefined ? localPath(location) : textOf(parse(answer, action), "@odata.id");
    if (path === undefined) throw protocol(`${action}: it was accepted without a task to follow`);
    await this.#followTask(action, path);
  }

  async #followTask(action: string, path: string): Promise<void> {
    const timeoutMs = this.#options.taskTimeoutMs ?? taskTimeoutMsDefault;
    const end = this.#clock.monotonicMs() + timeoutMs;
    for (;;) {
      const answer = await this.#send({ method: "GET", path });
      // A task monitor answers 202 while it runs, and the action's own answer, or nothing at all, once it has ended.
      if (answer.status === 404 || answer.status === 204) return;
      if (answer.status >= 300) throw refused(action, answer);
      const task = answer.text.trim() === "" ? {} : parse(answer, path);
      const state = textOf(task, "TaskState");
      if (state === "Completed" || (state === undefined && answer.status !== 202)) {
        if (textOf(task, "TaskStatus") === "Critical") throw taskFailed(action, "Completed, but critical", task);
        return;
      }
      if (state !== undefined && ["Exception", "Killed", "Cancelled", "Interrupted"].includes(state)) {
        throw taskFailed(action, state, task);
      }
      if (this.#clock.monotonicMs() >= end) {
        throw fault(
          "deadline_exceeded",
          "bmc_task_timeout",
          `Cannot ${action}: its task is ${state ?? "open"} after ${timeoutMs} ms`,
        );
      }
      await this.#clock.sleep(taskPollMs, this.#options.signal);
    }
  }
}

/** True for a JSON object. */
export function isResource(value: unknown): value is Resource {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** A text of a document; undefined when it is absent, null or something else. */
export function textOf(resource: Resource, name: string): string | undefined {
  const value = resource[name];
  return typeof value === "string" ? value : undefined;
}

/** An object within a document; an empty one when there is none. */
export function partOf(resource: Resource, name: string): Resource {
  const value = resource[name];
  return isResource(value) ? value : {};
}

/** Texts of a list; empty when there is none. */
export function textsOf(resource: Resource, name: string): string[] {
  const value = resource[name];
  return Array.isArray(value) ? value.filter((entry): entry is string => typeof entry === "string") : [];
}

/** Where the reference `name` leads. */
export function linkOf(resource: Resource, name: string): string | undefined {
  return textOf(partOf(resource, name), "@odata.id");
}

/** Where the references of a list lead. */
export function linksOf(resource: Resource, name: string): string[] {
  const value = resource[name];
  if (!Array.isArray(value)) return [];
  return value.filter(isResource).map((entry) => textOf(entry, "@odata.id")).filter((path) => path !== undefined);
}

/** The path of a Location; BMCs behind a proxy name a host of their own, which must not lead elsewhere. */
function localPath(location: string): string {
  if (location.startsWith("/")) return location;
  const { pathname, search } = new URL(location);
  return pathname + search;
}

function parse(answer: RawAnswer, what: string): Resource {
  try {
    const value: unknown = JSON.parse(answer.text);
    if (isResource(value)) return value;
  } catch {
    // Said below.
  }
  throw protocol(`read ${what}: it answered ${JSON.stringify(answer.text.slice(0, 80))}, wanted a JSON object`);
}

const protocol = (what: string): Fault => fault("data_loss", "bmc_protocol", `Cannot ${what}`);

function taskFailed(action: string, state: string, task: Resource): Fault {
  return fault(
    "failed_precondition",
    "bmc_task_failed",
    `Cannot ${action}: its task ended as ${state}: ${reasonOf(task)}`,
  );
}

/** The words of a BMC's refusal, cut to what a line can hold. */
function reasonOf(body: Resource): string {
  const infos = partOf(body, "error")["@Message.ExtendedInfo"] ?? body["Messages"];
  const messages = Array.isArray(infos) ? infos.filter(isResource).map((info) => textOf(info, "Message")) : [];
  const said = messages.filter((message) => message !== undefined).join(" ") ||
    textOf(partOf(body, "error"), "message");
  return (said ?? "it gave no reason").slice(0, 400);
}

function refused(action: string, answer: RawAnswer): Fault {
  let body: Resource = {};
  try {
    body = parse(answer, "");
  } catch {
    // Not every refusal has a body.
  }
  const said = `Cannot ${action}: the BMC answered ${answer.status}: ${reasonOf(body)}`;
  const detail = { metadata: { status: String(answer.status) } };
  if (answer.status === 401 || answer.status === 403) return fault("permission_denied", "bmc_denied", said, detail);
  if (answer.status === 503 || answer.status === 429) return fault("unavailable", "bmc_busy", said, detail);
  return fault("failed_precondition", "bmc_refused", said, detail);
}

function signalOf(options: RedfishOptions): { signal?: AbortSignal } {
  return options.signal === undefined ? {} : { signal: options.signal };
}
