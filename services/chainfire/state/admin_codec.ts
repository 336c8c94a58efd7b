import { unreachable } from "@ultracloud/base";
import type { AlarmType, Command, RangeOp } from "../domain/types.ts";
import type { Reader, Writer } from "./bytes.ts";

// Order is the encoding: append only.
export const adminKinds = [
  "open_session",
  "close_session",
  "set_quota",
  "delete_quota",
  "raise_alarm",
  "clear_alarm",
  "add_member",
  "update_member",
  "remove_member",
  "check_hash",
  "report_hash",
  "await_promotion",
] as const;
const alarmTypes: readonly AlarmType[] = ["no_space", "corrupt"];

export type AdminKind = typeof adminKinds[number];
/** What is not about keys and leases: sessions, quotas, alarms, members, hashes. */
export type AdminCommand = Extract<Command, { kind: AdminKind }>;

const kinds: ReadonlySet<string> = new Set(adminKinds);

export function isAdminKind(kind: string): kind is AdminKind {
  return kinds.has(kind);
}

export function isAdmin(command: Command | RangeOp): command is AdminCommand {
  return kinds.has(command.kind);
}

export function writeAdmin(w: Writer, command: AdminCommand): void {
  switch (command.kind) {
    case "open_session":
      return void w.text(command.caller);
    case "close_session":
      return void w.text(command.caller).uint64(command.id);
    case "set_quota": {
      const { namespace, bytesMax, keysMax, leasesMax, watchesMax, writesPerSecondMax } = command.quota;
      return void w.bytes(namespace).uint(bytesMax).uint(keysMax).uint(leasesMax).uint(watchesMax)
        .uint(writesPerSecondMax);
    }
    case "delete_quota":
      return void w.bytes(command.namespace);
    case "raise_alarm":
    case "clear_alarm":
      return void w.uint(command.alarm.member).byte(alarmTypes.indexOf(command.alarm.type));
    case "add_member":
    case "update_member": {
      const { id, name, peerUrl, clientUrl } = command.member;
      return void w.uint(id).text(name).text(peerUrl).text(clientUrl);
    }
    case "remove_member":
    case "await_promotion":
      return void w.uint(command.id);
    case "check_hash":
      return;
    case "report_hash":
      return void w.uint(command.member).uint(command.check).uint(command.hash);
    default:
      unreachable(command);
  }
}

export function readAdmin(r: Reader, kind: AdminKind): AdminCommand {
  switch (kind) {
    case "open_session":
      return { kind, caller: r.text() };
    case "close_session":
      return { kind, caller: r.text(), id: r.uint64() };
    case "set_quota":
      return {
        kind,
        quota: {
          // Kept in memory for long: a copy, so that it does not hold the whole entry.
          namespace: r.bytes().slice(),
          bytesMax: r.uint(),
          keysMax: r.uint(),
          leasesMax: r.uint(),
          watchesMax: r.uint(),
          writesPerSecondMax: r.uint(),
        },
      };
    case "delete_quota":
      return { kind, namespace: r.bytes() };
    case "raise_alarm":
    case "clear_alarm":
      return { kind, alarm: { member: r.uint(), type: alarmTypes[r.byte()]! } };
    case "add_member":
    case "update_member":
      return { kind, member: { id: r.uint(), name: r.text(), peerUrl: r.text(), clientUrl: r.text() } };
    case "remove_member":
    case "await_promotion":
      return { kind, id: r.uint() };
    case "check_hash":
      return { kind };
    case "report_hash":
      return { kind, member: r.uint(), check: r.uint(), hash: r.uint() };
    default:
      return unreachable(kind);
  }
}
