import { fault } from "@ultracloud/base";
import { Consistency, KvService } from "@ultracloud/proto/chainfire/v1";
import type { BoundService } from "@ultracloud/rpc";
import type { Member } from "./member.ts";

/**
 * The service behind two questions: a member whose state is damaged answers nothing, and a learner only reads of its
 * own copy that ask for no more.
 */
export function guarded(bound: BoundService, member: Member): BoundService {
  const handlers: Record<string, BoundService["handlers"][string]> = {};
  for (const [name, handler] of Object.entries(bound.handlers)) {
    const local = bound.service.typeName === KvService.typeName && name === "range"
      ? (request: { consistency: Consistency }) => request.consistency === Consistency.SERIALIZABLE
      : () => false;
    // deno-lint-ignore no-explicit-any -- erased by `bind`, which checked it
    handlers[name] = (request: any, context: any) => {
      if (member.isLearner && !local(request)) throw learnerRefusal(member);
      if (member.isCorrupt) throw corruptRefusal(member);
      return handler(request, context);
    };
  }
  return { ...bound, handlers };
}

function learnerRefusal({ options: { memberId } }: Member) {
  return fault("unavailable", "learner", `Cannot do this on member ${memberId} as it is a learner: wanted a voter`, {
    retryAfterMs: 1_000,
  });
}

function corruptRefusal({ options: { memberId } }: Member) {
  return fault(
    "data_loss",
    "corrupt",
    `Cannot serve on member ${memberId}: its state differs from the others', it must be replaced`,
  );
}
