import { buildRouteMap } from "@stricli/core";
import { fault } from "@ultracloud/base";
import {
  AlarmAction,
  AlarmType,
  ClusterService,
  type HashKvResponse,
  MaintenanceService,
  type StatusResponse,
} from "@ultracloud/proto/chainfire/v1";
import { type Column, enumName, humanBytes } from "../frame/columns.ts";
import { command } from "../frame/command.ts";
import { parseRevision } from "./_kv_bytes.ts";
import { everyMember, leading, type Told } from "./_members.ts";
import { backup, restore } from "./cluster_backup.ts";
import { member } from "./cluster_member.ts";

interface Status extends Told {
  readonly leader: boolean;
  readonly learner: boolean;
  readonly version: string;
  readonly term: string;
  readonly revision: string;
  readonly appliedIndex: string;
  readonly dbBytes: string;
  readonly dbBytesInUse: string;
  readonly errors: readonly string[];
}

const statusColumns: readonly Column<Status>[] = [
  { name: "id", get: (s) => s.id, order: (s) => Number(s.id) },
  { name: "name", get: (s) => s.name },
  { name: "role", get: (s) => s.failure ? "" : s.leader ? "leader" : s.learner ? "learner" : "follower" },
  { name: "revision", get: (s) => s.revision, order: (s) => Number(s.revision) },
  { name: "applied", get: (s) => s.appliedIndex, order: (s) => Number(s.appliedIndex) },
  { name: "size", get: (s) => s.failure ? "" : humanBytes(Number(s.dbBytes)), order: (s) => Number(s.dbBytes) },
  { name: "errors", get: (s) => s.failure ?? s.errors.join("; ") },
  { name: "url", get: (s) => s.clientUrl, wide: true },
  { name: "term", get: (s) => s.term, wide: true },
  { name: "version", get: (s) => s.version, wide: true },
];

function statusOf(told: Told, status: StatusResponse | undefined): Status {
  return {
    ...told,
    leader: status !== undefined && status.leader === status.header?.memberId,
    learner: status?.isLearner ?? false,
    version: status?.version ?? "",
    term: String(status?.header?.raftTerm ?? ""),
    revision: String(status?.header?.revision ?? ""),
    appliedIndex: String(status?.appliedIndex ?? ""),
    dbBytes: String(status?.dbBytes ?? ""),
    dbBytesInUse: String(status?.dbBytesInUse ?? ""),
    errors: status?.errors ?? [],
  };
}

const status = command({
  brief: "How each member of the coordination store is doing",
  async run(run) {
    const all = await everyMember(run, ClusterService, (client) => client.status({}));
    const values = all.map(({ told, answer }) => statusOf(told, answer));
    await run.items(values.map((value) => ({ value, json: value, name: value.name })), statusColumns);
    if (values.some((value) => value.failure !== undefined)) {
      throw fault("unavailable", "members_unreachable", "Cannot reach every member: see the errors above");
    }
  },
});

interface Hash extends Told {
  readonly hash: string;
  readonly hashRevision: string;
  readonly compactRevision: string;
}
const hashColumns: readonly Column<Hash>[] = [
  { name: "id", get: (h) => h.id, order: (h) => Number(h.id) },
  { name: "name", get: (h) => h.name },
  { name: "hash", get: (h) => h.failure ?? h.hash },
  { name: "revision", get: (h) => h.hashRevision },
  { name: "from", get: (h) => h.compactRevision },
];

const hash = command<{ revision?: bigint }, []>({
  brief: "Hash of the keys on each member, which must be the same",
  flags: {
    revision: {
      kind: "parsed",
      parse: parseRevision,
      optional: true,
      brief: "As of this revision; without it the newest",
    },
  },
  async run(run, flags) {
    // One revision for all: each would hash its own newest, and differ while somebody writes.
    const own = run.session.client(MaintenanceService, "chainfire");
    const revision = flags.revision ?? (await own.hashKv({})).hashRevision;
    const all = await everyMember(run, MaintenanceService, (client) => client.hashKv({ revision }));
    const values = all.map(({ told, answer }) => hashOf(told, answer));
    await run.items(values.map((value) => ({ value, json: value, name: value.name })), hashColumns);
    // Members may have compacted differently far for a moment: only hashes from the same revision on say something.
    const seen = new Map<string, string>();
    for (const { failure, hash, compactRevision } of values) {
      if (failure !== undefined) {
        throw fault("unavailable", "members_unreachable", "Cannot reach every member: see above");
      }
      if ((seen.get(compactRevision) ?? hash) !== hash) {
        throw fault("data_loss", "hash_mismatch", `Cannot trust the members: they differ at revision ${revision}`);
      }
      seen.set(compactRevision, hash);
    }
    if (seen.size > 1) run.io.err("Some members have compacted further: repeat the command to compare them too\n");
  },
});

function hashOf(told: Told, answer: HashKvResponse | undefined): Hash {
  return {
    ...told,
    hash: answer === undefined ? "" : answer.hash.toString(16).padStart(8, "0"),
    hashRevision: String(answer?.hashRevision ?? ""),
    compactRevision: String(answer?.compactRevision ?? ""),
  };
}

interface Alarm {
  readonly memberId: string;
  readonly type: string;
}
const alarmColumns: readonly Column<Alarm>[] = [
  { name: "member", get: (a) => a.memberId },
  { name: "alarm", get: (a) => a.type },
];
const alarmItem = ({ memberId, type }: { readonly memberId: bigint; readonly type: AlarmType }) => {
  const value: Alarm = { memberId: String(memberId), type: enumName(AlarmType, type) };
  return { value, json: value, name: value.type };
};

const alarm = buildRouteMap({
  docs: { brief: "Alarms: no space left, a member that differs" },
  routes: {
    list: command({
      brief: "List alarms that are raised",
      async run({ session, items, io, flags }) {
        const client = session.client(MaintenanceService, "chainfire");
        const { alarms } = await client.alarm({ action: AlarmAction.GET });
        const table = flags.output === "table" || flags.output === "wide";
        if (alarms.length === 0 && table) return io.err("No alarms.\n");
        await items(alarms.map(alarmItem), alarmColumns);
      },
    }),
    disarm: command<Record<never, never>, []>({
      brief: "Take every alarm back, once its cause is gone",
      async run(run) {
        const { items, io, confirm } = run;
        confirm("Take every alarm back?");
        const client = await leading(run, MaintenanceService);
        const { alarms } = await client.alarm({ action: AlarmAction.DEACTIVATE });
        if (alarms.length > 0) await items(alarms.map(alarmItem), alarmColumns);
        io.err(`Took ${alarms.length} alarms back\n`);
      },
    }),
  },
});

export const cluster = buildRouteMap({
  docs: { brief: "The coordination store: members, health, backups" },
  routes: { status, member, hash, alarm, backup, restore },
});
