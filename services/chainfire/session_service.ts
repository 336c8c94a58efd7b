import { noKeyScope } from "@ultracloud/authz";
import { invalidField } from "@ultracloud/base";
import { SessionService } from "@ultracloud/proto/chainfire/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import { sessionUnansweredMax } from "./domain/limits.ts";
import type { SessionResult } from "./domain/types.ts";
import type { Member } from "./member.ts";

/** A session belongs to who opened it. */
const own = () => noKeyScope;

/** Sessions of clients, under which a repeated write is answered and never done again. */
export function sessionService(member: Member): BoundService {
  const { header } = member;
  return bind(SessionService, {
    async openSession(_request, { principal }) {
      member.checkSpace();
      const result = await member.propose({ kind: "open_session", caller: principal.id }) as SessionResult;
      return { header: header(result.revision), sessionId: result.id, unansweredMax: sessionUnansweredMax };
    },
    async closeSession(request, { principal }) {
      const id = request.sessionId;
      if (id === 0n) throw invalidField("session_id", "Cannot close session 0: wanted one that was opened");
      const result = await member.propose({ kind: "close_session", caller: principal.id, id });
      return { header: header(result.revision) };
    },
  }, {
    openSession: { resource: "session", action: "create", scope: own },
    closeSession: { resource: "session", action: "delete", scope: own },
  });
}
