import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import {
  CreateDatabaseRequestSchema,
  type Database,
  DatabaseService,
  DatabaseSettingsSchema,
  DeleteDatabaseRequestSchema,
  PlaceDatabaseRequestSchema,
} from "@ultracloud/proto/flaredb/v1";
import { invalidField } from "@ultracloud/base";
import { bind, type BoundService } from "@ultracloud/rpc";
import { checkDatabase, databaseNotFound } from "./domain/names.ts";
import { entryKinds } from "./domain/log_entry.ts";
import type { Databases } from "./databases.ts";
import { type CatalogRow, holds } from "./state/catalog_machine.ts";

/** Scope of a database: its name, so that a grant names exactly the database it is for. */
export function databaseScope(name: string, field = "database"): string {
  return checkDatabase(name, field);
}

const replicasDefault = 3;
/** More voters make every write slower and nothing safer. */
const replicasMax = 7;
/** Each is one more copy that the leader feeds. */
const learnersMax = 7;

/** Creates, lists and deletes databases, and says how their groups are. */
export function databaseService(
  options: { readonly version: string; readonly nodeId: number; readonly members: readonly number[] },
  deps: { readonly databases: Databases },
): BoundService {
  const { databases } = deps;
  const toMessage = (row: CatalogRow) => {
    const machine = databases.opened().find((opened) => opened.row.group === row.group)?.machine;
    return {
      name: row.name,
      createTime: timestampFromMs(row.createMs),
      replicas: row.replicas.map(BigInt),
      learners: row.learners.map(BigInt),
      placed: row.placed,
      appliedIndex: BigInt(machine?.appliedIndex() ?? 0),
      bytes: BigInt(machine?.bytes() ?? 0),
      settings: {
        capture: machine?.parts.rowChanges.capturing ?? false,
        archive: machine?.parts.archive.on ?? false,
      },
    };
  };
  const known = new Set(options.members);
  const checkMembers = (replicas: readonly bigint[]): bigint[] => {
    const ids = new Set(replicas.map(Number));
    if (
      ids.size === replicas.length && ids.size > 0 && ids.size <= replicasMax && [...ids].every((id) => known.has(id))
    ) {
      return [...replicas];
    }
    throw invalidField(
      "replicas",
      `Cannot place a database on [${
        replicas.slice(0, 10)
      }]: wanted 1 to ${replicasMax} different ones of ${options.members}`,
    );
  };
  /** Members that hold a copy for reading, none of which votes too. */
  const checkLearners = (learners: readonly bigint[], replicas: readonly bigint[]): bigint[] => {
    const ids = new Set(learners.map(Number));
    const apart = replicas.every((id) => !ids.has(Number(id)));
    if (ids.size === learners.length && ids.size <= learnersMax && apart && [...ids].every((id) => known.has(id))) {
      return [...learners];
    }
    throw invalidField(
      "learners",
      `Cannot place learners on [${learners.slice(0, 10)}] beside replicas on [${
        replicas.slice(0, 10)
      }]: wanted at most ${learnersMax} others of ${options.members}`,
    );
  };
  /** Up to three members, another first one for each name. */
  const chosenMembers = (name: string): bigint[] => {
    const { members } = options;
    const first = [...name].reduce((sum, char) => (sum * 31 + char.charCodeAt(0)) >>> 0, 0) % members.length;
    const count = Math.min(members.length, replicasDefault);
    return Array.from({ length: count }, (_, i) => BigInt(members[(first + i) % members.length]!));
  };
  const scope = (request: { readonly name: string }) => databaseScope(request.name, "name");

  return bind(DatabaseService, {
    async createDatabase(request, context) {
      // Most callers ask at every start whether it is there: that needs no entry, only a current catalog.
      if (request.ifNotExists && context.idempotencyKey === undefined) {
        await databases.system.readBarrier();
        const present = databases.catalog.find(request.name);
        if (present !== undefined) {
          if (holds(present, options.nodeId)) await databases.findAny(request.name);
          return toMessage(present);
        }
      }
      // The same wherever it is asked, so that a repeated request is the same request.
      const replicas = request.replicas.length > 0 ? checkMembers(request.replicas) : chosenMembers(request.name);
      const learners = checkLearners(request.learners, replicas);
      const { entry, schema } = { entry: entryKinds.createDatabase, schema: CreateDatabaseRequestSchema };
      const wanted = { ...request, replicas, learners };
      const created = await databases.changeCatalog(entry, schema, wanted, context) as Database;
      await databases.waitForLeader(request.name, context.signal);
      const row = databases.catalog.find(request.name);
      return row === undefined ? created : toMessage(row);
    },
    async getDatabase({ name }) {
      await databases.system.readBarrier();
      const row = databases.catalog.find(name);
      if (row === undefined) throw databaseNotFound(name);
      return toMessage(row);
    },
    async listDatabases() {
      await databases.system.readBarrier();
      return { databases: databases.catalog.list().map(toMessage) };
    },
    async deleteDatabase(request, context) {
      await databases.changeCatalog(entryKinds.deleteDatabase, DeleteDatabaseRequestSchema, request, context);
      return {};
    },
    async updateDatabase({ name, settings }, context) {
      if (settings === undefined) {
        throw invalidField("settings", "Cannot change a database without settings: wanted capture and archive");
      }
      const opened = await databases.find(name);
      await databases.propose(opened, entryKinds.settings, DatabaseSettingsSchema, settings, context);
      return toMessage(opened.row);
    },
    async placeDatabase(request, context) {
      checkLearners(request.learners, checkMembers(request.replicas));
      const { placeDatabase: kind } = entryKinds;
      await databases.changeCatalog(kind, PlaceDatabaseRequestSchema, request, context);
      return toMessage(databases.catalog.find(request.name)!);
    },
    async transferLeader({ name, member }) {
      const to = Number(checkMembers([member])[0]);
      const opened = await databases.find(name);
      // A hint at the leader for whoever asked another member.
      await databases.leaderOnly(opened);
      if (opened.group.status().leader !== to) opened.group.transferLeader(to);
      return {};
    },
    async checkReplicas({ name }, context) {
      // Whoever differs can still ask, and learn whether it does.
      const checked = await databases.checkReplicas(await databases.findAny(name), context.signal);
      return {
        index: BigInt(checked.index),
        sha256: checked.sha256,
        replicas: checked.replicas.map(({ member, sha256 = "", differs, votes }) => ({
          member: BigInt(member),
          sha256,
          differs,
          learner: !votes,
        })),
      };
    },
    status() {
      const groups = [
        { name: "system", group: databases.system, machine: undefined },
        ...databases.opened().map(({ row, group, machine }) => ({ name: row.name, group, machine })),
      ];
      return {
        version: options.version,
        node: String(options.nodeId),
        groups: groups.map(({ name, group, machine }) => {
          const status = group.status();
          return {
            group: BigInt(status.group),
            database: name,
            leader: BigInt(status.leader),
            term: BigInt(status.term),
            commitIndex: BigInt(status.commitIndex),
            appliedIndex: BigInt(status.appliedIndex),
            voters: status.voters.map(BigInt),
            learners: status.learners.map(BigInt),
            checkedIndex: BigInt(machine?.noted?.index ?? 0),
            checkedSha256: machine?.noted?.sha256 ?? "",
            diverged: machine?.diverged ?? false,
          };
        }),
      };
    },
  }, {
    createDatabase: { resource: "database", action: "create", scope },
    getDatabase: { resource: "database", action: "get", scope },
    listDatabases: { resource: "database", action: "list", scope: () => "" },
    deleteDatabase: { resource: "database", action: "delete", scope },
    placeDatabase: { resource: "database", action: "place", scope },
    transferLeader: { resource: "database", action: "place", scope },
    updateDatabase: { resource: "database", action: "update", scope },
    checkReplicas: { resource: "database", action: "check", scope },
    status: { resource: "database", action: "status", scope: () => "" },
  });
}
