import type { Clock, Disk, Rng } from "@ultracloud/base";
import type { Health, Logger, Registry } from "@ultracloud/observe";
import { openReplicaNode, type PeerTransport } from "@ultracloud/replica";
import type { Authenticator, Authorizer, BoundService } from "@ultracloud/rpc";
import type { MemberConfig } from "./config.ts";
import { backupService } from "./backup_service.ts";
import { deliveryService } from "./delivery_service.ts";
import { databaseService } from "./database_service.ts";
import { Databases } from "./databases.ts";
import { kvService } from "./kv_service.ts";
import { restApi } from "./rest.ts";
import { type SqlOptions, sqlService } from "./sql_service.ts";
import { Transactions } from "./transactions.ts";
import { webhookService } from "./webhook_service.ts";
import type { WebhookPolicy } from "./domain/webhook_requests.ts";

export interface FlaredbOptions {
  readonly version: string;
  readonly clusterId: string;
  readonly stateDir: string;
  readonly memberId: number;
  /** Founding voters; empty for a replica that decides alone. */
  readonly members: readonly MemberConfig[];
  readonly tickMs: number;
  readonly electionTicks: number;
  readonly heartbeatTicks: number;
  readonly sql: SqlOptions;
  readonly webhooks: WebhookPolicy;
}

export interface FlaredbDeps {
  readonly disk: Disk;
  readonly clock: Clock;
  readonly rng: Rng;
  readonly log: Logger;
  readonly registry: Registry;
  readonly health: Health;
  readonly authenticator: Authenticator;
  readonly authorizer: Authorizer;
  /** Absent when there is one replica only. */
  readonly transport?: PeerTransport | undefined;
  /** The disk or the logic is broken: end the process at once. */
  readonly onFatal: (error: Error) => void;
}

/** A replica of every database; disposing it makes what was applied durable and closes the files. */
export interface Flaredb extends AsyncDisposable {
  readonly services: readonly BoundService[];
  /** What the other replicas call, for the peer listener. */
  readonly peerService: BoundService;
  /** REST under /api/v1/; undefined for any other path. */
  readonly http: (request: Request) => Promise<Response> | undefined;
}

/** Opens the log, the catalog and every database in it. */
export async function createFlaredb(options: FlaredbOptions, deps: FlaredbDeps): Promise<Flaredb> {
  const { memberId, members, stateDir, version } = options;
  const clientUrls = Object.fromEntries(members.map((member) => [member.id, member.clientUrl]));
  const node = openReplicaNode({ ...options, nodeId: memberId, dir: stateDir, clientUrls }, deps);
  const voters = members.length === 0 ? [memberId] : members.map((member) => member.id);
  let databases: Databases;
  try {
    databases = await Databases.open({ stateDir, memberId, voters, clientUrls }, { ...deps, node });
  } catch (error) {
    await node[Symbol.asyncDispose]();
    throw error;
  }
  const transactions = new Transactions({ ...deps, databases });
  const served = { ...deps, databases, transactions };
  return {
    services: [
      databaseService({ version, nodeId: memberId, members: voters }, served),
      kvService(served),
      sqlService(options.sql, served),
      backupService({ ...served, stateDir }),
      webhookService(options.webhooks, served),
      deliveryService(served),
    ],
    peerService: node.peerService,
    http: restApi(options.sql, served),
    [Symbol.asyncDispose]: () => databases[Symbol.asyncDispose](),
  };
}
