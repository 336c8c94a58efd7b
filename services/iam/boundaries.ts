import { scopeCovers } from "@ultracloud/authz";
import { fault, utf8 } from "@ultracloud/base";
import {
  buckets,
  idempotencyOf,
  keyAfter,
  makePageToken,
  pageFilter,
  pageSizeOf,
  readPageToken,
} from "@ultracloud/platform";
import {
  BoundarySchema,
  BoundaryService,
  DeleteBoundaryRequestSchema,
  DeleteBoundaryResponseSchema,
  SetBoundaryRequestSchema,
} from "@ultracloud/proto/iam/v1";
import { bind, type BoundService, type Principal } from "@ultracloud/rpc";
import { changePolicy, type Core, memberOf } from "./core.ts";
import { orgOrRootScope } from "./domain/scope.ts";
import { rowKeys } from "./kinds.ts";
import { checkPermissions } from "./roles.ts";

interface Boundary {
  readonly permissions: readonly string[];
}

export function boundaryService(core: Core): BoundService {
  const { platform, access } = core;
  const present = (org: string, principal: string) =>
    platform.transact((tx) => tx.row<Boundary>(rowKeys.boundary(org, principal)));
  /** Making one takes; changing or lifting one may give, which takes holding all that is given. */
  const requireMay = async (caller: Principal, org: string, principal: string, lifts: boolean) => {
    const near = lifts ? () => true : (scope: string) => !scopeCovers(org, scope);
    await access.requireAllOf(caller, principal, { near });
  };
  const unknown = (org: string, principal: string) =>
    fault(
      "not_found",
      "principal_not_found",
      `Cannot bound ${JSON.stringify(principal.slice(0, 80))} as it is not in ${org || "the root"}`,
      { field: "principal" },
    );
  return bind(BoundaryService, {
    async setBoundary(request, context) {
      const { org, principal } = request;
      const permissions = checkPermissions(request.permissions);
      if (!await platform.transact((tx) => memberOf(tx, org, principal))) throw unknown(org, principal);
      await requireMay(context.principal, org, principal, await present(org, principal) !== undefined);
      return await changePolicy(core, async (tx) => {
        const member = await memberOf(tx, org, principal);
        if (!member) throw unknown(org, principal);
        tx.touch(member.id);
        tx.putRow(rowKeys.boundary(org, principal), { permissions });
        return { principal, permissions };
      }, { idempotency: idempotencyOf(context, SetBoundaryRequestSchema, request, BoundarySchema) });
    },
    async listBoundaries({ org, page }) {
      const prefix = rowKeys.boundary(org);
      const size = pageSizeOf(page);
      const filter = pageFilter(page);
      const question = prefix + filter.question;
      const after = readPageToken(page?.pageToken, question);
      const start = after === undefined ? {} : { start: keyAfter(after) };
      const rows = await platform.kv.scan(buckets.rows, { prefix, limit: size + 1, ...start });
      const read = rows.slice(0, size);
      const boundaries = read.map(({ key, value }) => ({
        principal: key.slice(prefix.length),
        permissions: [...(JSON.parse(utf8.decode(value)) as Boundary).permissions],
      }));
      return {
        boundaries: boundaries.filter((boundary) => filter.matches({}, () => boundary)),
        page: { nextPageToken: rows.length > size ? makePageToken(read.at(-1)!.key, question) : "" },
      };
    },
    async deleteBoundary(request, context) {
      const { org, principal } = request;
      const idempotency = idempotencyOf(context, DeleteBoundaryRequestSchema, request, DeleteBoundaryResponseSchema);
      await requireMay(context.principal, org, principal, true);
      return await changePolicy(core, async (tx) => {
        const row = rowKeys.boundary(org, principal);
        if (!await tx.row(row)) {
          throw fault(
            "not_found",
            "boundary_not_found",
            `Cannot remove a boundary of ${principal.slice(0, 80)}: it has none`,
          );
        }
        tx.deleteRow(row);
        return {};
      }, { idempotency });
    },
  }, {
    setBoundary: { resource: "boundary", action: "set", scope: (r) => orgOrRootScope(r.org) },
    listBoundaries: { resource: "boundary", action: "list", scope: (r) => orgOrRootScope(r.org) },
    deleteBoundary: { resource: "boundary", action: "delete", scope: (r) => orgOrRootScope(r.org) },
  });
}
