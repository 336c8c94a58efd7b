import type { Fault } from "@ultracloud/base";
import type {
  DescMethod,
  DescMethodStreaming,
  DescMethodUnary,
  DescService,
  MessageInitShape,
  MessageShape,
} from "@bufbuild/protobuf";

/** Who calls. `id` is what bindings name: "user:usr_…", "service_account:sa_…" or a SPIFFE id. */
export interface Principal {
  readonly kind: "user" | "service_account" | "workload" | "anonymous";
  readonly id: string;
}

export const anonymous: Principal = { kind: "anonymous", id: "anonymous" };

/** What a handler may know about its call. */
export interface CallContext {
  readonly requestId: string;
  readonly principal: Principal;
  /** "/ultracloud.iam.v1.OrgService/CreateOrg". */
  readonly method: string;
  /** Aborted when the caller leaves, the deadline passes or the server stops. */
  readonly signal: AbortSignal;
  readonly requestHeader: Headers;
  /** The `idempotency-key` header, at most 128 characters. Whoever stores the effect stores the key with it. */
  readonly idempotencyKey: string | undefined;
  /** Headers to add to the answer. */
  readonly responseHeader: Headers;
  /** The request of a unary call that came in binary: for whoever hands the same bytes on. Never change them. */
  readonly received?: Received | undefined;
}

/** A request message and the bytes that it was read from. */
export interface Received {
  readonly message: unknown;
  readonly bytes: Uint8Array;
}

export type UnaryHandler<M extends DescMethodUnary> = (
  request: MessageShape<M["input"]>,
  context: CallContext,
) => MessageInitShape<M["output"]> | Promise<MessageInitShape<M["output"]>>;

export type ServerStreamHandler<M extends DescMethod> = (
  request: MessageShape<M["input"]>,
  context: CallContext,
) => AsyncIterable<MessageInitShape<M["output"]>>;

export type ClientStreamHandler<M extends DescMethod> = (
  requests: AsyncIterable<MessageShape<M["input"]>>,
  context: CallContext,
) => Promise<MessageInitShape<M["output"]>>;

/** One function per RPC of the service, by its camel-case name; leaving one out is a type error. */
export type Handlers<S extends DescService> = {
  [K in keyof S["method"]]: S["method"][K] extends DescMethodUnary ? UnaryHandler<S["method"][K]>
    : S["method"][K] extends DescMethodStreaming & { methodKind: "server_streaming" }
      ? ServerStreamHandler<S["method"][K]>
    : ClientStreamHandler<S["method"][K]>;
};

/** One more permission of the same service, at its scope. */
export interface Need {
  readonly resource: string;
  readonly action: string;
  readonly scope: string;
}

/**
 * The authorisation row of one RPC. The permission asked for is "<service>.<resource>.<action>" at the scope:
 * "" for the root, "org", "org/project", "org/project/<service>/<kind>/<name>", or keys of a store as lib/authz writes
 * them. For a streaming request the scope is taken from its first message.
 */
export type AuthzRow<M extends DescMethod> =
  | {
    readonly resource: string;
    readonly action: string;
    /** Pure; it may throw an invalid_argument fault for a malformed scope. */
    readonly scope: (request: MessageShape<M["input"]>) => string;
    /** What this very request needs besides, each of them; pure like `scope`. */
    readonly also?: (request: MessageShape<M["input"]>) => readonly Need[];
    readonly public?: never;
  }
  /** No authentication needed; `public` says why. */
  | { readonly public: string; readonly resource?: never; readonly action?: never }
  /** Any authenticated caller; `authenticated` says why. */
  | { readonly authenticated: string; readonly public?: never; readonly resource?: never; readonly action?: never };

export type AuthzTable<S extends DescService> = { [K in keyof S["method"]]: AuthzRow<S["method"][K]> };

/**
 * The binary form of one RPC's messages, written by hand where the general reader and writer of protobuf-es take more
 * than the rest of the call: see ProtoReader and ProtoWriter. They must agree with those; JSON always goes through them.
 */
export interface Codec<M extends DescMethodUnary> {
  /** The request, equal to what protobuf-es reads; undefined for bytes that only it knows how to read, or to refuse. */
  readonly read?: (bytes: Uint8Array) => MessageShape<M["input"]> | undefined;
  /** The handler's answer, as protobuf-es writes it. It may be written over by the next one: it is copied at once. */
  readonly write?: (answer: MessageInitShape<M["output"]>) => Uint8Array<ArrayBuffer>;
}

export type Codecs<S extends DescService> = {
  readonly [K in keyof S["method"]]?: S["method"][K] extends DescMethodUnary ? Codec<S["method"][K]> : never;
};

/** A service with its handlers and its authorisation table, ready to be served. */
export interface BoundService {
  readonly service: DescService;
  // deno-lint-ignore no-explicit-any -- erased here, checked by `bind`
  readonly handlers: Readonly<Record<string, any>>;
  // deno-lint-ignore no-explicit-any -- erased here, checked by `bind`
  readonly authz: Readonly<Record<string, AuthzRow<any>>>;
  // deno-lint-ignore no-explicit-any -- erased here, checked by `bind`
  readonly codecs: Readonly<Record<string, Codec<any> | undefined>>;
}

/** Ties handlers and authorisation rows to a service; both are complete or it does not compile. */
export function bind<S extends DescService>(
  service: S,
  handlers: Handlers<S>,
  authz: AuthzTable<S>,
  codecs: Codecs<S> = {},
): BoundService {
  return {
    service,
    handlers,
    authz: authz as unknown as BoundService["authz"],
    codecs: codecs as unknown as BoundService["codecs"],
  };
}

/** The other end of a connection. */
export interface Peer {
  /** SPIFFE id from the client certificate; undefined on plain listeners. */
  readonly certificateId: string | undefined;
}

/** Turns a call's credentials into a principal; throws `unauthenticated`. Synchronous where the token is cached. */
export interface Authenticator {
  authenticate(header: Headers, peer: Peer): Principal | Promise<Principal>;
  /**
   * Why the credentials of a call that was let in are no longer good; undefined while they are. Asked again and again
   * of open streams: expiry does not count, as a stream outlives the token it was opened with.
   */
  revoked?(header: Headers): Fault | undefined;
}

export type Decision =
  | { readonly allow: true }
  /** `visible: false` is answered as not_found so that existence does not leak. */
  | { readonly allow: false; readonly visible: boolean; readonly reason: string };

/** Decides a permission ("plasmavmc.vm.create") for a principal at a scope. `mutating` lets stale policy refuse writes. */
export interface Authorizer {
  authorize(principal: Principal, permission: string, scope: string, mutating: boolean): Decision | Promise<Decision>;
}

/** One line per mutating call. */
export interface AuditRecord {
  readonly timeMs: number;
  readonly requestId: string;
  readonly principal: string;
  readonly method: string;
  readonly scope: string;
  /** "ok" or the fault code. */
  readonly outcome: string;
  readonly durationMs: number;
}
