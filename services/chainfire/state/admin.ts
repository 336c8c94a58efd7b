import { unreachable } from "@ultracloud/base";
import type { CommandResult } from "../domain/types.ts";
import type { AdminCommand } from "./admin_codec.ts";
import type { HashChecks } from "./hash_checks.ts";
import type { Quotas } from "./quotas.ts";
import type { Counters } from "./schema.ts";
import type { Sessions } from "./sessions.ts";
import type { Alarms, Members } from "./small_tables.ts";

/** The parts of the state that are not keys and leases. */
export interface AdminState {
  readonly counters: Counters;
  readonly sessions: Sessions;
  readonly quotas: Quotas;
  readonly alarms: Alarms;
  readonly members: Members;
  readonly checks: HashChecks;
  /** Called at a check with its number: members note their hash there. */
  readonly onHashCheck: (check: number) => void;
  /** Called after a member came, went or moved. */
  readonly onMembers: () => void;
}

/** Applies a command that changes no key; it rejects before it writes. */
export function applyAdmin(state: AdminState, command: AdminCommand): CommandResult {
  const { counters, sessions, quotas, alarms, members, checks } = state;
  const done: CommandResult = { kind: "revision", revision: counters.revision };
  switch (command.kind) {
    case "open_session":
      return { kind: "session", revision: counters.revision, id: sessions.open(command.caller) };
    case "close_session":
      sessions.close(command.caller, command.id);
      return done;
    case "set_quota":
      quotas.set(command.quota);
      return done;
    case "delete_quota":
      quotas.delete(command.namespace);
      return done;
    case "raise_alarm":
      alarms.raise(command.alarm);
      return done;
    case "clear_alarm":
      alarms.clear(command.alarm);
      return done;
    case "add_member":
      members.add(command.member);
      state.onMembers();
      return done;
    case "update_member":
      members.update(command.member);
      state.onMembers();
      return done;
    case "remove_member":
      members.remove(command.id);
      for (const alarm of alarms.list()) if (alarm.member === command.id) alarms.clear(alarm);
      state.onMembers();
      return done;
    case "await_promotion":
      members.awaitPromotion(command.id);
      return done;
    case "check_hash":
      state.onHashCheck(checks.begin());
      return done;
    case "report_hash": {
      const ids = [...members.all().keys()];
      for (const member of checks.report(command.member, command.check, command.hash, ids)) {
        alarms.raise({ member, type: "corrupt" });
      }
      return done;
    }
    default:
      return unreachable(command);
  }
}
