import { buildRouteMap } from "@stricli/core";
import { fault } from "@ultracloud/base";
import { type Org, OrgSchema, OrgService, type Project, ProjectSchema, ProjectService } from "@ultracloud/proto/iam/v1";
import type { Column } from "../frame/columns.ts";
import { command, text } from "../frame/command.ts";
import type { Session } from "../frame/session.ts";
import { labelFlag, labelsOf, metaColumns, pages } from "./_shared.ts";

const orgColumns: readonly Column<Org>[] = [...metaColumns<Org>(), { name: "display_name", get: (o) => o.displayName }];
const projectColumns: readonly Column<Project>[] = [
  { name: "project", get: (p) => `${p.meta?.project}/${p.meta?.name}` },
  ...metaColumns<Project>().slice(1),
  { name: "display_name", get: (p) => p.displayName, wide: true },
];

/** Organisations the caller sees, for the shell. */
async function orgNames(session: Session): Promise<readonly string[]> {
  const client = session.client(OrgService, "iam");
  return (await pages((page) => client.listOrgs({ page }), (r) => r.orgs)).map((o) => o.meta?.name ?? "");
}

/** What an update changes: the flags that were given. */
function changed({ displayName, label }: { displayName?: string; label?: readonly string[] }) {
  const paths = [...(displayName === undefined ? [] : ["displayName"]), ...(label === undefined ? [] : ["labels"])];
  if (paths.length === 0) {
    throw fault("invalid_argument", "usage", "Cannot change nothing: wanted --display-name or --label");
  }
  return { value: { displayName: displayName ?? "", meta: { labels: labelsOf(label) } }, updateMask: { paths } };
}

const orgArg = [{ brief: "Organisation, name or id", placeholder: "org" }] as const;

export const org = buildRouteMap({
  docs: { brief: "Organisations" },
  routes: {
    list: command({
      brief: "List organisations",
      async run({ session, list }) {
        const client = session.client(OrgService, "iam");
        await list(OrgSchema, await pages((page) => client.listOrgs({ page }), (r) => r.orgs), orgColumns);
      },
    }),
    create: command<{ displayName?: string; label?: readonly string[] }, [string]>({
      brief: "Create an organisation",
      args: orgArg,
      flags: {
        displayName: { kind: "parsed", parse: text, optional: true, brief: "Name for people" },
        label: labelFlag,
      },
      async run({ session, one }, flags, name) {
        const client = session.client(OrgService, "iam");
        await one(
          OrgSchema,
          await client.createOrg({ name, displayName: flags.displayName ?? "", labels: labelsOf(flags.label) }),
          orgColumns,
        );
      },
    }),
    show: command<Record<never, never>, [string]>({
      brief: "Show an organisation",
      args: orgArg,
      complete: orgNames,
      async run({ session, one }, _flags, name) {
        await one(OrgSchema, await session.client(OrgService, "iam").getOrg({ org: name }), orgColumns);
      },
    }),
    update: command<{ displayName?: string; label?: readonly string[] }, [string]>({
      brief: "Change an organisation's name for people or its labels; all labels are replaced",
      args: orgArg,
      complete: orgNames,
      flags: {
        displayName: { kind: "parsed", parse: text, optional: true, brief: "Name for people" },
        label: labelFlag,
      },
      async run({ session, one }, flags, org) {
        const client = session.client(OrgService, "iam");
        await one(OrgSchema, await client.updateOrg({ org, ...changed(flags) }), orgColumns);
      },
    }),
    delete: command<Record<never, never>, [string]>({
      brief: "Delete an empty organisation",
      args: orgArg,
      complete: orgNames,
      async run({ session, confirm, io }, _flags, name) {
        confirm(`Delete the organisation ${name}?`);
        await session.client(OrgService, "iam").deleteOrg({ org: name });
        io.err(`Deleted organisation ${name}\n`);
      },
    }),
  },
});

const projectArg = [{ brief: "org/name", placeholder: "project" }] as const;

function splitProject(full: string): { org: string; name: string } {
  const [org, name, more] = full.split("/");
  if (!org || !name || more !== undefined) {
    throw fault(
      "invalid_argument",
      "invalid_project",
      `Cannot use ${JSON.stringify(full)} as a project: wanted org/name`,
    );
  }
  return { org, name };
}

/** Projects of an organisation, or of every one that the caller sees. */
async function projectsOf(session: Session, org?: string): Promise<Project[]> {
  const client = session.client(ProjectService, "iam");
  const all: Project[] = [];
  for (const name of org === undefined ? await orgNames(session) : [org]) {
    all.push(...await pages((page) => client.listProjects({ org: name, page }), (r) => r.projects));
  }
  return all;
}

const projectNames = async (session: Session) =>
  (await projectsOf(session)).map((p) => `${p.meta?.project}/${p.meta?.name}`);

export const project = buildRouteMap({
  docs: { brief: "Projects" },
  routes: {
    list: command<{ org?: string }, []>({
      brief: "List projects, of every organisation you see unless --org is given",
      flags: { org: { kind: "parsed", parse: text, optional: true, brief: "Only of this organisation" } },
      async run({ session, list }, flags) {
        await list(ProjectSchema, await projectsOf(session, flags.org), projectColumns);
      },
    }),
    create: command<{ displayName?: string; label?: readonly string[] }, [string]>({
      brief: "Create a project",
      args: projectArg,
      flags: {
        displayName: { kind: "parsed", parse: text, optional: true, brief: "Name for people" },
        label: labelFlag,
      },
      async run({ session, one }, flags, full) {
        const value = await session.client(ProjectService, "iam").createProject({
          ...splitProject(full),
          displayName: flags.displayName ?? "",
          labels: labelsOf(flags.label),
        });
        await one(ProjectSchema, value, projectColumns);
      },
    }),
    show: command<Record<never, never>, [string]>({
      brief: "Show a project",
      args: projectArg,
      complete: projectNames,
      async run({ session, one }, _flags, full) {
        await one(
          ProjectSchema,
          await session.client(ProjectService, "iam").getProject({ project: full }),
          projectColumns,
        );
      },
    }),
    update: command<{ displayName?: string; label?: readonly string[] }, [string]>({
      brief: "Change a project's name for people or its labels; all labels are replaced",
      args: projectArg,
      complete: projectNames,
      flags: {
        displayName: { kind: "parsed", parse: text, optional: true, brief: "Name for people" },
        label: labelFlag,
      },
      async run({ session, one }, flags, project) {
        const client = session.client(ProjectService, "iam");
        await one(ProjectSchema, await client.updateProject({ project, ...changed(flags) }), projectColumns);
      },
    }),
    delete: command<Record<never, never>, [string]>({
      brief: "Delete an empty project",
      args: projectArg,
      complete: projectNames,
      async run({ session, confirm, io }, _flags, full) {
        confirm(`Delete the project ${full}?`);
        await session.client(ProjectService, "iam").deleteProject({ project: full });
        io.err(`Deleted project ${full}\n`);
      },
    }),
  },
});
