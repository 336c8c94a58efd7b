import { type Clock, fault } from "@ultracloud/base";
import { AlarmAction, AlarmType as WireAlarmType, MaintenanceService } from "@ultracloud/proto/chainfire/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import { createHash } from "node:crypto";
import type { Alarm, AlarmType } from "./domain/types.ts";
import { rejections } from "./errors.ts";
import type { Member } from "./member.ts";
import { backupMagic } from "./state/backup.ts";
import { fromAlarm, toNumber, wire } from "./wire.ts";

const root = () => "";
/** Calls and watches have their turn between two steps. */
const stepPauseMs = 1;
/** Pages given back in one step: a few milliseconds. */
const reclaimPages = 256;
/** A hash that a compaction overtakes begins anew; this often. */
const hashTriesMax = 3;

/** What operators need of one member. */
export function maintenanceService(member: Member, deps: { readonly clock: Clock }): BoundService {
  const { state, header } = member;
  const pause = (signal: AbortSignal) => deps.clock.sleep(stepPauseMs, signal);
  return bind(MaintenanceService, {
    async *snapshot(_request, { signal }) {
      const hash = createHash("sha256");
      const backup = state.backup();
      let left = member.stateBytes.used;
      try {
        const message = (chunk: Uint8Array) => {
          hash.update(chunk);
          left = Math.max(0, left - chunk.length);
          return { header: header(backup.revision), chunk: wire(chunk), remainingBytes: BigInt(left) };
        };
        yield message(backupMagic);
        for (const piece of backup.pieces) {
          signal.throwIfAborted();
          yield message(frame(piece));
          await pause(signal);
        }
        yield message(frame(new Uint8Array(0)));
        const sha256 = new Uint8Array(hash.digest());
        // The digest is also the end of what is to be saved: the file can be checked by itself.
        yield { header: header(backup.revision), chunk: sha256, sha256 };
      } finally {
        backup.end();
      }
    },
    async hashKv(request, { signal }) {
      const revision = toNumber(request.revision);
      for (let tries = 1;; tries++) {
        const work = state.hashKv(revision);
        try {
          for (;;) {
            signal.throwIfAborted();
            const hash = work.step();
            if (hash !== undefined) {
              return {
                header: header(state.revision),
                hash,
                compactRevision: BigInt(work.compactRevision),
                hashRevision: BigInt(work.revision),
              };
            }
            await pause(signal);
          }
        } catch (error) {
          if (revision !== 0 && revision < state.compactRevision) throw error;
          if (state.compactRevision === work.compactRevision || tries >= hashTriesMax) throw error;
        }
      }
    },
    async alarm(request) {
      const id = toNumber(request.memberId);
      const types = toAlarmTypes(request.type);
      if (id !== 0 && !state.members.has(id)) throw rejections.memberNotFound(id);
      const named = (alarm: Alarm) => (id === 0 || alarm.member === id) && types.includes(alarm.type);
      switch (request.action) {
        case AlarmAction.UNSPECIFIED:
        case AlarmAction.GET:
          await member.group.readBarrier();
          return { header: header(state.revision), alarms: state.alarms.filter(named).map(fromAlarm) };
        case AlarmAction.ACTIVATE: {
          if (request.type === WireAlarmType.UNSPECIFIED) {
            throw rejections.fieldInvalid("type", "Cannot raise an alarm without its type: wanted NOSPACE or CORRUPT");
          }
          const whose = id === 0 ? member.options.memberId : id;
          await member.propose({ kind: "raise_alarm", alarm: { member: whose, type: types[0]! } });
          return { header: header(state.revision), alarms: state.alarms.filter(named).map(fromAlarm) };
        }
        case AlarmAction.DEACTIVATE: {
          await member.group.readBarrier();
          const gone = state.alarms.filter(named);
          for (const alarm of gone) await member.propose({ kind: "clear_alarm", alarm });
          return { header: header(state.revision), alarms: gone.map(fromAlarm) };
        }
        default:
          throw rejections.fieldInvalid("action", `Cannot do alarm action ${request.action}: wanted a known one`);
      }
    },
    async reclaim(_request, { signal }) {
      const before = state.bytes();
      if (!state.canReclaim) {
        throw fault(
          "failed_precondition",
          "cannot_reclaim",
          "Cannot give space back as this database was made by an earlier release: replace the member to remake it",
        );
      }
      while (state.reclaim(reclaimPages)) await pause(signal);
      state.checkpoint();
      return {
        header: header(state.revision),
        bytesBefore: BigInt(before.total),
        bytesAfter: BigInt(state.bytes().total),
      };
    },
  }, {
    snapshot: { resource: "maintenance", action: "snapshot", scope: root },
    hashKv: { resource: "maintenance", action: "get", scope: root },
    alarm: { resource: "maintenance", action: "alarm", scope: root },
    reclaim: { resource: "maintenance", action: "reclaim", scope: root },
  });
}

/** A piece with its length before it; the empty one is the end. */
function frame(piece: Uint8Array): Uint8Array {
  const framed = new Uint8Array(4 + piece.length);
  new DataView(framed.buffer).setUint32(0, piece.length, true);
  framed.set(piece, 4);
  return framed;
}

function toAlarmTypes(type: WireAlarmType): readonly AlarmType[] {
  switch (type) {
    case WireAlarmType.UNSPECIFIED:
      return ["no_space", "corrupt"];
    case WireAlarmType.NOSPACE:
      return ["no_space"];
    case WireAlarmType.CORRUPT:
      return ["corrupt"];
    default:
      throw rejections.fieldInvalid("type", `Cannot use ${type} as type: wanted a known alarm`);
  }
}
