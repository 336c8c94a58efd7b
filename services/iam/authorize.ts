import { checkPermission } from "@ultracloud/authz";
import { fault, invalidField } from "@ultracloud/base";
import { AuthorizeService, PolicyService } from "@ultracloud/proto/iam/v1";
import { bind, type BoundService, type Principal } from "@ultracloud/rpc";
import { checkAttributes } from "./conditions.ts";
import type { Core } from "./core.ts";
import { parseScope } from "./domain/scope.ts";

/** Questions in one batch: some milliseconds of work. */
const questionsMax = 1_000;
/** GetPolicySnapshot holds a call no longer, so that a dead connection is noticed. */
const pollWaitMsMax = 30_000;

interface Question {
  readonly principal: string;
  readonly action: string;
  readonly scope: string;
  readonly context: Readonly<Record<string, string>>;
}

export function authorizeService({ policy, access, clock }: Core): BoundService {
  const answer = async (caller: Principal, question: Question, field = "") => {
    const { principal, action } = question;
    checkPermission(action, `${field}action`);
    const scope = parseScope(question.scope, `${field}scope`).text;
    // Of oneself anyone may ask; of others, who may look into decisions there.
    if (principal !== caller.id && !await access.allowed(caller, "iam.decision.explain", scope)) {
      throw fault(
        "permission_denied",
        "permission_denied",
        `Cannot explain decisions about ${JSON.stringify(principal.slice(0, 80))} at ${
          scope || "the root"
        }: not allowed`,
        { metadata: { permission: "iam.decision.explain" } },
      );
    }
    const index = policy.present();
    const attributes = checkAttributes(question.context, `${field}context`);
    const decision = index.evaluate(principal, action, scope, { nowMs: clock.nowMs(), attributes });
    return {
      allowed: decision.allow,
      bindingId: decision.bindingId ?? "",
      reason: decision.reason,
      policyVersion: BigInt(index.snapshot.version),
    };
  };
  return bind(AuthorizeService, {
    authorize: (request, { principal }) => answer(principal, request),
    async batchAuthorize({ requests }, { principal }) {
      if (requests.length > questionsMax) {
        throw invalidField("requests", `Cannot decide ${requests.length} at once: wanted at most ${questionsMax}`);
      }
      const responses = [];
      for (const [i, request] of requests.entries()) {
        responses.push(await answer(principal, request, `requests.${i}.`));
      }
      return { responses };
    },
  }, {
    authorize: { authenticated: "of oneself anyone may ask; the handler asks for iam.decision.explain otherwise" },
    batchAuthorize: { authenticated: "as authorize, for each request" },
  });
}

export function policyService({ policy }: Core): BoundService {
  return bind(PolicyService, {
    async getPolicySnapshot(request, { principal, signal }) {
      if (principal.kind !== "workload") {
        throw fault(
          "permission_denied",
          "workloads_only",
          "Cannot hand out the whole policy: wanted a component of the cluster",
        );
      }
      const { waitMs } = request;
      if (waitMs < 0 || waitMs > pollWaitMsMax) {
        throw invalidField("waitMs", `Cannot wait ${waitMs} ms: wanted 0 to ${pollWaitMsMax}`);
      }
      const newer = await policy.newerThan(Number(request.afterVersion), waitMs, signal);
      return newer
        ? { version: BigInt(newer.version), snapshotJws: newer.jws }
        : { version: BigInt(policy.version), snapshotJws: "" };
    },
  }, {
    getPolicySnapshot: { resource: "policy", action: "get", scope: () => "" },
  });
}
