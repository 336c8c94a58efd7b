import { fault, isId } from "@ultracloud/base";
import { TokenService } from "@ultracloud/proto/iam/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import type { Core } from "./core.ts";
import { changePolicy } from "./core.ts";
import { orgOrRootScope } from "./domain/scope.ts";
import { accountKind, orgKind, userKind } from "./kinds.ts";
import type { Logins } from "./logins.ts";
import { toBinding } from "./wire.ts";

export function tokenService(core: Core, by: Logins): BoundService {
  const { platform, tokens, policy } = core;
  /** Name of a user or service account for people; undefined when it is gone. */
  const named = async (principal: string) => {
    const [kind, id] = split(principal);
    if (kind === "user") return await platform.findById(userKind, id);
    if (kind === "service_account") return await platform.findById(accountKind, id);
    return undefined;
  };
  return bind(TokenService, {
    login: (request) => by.password(request),
    refresh: (request) => tokens.refresh(request.refreshToken),
    exchangeApiKey: (request) => by.apiKey(request),
    bootstrapToken: (request) => by.bootstrap(request.adminToken),
    async revokeTokens(request) {
      const org = request.org === "" ? "" : (await platform.get(orgKind, "", request.org)).name;
      const record = await named(request.principal);
      const mine = record !== undefined && (record.project === org || record.project.startsWith(`${org}/`));
      if (!mine) {
        throw fault(
          "not_found",
          "principal_not_found",
          `Cannot revoke tokens of ${JSON.stringify(request.principal.slice(0, 80))} as it is not in ${
            org === "" ? "the root" : org
          }`,
          { field: "principal" },
        );
      }
      await changePolicy(core, (tx) => Promise.resolve(tokens.revoke(tx, request.principal)));
      await policy.refresh();
      return { policyVersion: BigInt(policy.version) };
    },
    async whoAmI(_request, { principal }) {
      const record = await named(principal.id);
      return {
        principal: principal.id,
        displayName: record === undefined
          ? principal.id
          : record.project === ""
          ? record.name
          : `${record.project}/${record.name}`,
        bindings: policy.present().bindingsOf(principal.id).map((b) =>
          toBinding({ ...b, conditions: b.conditions ?? [] })
        ),
      };
    },
  }, {
    login: { public: "it is how a person comes to a token" },
    refresh: { public: "the refresh token is the credential" },
    exchangeApiKey: { public: "the API key is the credential" },
    bootstrapToken: { public: "the admin token is the credential" },
    revokeTokens: { resource: "token", action: "revoke", scope: (r) => orgOrRootScope(r.org) },
    whoAmI: { authenticated: "tells callers only about themselves" },
  });
}

function split(principal: string): [kind: string, id: string] {
  const colon = principal.indexOf(":");
  const [kind, id] = [principal.slice(0, colon), principal.slice(colon + 1)];
  return isId("usr", id) || isId("sa", id) ? [kind, id] : ["", ""];
}
