import { seededRng, systemClock, systemRng } from "@ultracloud/base";
import { Health, noopLogger, Registry } from "@ultracloud/observe";
import { PeerTransport } from "@ultracloud/replica";
import { type Authenticator, type Authorizer, type RpcServer, startRpcServer } from "@ultracloud/rpc";
import { systemDisk } from "@ultracloud/wal";
import { freePort } from "@ultracloud/launch";
import type { MemberConfig } from "./config.ts";
import { createFlaredb, type Flaredb } from "./flaredb.ts";

/** Lets everyone in as the operator; for tests of anything but authorisation. */
export const anyone: { authenticator: Authenticator; authorizer: Authorizer } = {
  authenticator: { authenticate: () => ({ kind: "workload", id: "spiffe://test/svc/operator" }) },
  authorizer: { authorize: () => ({ allow: true }) },
};

export interface Replica extends AsyncDisposable {
  readonly url: string;
  readonly flaredb: Flaredb;
}

/** Members on free ports of loopback, in ids from 1. */
export function makeMembers(count: number): MemberConfig[] {
  return Array.from({ length: count }, (_, i) => ({
    id: i + 1,
    name: `node${i + 1}`,
    peerUrl: `http://127.0.0.1:${freePort()}`,
    clientUrl: `http://127.0.0.1:${freePort()}`,
  }));
}

/** A replica with its listeners; a lone one when there are no members. */
export async function startReplica(
  options: {
    readonly dir: string;
    readonly memberId?: number;
    readonly members?: readonly MemberConfig[];
    readonly backupAgeMsMax?: number;
  },
  auth = anyone,
): Promise<Replica> {
  const { members = [], memberId = 1, dir, backupAgeMsMax = 60_000 } = options;
  const stack = new AsyncDisposableStack();
  const deps = {
    ...auth,
    disk: systemDisk,
    clock: systemClock,
    rng: systemRng,
    log: noopLogger,
    registry: new Registry(),
    health: new Health(),
    onFatal: (error: Error) => {
      throw error;
    },
  };
  const peers = Object.fromEntries(members.filter((m) => m.id !== memberId).map((m) => [m.id, m.peerUrl]));
  const transport = members.length < 2 ? undefined : stack.use(
    new PeerTransport({ clusterId: "test", peers }, {
      ...deps,
      rng: seededRng(memberId),
      authorization: () => "Bearer test",
    }),
  );
  const timing = { tickMs: 10, electionTicks: 20, heartbeatTicks: 2 };
  const sql = { costRowsMax: 1_000_000, queryMsMax: 1_000, backupAgeMsMax };
  const webhooks = { allowPlain: true };
  const named = { version: "0.0.0", clusterId: "test" };
  const flaredb = stack.use(
    await createFlaredb({ ...named, stateDir: dir, memberId, members, sql, webhooks, ...timing }, {
      ...deps,
      transport,
    }),
  );
  const own = members.find((member) => member.id === memberId);
  const serve = async (listen: string, services: Flaredb["services"]): Promise<RpcServer> =>
    stack.use(
      await startRpcServer({ name: "flaredb", version: "0.0.0", listen }, {
        ...deps,
        registry: new Registry(),
        services,
        http: flaredb.http,
      }),
    );
  if (own) await serve(new URL(own.peerUrl).host, [flaredb.peerService]);
  const server = await serve(own ? new URL(own.clientUrl).host : "127.0.0.1:0", flaredb.services);
  return { url: server.url, flaredb, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

/** Waits for a condition, at most a minute: the machine may be busy with others. */
export async function until(what: string, condition: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 60_000;
  while (!await condition()) {
    if (performance.now() > deadline) throw new Error(`Waited too long for ${what}`);
    await systemClock.sleep(5);
  }
}
