import type { DescService } from "@bufbuild/protobuf";
import {
  createWorkloadSigner,
  generateIdentity,
  loadTrust,
  standardGrants,
  svcId,
  type TrustFile,
  type TrustStore,
  type WorkloadSigner,
} from "@ultracloud/authz";
import { type Clock, Fault, Redacted, systemClock, systemRng } from "@ultracloud/base";
import { Health, type Logger, Registry } from "@ultracloud/observe";
import { type KvBackend, memoryBackend, openPlatform } from "@ultracloud/platform";
import {
  AccessKeyService,
  AuditService,
  AuthorizeService,
  BoundaryService,
  CertificateService,
  FederationService,
  GroupService,
  MasterKeyService,
  OAuthClientService,
  OrgService,
  PolicyService,
  ProjectService,
  RoleService,
  ServiceAccountService,
  SigningKeyService,
  TokenService,
  UserService,
} from "@ultracloud/proto/iam/v1";
import { freePort } from "@ultracloud/launch";
import { createRpcClient, type RpcClient, startRpcServer } from "@ultracloud/rpc";
import type { JWK } from "jose";
import { type AuthoritySeed, createIam, type Iam } from "./mod.ts";

export const clusterId = "test";
export const issuer = "http://iam.test";
export const adminToken = "an-admin-token-of-the-tests-0123456789";
export const password = "correct horse battery";

/** Clients of all services with one credential. */
export interface As {
  readonly orgs: RpcClient<typeof OrgService>;
  readonly projects: RpcClient<typeof ProjectService>;
  readonly users: RpcClient<typeof UserService>;
  readonly accounts: RpcClient<typeof ServiceAccountService>;
  readonly roles: RpcClient<typeof RoleService>;
  readonly tokens: RpcClient<typeof TokenService>;
  readonly certificates: RpcClient<typeof CertificateService>;
  readonly accessKeys: RpcClient<typeof AccessKeyService>;
  readonly signingKeys: RpcClient<typeof SigningKeyService>;
  readonly masterKeys: RpcClient<typeof MasterKeyService>;
  readonly audit: RpcClient<typeof AuditService>;
  readonly groups: RpcClient<typeof GroupService>;
  readonly boundaries: RpcClient<typeof BoundaryService>;
  readonly clients: RpcClient<typeof OAuthClientService>;
  readonly federations: RpcClient<typeof FederationService>;
  readonly decide: RpcClient<typeof AuthorizeService>;
  readonly policy: RpcClient<typeof PolicyService>;
}

export interface Replica extends AsyncDisposable {
  readonly iam: Iam;
  readonly url: string;
  readonly health: Health;
  as(authorization: string | (() => string | Promise<string>)): As;
}

export interface World extends AsyncDisposable {
  readonly kv: KvBackend;
  readonly clock: Clock;
  readonly dir: string;
  readonly trust: TrustStore;
  /** Every line that was logged. */
  readonly lines: string[];
  readonly first: Replica;
  signer(name: string): Promise<WorkloadSigner>;
  advance(ms: number): void;
  replica(o?: { masterKey?: Uint8Array; waitReady?: boolean }): Promise<Replica>;
  as: Replica["as"];
  /** The bootstrap administrator. */
  admin(): Promise<As>;
  /** A user of the organisation with a password, logged in, bound to the roles. */
  user(org: string, name: string, bindings?: Readonly<Record<string, string>>): Promise<As & { principal: string }>;
}

/** "kind/code" of a failed call, or "ok". */
export async function codeOf(work: Promise<unknown>): Promise<string> {
  try {
    await work;
    return "ok";
  } catch (error) {
    if (error instanceof Fault) return `${error.kind}/${error.code}`;
    throw error;
  }
}

/** Resolves once the condition holds; fails after ten seconds. */
export async function until(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  for (const end = Date.now() + 10_000; !(await holds());) {
    if (Date.now() > end) throw new Error(`Waited too long until ${what}`);
    await systemClock.sleep(5);
  }
}

/** iam on a loopback port over a store in memory, with real tokens and real policy. */
export async function world(
  options: {
    /** Tokens name the first replica's own address as their issuer. */
    readonly ownIssuer?: boolean;
    readonly masterKey?: Uint8Array;
    readonly authoritySeed?: AuthoritySeed;
    /** Time goes by `advance()` alone: what is braked for seconds must not depend on how fast the machine is. */
    readonly stillClock?: boolean;
    /** Instead of one that keeps every line. */
    readonly log?: Logger;
  } = {},
): Promise<World> {
  const port = options.ownIssuer ? freePort() : 0;
  const iss = options.ownIssuer ? `http://127.0.0.1:${port}` : issuer;
  const stack = new AsyncDisposableStack();
  const dir = await Deno.makeTempDir();
  stack.defer(() => Deno.remove(dir, { recursive: true }));
  const principals: TrustFile["principals"] = {};
  for (const name of ["iam", "plasmavmc", "vm-agent"]) {
    const { publicKey, privateKey } = await generateIdentity();
    principals[svcId(clusterId, name)] = { publicKey, grants: standardGrants(name) };
    await Deno.writeTextFile(`${dir}/${name}.key`, JSON.stringify(privateKey), { mode: 0o600 });
  }
  await Deno.writeTextFile(`${dir}/trust.json`, JSON.stringify({ clusterId, principals }));
  let offsetMs = 0;
  const startMs = Date.now();
  const clock: Clock = { ...systemClock, nowMs: () => (options.stillClock ? startMs : Date.now()) + offsetMs };
  const kv = memoryBackend({ clock });
  const trust = await loadTrust(`${dir}/trust.json`, { clock });
  const lines: string[] = [];
  const log = options.log ?? recorder(lines);
  const signer = (name: string) => createWorkloadSigner({ clusterId, name, keyFile: `${dir}/${name}.key` }, { clock });
  const masterKeyDefault = options.masterKey ?? crypto.getRandomValues(new Uint8Array(32));

  let started = 0;
  const replica = async (o: { masterKey?: Uint8Array; waitReady?: boolean } = {}): Promise<Replica> => {
    const own = stack.use(new AsyncDisposableStack());
    const health = new Health();
    const rng = systemRng;
    const { privateKey } = await generateIdentity();
    const listen = `127.0.0.1:${started++ === 0 ? port : 0}`;
    const iam = createIam({
      issuer: iss,
      accessTtlMs: 900_000,
      keysMaxAgeMs: 300_000,
      clusterId,
      authorityPublishMs: 3_600_000,
      certificateTtlMsMax: 86_400_000,
      loginTtlMs: 86_400_000,
      authoritySeed: options.authoritySeed,
      secrets: {
        adminToken: new Redacted(adminToken),
        signingKey: new Redacted<JWK>(privateKey),
        masterKey: new Redacted(o.masterKey ?? masterKeyDefault),
      },
    }, {
      platform: openPlatform({ service: "iam" }, { kv, clock, rng, log }),
      trust,
      signer: await signer("iam"),
      health,
      log,
      clock,
      rng,
    });
    const stop = new AbortController();
    const running = iam.run(stop.signal);
    own.defer(async () => {
      stop.abort();
      await running;
    });
    const server = own.use(
      await startRpcServer({ name: "iam", version: "0.0.0", listen }, {
        ...iam,
        audit: (record) => iam.trail.note(record),
        registry: new Registry(),
        health,
        log,
        clock,
        rng,
      }),
    );
    if (o.waitReady ?? true) await until("iam is ready", () => health.snapshot().parts.policy?.state === "ready");
    const as: Replica["as"] = (authorization) => {
      const client = <S extends DescService>(service: S) =>
        own.use(createRpcClient(service, {
          endpoints: [server.url],
          retries: 0,
          ...(authorization === ""
            ? {}
            : { authorization: typeof authorization === "string" ? () => `Bearer ${authorization}` : authorization }),
        }));
      return {
        orgs: client(OrgService),
        projects: client(ProjectService),
        users: client(UserService),
        accounts: client(ServiceAccountService),
        roles: client(RoleService),
        tokens: client(TokenService),
        certificates: client(CertificateService),
        accessKeys: client(AccessKeyService),
        signingKeys: client(SigningKeyService),
        masterKeys: client(MasterKeyService),
        audit: client(AuditService),
        groups: client(GroupService),
        boundaries: client(BoundaryService),
        clients: client(OAuthClientService),
        federations: client(FederationService),
        decide: client(AuthorizeService),
        policy: client(PolicyService),
      };
    };
    return { iam, url: server.url, health, as, [Symbol.asyncDispose]: () => own.disposeAsync() };
  };

  const first = await replica();
  const admin = async () => first.as((await first.as("").tokens.bootstrapToken({ adminToken })).accessToken);
  return {
    kv,
    clock,
    dir,
    trust,
    lines,
    first,
    signer,
    advance: (ms) => offsetMs += ms,
    replica,
    as: first.as,
    admin,
    async user(org, name, bindings = {}) {
      const root = await admin();
      const user = await root.users.createUser({ org, name, password });
      const principal = `user:${user.meta!.id}`;
      for (const [scope, role] of Object.entries(bindings)) {
        await root.roles.createBinding({ scope, role, principal });
      }
      const { accessToken } = await first.as("").tokens.login({ org, user: name, password });
      return { ...first.as(accessToken), principal };
    },
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

function recorder(lines: string[]): Logger {
  const line = (level: string) => (message: string, fields: unknown = {}) =>
    void lines.push(`${level} ${message} ${Deno.inspect(fields, { depth: 10 })}`);
  const log: Logger = {
    debug: line("debug"),
    info: line("info"),
    warn: line("warn"),
    error: line("error"),
    child: () => log,
  };
  return log;
}
