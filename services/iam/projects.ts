import { checkName, checkProject, fault } from "@ultracloud/base";
import { idempotencyOf, maskedFields, notFound, projectScope } from "@ultracloud/platform";
import {
  CreateProjectRequestSchema,
  DeleteProjectRequestSchema,
  DeleteProjectResponseSchema,
  ProjectSchema,
  ProjectService,
  UpdateProjectRequestSchema,
} from "@ultracloud/proto/iam/v1";
import { bind, type BoundService } from "@ultracloud/rpc";
import { changePolicy, type Core, dropBindingsAt } from "./core.ts";
import { orgScope } from "./domain/scope.ts";
import { accountKind, orgKind, projectKind } from "./kinds.ts";
import { checkDisplayName, orgForChild } from "./orgs.ts";
import { toProject, views } from "./wire.ts";

export function projectService(core: Core): BoundService {
  const { platform, access } = core;
  return bind(ProjectService, {
    createProject(request, context) {
      const name = checkName(request.name, "name");
      const displayName = checkDisplayName(request.displayName, "displayName");
      return platform.transact(async (tx) => {
        const org = await orgForChild(tx, request.org);
        return toProject(
          await tx.create(projectKind, { project: org.name, name, labels: request.labels, value: { displayName } }),
        );
      }, { idempotency: idempotencyOf(context, CreateProjectRequestSchema, request, ProjectSchema) });
    },
    async getProject(request) {
      const { org, project } = checkProject(request.project);
      return toProject(await platform.get(projectKind, org, project));
    },
    async listProjects(request, { principal }) {
      const scope = orgScope(request.org);
      const all = await access.allowed(principal, "iam.project.list", scope);
      const seen = new Set<string>();
      if (!all) {
        for (const { binding, permissions } of core.policy.present().grantsOf(principal.id)) {
          const [org, project] = binding.scope.split("/");
          if (!binding.deny && permissions.length > 0 && org === request.org && project !== undefined) {
            seen.add(project);
          }
        }
        // The same answer whether the organisation is not there or not theirs.
        if (seen.size === 0) throw notFound(orgKind, "", request.org);
      }
      const org = await platform.get(orgKind, "", request.org);
      const page = await platform.page(projectKind, {
        project: org.name,
        page: request.page,
        view: views.project,
        where: (project) => all || seen.has(project.name),
      });
      return { projects: page.items.map(toProject), page: { nextPageToken: page.nextPageToken } };
    },
    updateProject(request, context) {
      const { org, project: name } = checkProject(request.project);
      const fields = maskedFields(request.updateMask, ["displayName", "labels"]);
      const displayName = checkDisplayName(request.value?.displayName ?? "", "value.displayName");
      return platform.transact(async (tx) => {
        const project = await tx.get(projectKind, org, name);
        return toProject(tx.update(projectKind, project, {
          etag: request.etag,
          ...(fields.has("displayName") ? { value: { displayName } } : {}),
          ...(fields.has("labels") ? { labels: request.value?.meta?.labels ?? {} } : {}),
        }));
      }, { idempotency: idempotencyOf(context, UpdateProjectRequestSchema, request, ProjectSchema) });
    },
    deleteProject(request, context) {
      const { org, project: name } = checkProject(request.project);
      return changePolicy(core, async (tx) => {
        const project = await tx.get(projectKind, org, name);
        await tx.guard(project.id);
        const account = (await tx.list(accountKind, request.project))[0];
        if (account) {
          throw fault(
            "failed_precondition",
            "project_not_empty",
            `Cannot delete project ${request.project} as service account ${account.name} is in it: wanted none`,
          );
        }
        await dropBindingsAt(tx, request.project);
        tx.remove(projectKind, project, { etag: request.etag });
        return {};
      }, { idempotency: idempotencyOf(context, DeleteProjectRequestSchema, request, DeleteProjectResponseSchema) });
    },
  }, {
    createProject: { resource: "project", action: "create", scope: (r) => orgScope(r.org) },
    getProject: { resource: "project", action: "get", scope: (r) => projectScope(r.project) },
    listProjects: { authenticated: "answers only the projects the caller has something in" },
    updateProject: { resource: "project", action: "update", scope: (r) => projectScope(r.project) },
    deleteProject: { resource: "project", action: "delete", scope: (r) => projectScope(r.project) },
  });
}
