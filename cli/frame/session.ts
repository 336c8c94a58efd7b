import type { DescMethod, DescService } from "@bufbuild/protobuf";
import { toJson } from "@bufbuild/protobuf";
import type { CallOptions, Client } from "@connectrpc/connect";
import { fault, systemClock, systemRng, ulid } from "@ultracloud/base";
import { createRpcClient } from "@ultracloud/rpc/client";
import {
  chooseContext,
  type ComponentName,
  type Context,
  type ContextFile,
  contextPath,
  type Credentials,
  endpointOf,
  lockFile,
  lockFileSync,
  readContexts,
  writeContexts,
} from "./contexts.ts";
import type { Io } from "./io.ts";

/** Thrown by `--explain` and `--dry-run` once the call that would change something has been printed. */
export class Explained extends Error {}

export interface SessionOptions {
  readonly context?: string | undefined;
  readonly project?: string | undefined;
  readonly debug: boolean;
  /** Print the first changing call instead of making it. */
  readonly explain: boolean;
  readonly timeoutMs: number;
}

/** Tokens are renewed when this little of their life is left. */
const renewBeforeMs = 60_000;
/** Others wait meanwhile. */
const renewMsMax = 10_000;

/** One run of `uc`: its context, its credentials and clients to components. */
export class Session {
  readonly io: Io;
  readonly options: SessionOptions;
  readonly contextName: string;
  readonly context: Context;
  readonly #path: string;
  #file: ContextFile;
  #calls = 0;
  #http: Deno.HttpClient | undefined;
  readonly #invocation = ulid(systemClock, systemRng);

  constructor(io: Io, options: SessionOptions) {
    this.io = io;
    this.options = options;
    this.#path = contextPath(io.env);
    this.#file = readContexts(this.#path);
    const chosen = chooseContext(this.#file, { flag: options.context, env: io.env });
    this.contextName = chosen.name;
    this.context = chosen.context;
  }

  /** "org/project" the command works in; a failure says how to choose one. */
  get project(): string {
    const project = this.options.project ?? this.context.project;
    if (project === undefined) {
      throw fault(
        "invalid_argument",
        "no_project",
        "Cannot tell the project: wanted --project org/name, UC_PROJECT or `uc context set --project`",
      );
    }
    return project;
  }

  endpoint(component: ComponentName): string {
    return endpointOf(this.context, component);
  }

  /** A client whose calls carry credentials and, when they change something, an idempotency key. */
  client<S extends DescService>(service: S, component: ComponentName): Client<S> {
    return this.clientAt(service, component, this.endpoint(component));
  }

  /** The same for other processes of a component: calls that only one of them can do follow it there. */
  clientAt<S extends DescService>(
    service: S,
    component: ComponentName,
    ...urls: readonly [string, ...string[]]
  ): Client<S> {
    const asOperator = this.#asOperator(component);
    const client = createRpcClient(service, {
      endpoints: urls,
      authorization: () => asOperator ? this.#operator(component) : this.bearer(),
      tls: this.context.tls,
      timeoutMs: this.options.timeoutMs,
    });
    return this.#watched(service, client, urls[0]);
  }

  /** Stores know no users. What makes the hosts of a cluster is there before iam: whoever holds the key needs no login. */
  #asOperator(component: ComponentName): boolean {
    if (component === "chainfire" || component === "flaredb" || component === "vm-agent") return true;
    if (component !== "deployer" && component !== "fleet-scheduler") return false;
    const loggedIn = this.#file.credentials[this.contextName] !== undefined || !!this.io.env("UC_TOKEN")?.trim();
    return this.context.operatorKeyFile !== undefined && !loggedIn;
  }

  /** A client without credentials, for the calls that obtain them. */
  anonymousClient<S extends DescService>(service: S, component: ComponentName): Client<S> {
    const url = this.endpoint(component);
    return this.#watched(
      service,
      createRpcClient(service, { endpoints: [url], tls: this.context.tls, timeoutMs: this.options.timeoutMs }),
      url,
    );
  }

  /** Adds what every call of the command line needs: the wire on `--debug`, nothing done on `--explain`, idempotency keys. */
  #watched<S extends DescService>(service: S, client: Client<S>, url: string): Client<S> {
    const wrapped: Record<string, unknown> = {};
    for (const method of service.methods) {
      const call = (client as Record<string, (request: unknown, options?: CallOptions) => unknown>)[method.localName]!;
      wrapped[method.localName] = (request: unknown, options?: CallOptions) => {
        const reads = isRead(method);
        const line = `${service.typeName}/${method.name} ${url}`;
        if (this.options.explain && !reads) {
          this.io.out(`would call ${line}\n${show(request)}\n`);
          throw new Explained();
        }
        if (this.options.debug) this.io.err(`> ${line} ${show(request)}\n`);
        const headers = new Headers(options?.headers);
        if (!reads) headers.set("idempotency-key", `uc-${this.#invocation}-${this.#calls++}`);
        const result = call(request, { signal: this.io.signal, ...options, headers });
        if (this.options.debug && result instanceof Promise) return this.#traced(method, result);
        return result;
      };
    }
    return wrapped as Client<S>;
  }

  async #traced(method: DescMethod, result: Promise<unknown>): Promise<unknown> {
    const start = performance.now();
    const ms = () => (performance.now() - start).toFixed(1);
    try {
      const answer = await result;
      this.io.err(`< ${method.name} ok in ${ms()} ms ${show(toJson(method.output, answer as never))}\n`);
      return answer;
    } catch (error) {
      this.io.err(`< ${method.name} failed in ${ms()} ms: ${error}\n`);
      throw error;
    }
  }

  /** For plain HTTP beside RPC; undefined where the cluster asks for no certificate. */
  get http(): Deno.HttpClient | undefined {
    const { tls } = this.context;
    if (tls === undefined) return undefined;
    const [cert, key, ca] = [tls.certFile, tls.keyFile, tls.caFile].map((path) => Deno.readTextFileSync(path));
    return this.#http ??= Deno.createHttpClient({ cert: cert!, key: key!, caCerts: [ca!], http2: false });
  }

  /** `Bearer ...` of the person logged in, renewed when it is about to expire. */
  async bearer(): Promise<string> {
    const given = this.io.env("UC_TOKEN")?.trim();
    if (given) return `Bearer ${given}`;
    const held = this.#held();
    if (isFresh(held)) return `Bearer ${held.accessToken}`;
    // A refresh token is good once, and used twice it ends the login: of several `uc` at once one renews it for all.
    using _ = await lockFile(`${this.#path}.renew.lock`);
    this.#file = readContexts(this.#path);
    const now = this.#held();
    if (isFresh(now)) return `Bearer ${now.accessToken}`;
    const timeoutMs = Math.min(this.options.timeoutMs, renewMsMax);
    const { TokenService } = await import("@ultracloud/proto/iam/v1");
    const iam = createRpcClient(TokenService, { endpoints: [this.endpoint("iam")], tls: this.context.tls, timeoutMs });
    const answer = await iam.refresh({ refreshToken: now.refreshToken! });
    // The successor is kept even where nothing else may change, unless somebody logged out meanwhile.
    this.#change((file) => {
      if (file.credentials[this.contextName]?.refreshToken !== now.refreshToken) return;
      Object.assign(file, withToken(file, this.contextName, this.context, answer));
    });
    return `Bearer ${answer.accessToken}`;
  }

  /** Loaded where it is used: most commands need no workload tokens, and the start is waited for. */
  async #operator(component: ComponentName): Promise<string> {
    const { operatorAuthorization } = await import("./operator_key.ts");
    return await operatorAuthorization(this.context, component);
  }

  #held(): Credentials {
    const held = this.#file.credentials[this.contextName];
    if (held) return held;
    throw fault(
      "unauthenticated",
      "not_logged_in",
      `Cannot call as nobody is logged in to the context ${this.contextName}`,
    );
  }

  saveCredentials(token: Token): void {
    this.edit((file) => Object.assign(file, withToken(file, this.contextName, this.context, token)));
  }

  /** The stored contexts; change them only through `edit`. */
  get file(): Readonly<ContextFile> {
    return this.#file;
  }

  edit(change: (file: ContextFile) => void): void {
    if (this.options.explain) {
      this.io.out(`would change ${this.#path}\n`);
      throw new Explained();
    }
    this.#change(change);
  }

  /** Changes the file as it is now: another `uc` may have renewed a login since this one read it. */
  #change(change: (file: ContextFile) => void): void {
    using _ = lockFileSync(`${this.#path}.lock`);
    const file = readContexts(this.#path);
    change(file);
    writeContexts(this.#path, file);
    this.#file = file;
  }
}

interface Token {
  readonly accessToken: string;
  readonly refreshToken: string;
  readonly expiresInMs: bigint;
}

/** The file with the token as the credentials of a context, which it gains when it lacks it. */
function withToken(file: ContextFile, name: string, context: Context, token: Token): ContextFile {
  return {
    ...file,
    current: file.current ?? name,
    contexts: { ...file.contexts, [name]: file.contexts[name] ?? context },
    credentials: {
      ...file.credentials,
      [name]: {
        accessToken: token.accessToken,
        ...(token.refreshToken ? { refreshToken: token.refreshToken } : {}),
        expiresAtMs: Date.now() + Number(token.expiresInMs),
      },
    },
  };
}

function isFresh(held: Credentials): boolean {
  return held.refreshToken === undefined || held.expiresAtMs - Date.now() > renewBeforeMs;
}

function isRead(method: DescMethod): boolean {
  return method.idempotency === 1; // MethodOptions.IdempotencyLevel NO_SIDE_EFFECTS
}

const secretKeys = /password|secret|token|userData|authorization/i;

/** JSON for people: secrets masked, long values cut. */
export function show(value: unknown): string {
  const text = JSON.stringify(value, (key, inner) => {
    if (key.startsWith("$")) return undefined;
    if (typeof inner === "bigint") return String(inner);
    if (inner instanceof Uint8Array) return `<${inner.length} bytes>`;
    if (secretKeys.test(key) && typeof inner === "string" && inner !== "") return "<masked>";
    return inner;
  });
  if (text === undefined) return "";
  return text.length > 2_000 ? `${text.slice(0, 2_000)}... (${text.length} characters)` : text;
}
