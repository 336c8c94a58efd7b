import { buildRouteMap } from "@stricli/core";
import {
  type Boundary,
  BoundarySchema,
  BoundaryService,
  type Group,
  GroupSchema,
  GroupService,
  type OAuthClient,
  OAuthClientSchema,
  OAuthClientService,
} from "@ultracloud/proto/iam/v1";
import type { Column } from "../frame/columns.ts";
import { command, text } from "../frame/command.ts";
import { one, orgFlag, two } from "./_iam_shared.ts";
import { metaColumns, pages } from "./_shared.ts";

const groupColumns: readonly Column<Group>[] = [...metaColumns<Group>(), {
  name: "members",
  get: (g) => g.members.join(" "),
}];

export const group = buildRouteMap({
  docs: { brief: "Groups of principals; bind them as group:ID" },
  routes: {
    list: command<{ org: string }, []>({
      brief: "List groups",
      flags: { org: orgFlag },
      async run({ session, list }, { org }) {
        const client = session.client(GroupService, "iam");
        await list(GroupSchema, await pages((page) => client.listGroups({ org, page }), (r) => r.groups), groupColumns);
      },
    }),
    show: command<{ org: string }, [string]>({
      brief: "Show a group and its members",
      args: one("Group, name or id", "group"),
      flags: { org: orgFlag },
      async run({ session, one }, { org }, group) {
        await one(GroupSchema, await session.client(GroupService, "iam").getGroup({ org, group }), groupColumns);
      },
    }),
    create: command<{ org: string }, [string]>({
      brief: "Create an empty group",
      args: one("Group", "group"),
      flags: { org: orgFlag },
      async run({ session, one }, { org }, name) {
        await one(GroupSchema, await session.client(GroupService, "iam").createGroup({ org, name }), groupColumns);
      },
    }),
    add: command<{ org: string }, [string, string]>({
      brief: "Put a principal into a group",
      args: two("group", "principal"),
      flags: { org: orgFlag },
      async run({ session, one }, { org }, group, principal) {
        const client = session.client(GroupService, "iam");
        await one(GroupSchema, await client.addGroupMember({ org, group, principal }), groupColumns);
      },
    }),
    remove: command<{ org: string }, [string, string]>({
      brief: "Take a principal out of a group",
      args: two("group", "principal"),
      flags: { org: orgFlag },
      async run({ session, one }, { org }, group, principal) {
        const client = session.client(GroupService, "iam");
        await one(GroupSchema, await client.removeGroupMember({ org, group, principal }), groupColumns);
      },
    }),
    delete: command<{ org: string }, [string]>({
      brief: "Delete a group and its bindings",
      args: one("Group", "group"),
      flags: { org: orgFlag },
      async run({ session, confirm, io }, { org }, group) {
        confirm(`Delete the group ${group} and its bindings?`);
        await session.client(GroupService, "iam").deleteGroup({ org, group });
        io.err(`Deleted group ${group}\n`);
      },
    }),
  },
});

const boundaryColumns: readonly Column<Boundary>[] = [
  { name: "principal", get: (b) => b.principal },
  { name: "permissions", get: (b) => b.permissions.join(" ") },
];

export const boundary = buildRouteMap({
  docs: { brief: "The most a principal may do, whatever it is bound to" },
  routes: {
    list: command<{ org: string }, []>({
      brief: "List permission boundaries",
      flags: { org: orgFlag },
      async run({ session, list }, { org }) {
        const client = session.client(BoundaryService, "iam");
        const boundaries = await pages((page) => client.listBoundaries({ org, page }), (r) => r.boundaries);
        await list(BoundarySchema, boundaries, boundaryColumns);
      },
    }),
    set: command<{ org: string; permission: readonly string[] }, [string]>({
      brief: "Bound a principal",
      args: one("user:ID or service_account:ID", "principal"),
      flags: {
        org: orgFlag,
        permission: { kind: "parsed", parse: text, variadic: true, brief: "service.resource.action, each may be *" },
      },
      async run({ session, one }, { org, permission }, principal) {
        const client = session.client(BoundaryService, "iam");
        await one(
          BoundarySchema,
          await client.setBoundary({ org, principal, permissions: [...permission] }),
          boundaryColumns,
        );
      },
    }),
    delete: command<{ org: string }, [string]>({
      brief: "Remove the boundary of a principal",
      args: one("user:ID or service_account:ID", "principal"),
      flags: { org: orgFlag },
      async run({ session, confirm, io }, { org }, principal) {
        confirm(`Remove the boundary of ${principal}?`);
        await session.client(BoundaryService, "iam").deleteBoundary({ org, principal });
        io.err(`Removed the boundary of ${principal}\n`);
      },
    }),
  },
});

const clientColumns: readonly Column<OAuthClient>[] = [
  ...metaColumns<OAuthClient>(),
  { name: "public", get: (c) => c.public ? "yes" : "no" },
  { name: "redirect_uris", get: (c) => c.redirectUris.join(" ") },
];

export const client = buildRouteMap({
  docs: { brief: "Programs that people log in to through iam" },
  routes: {
    list: command<{ org: string }, []>({
      brief: "List OAuth clients",
      flags: { org: orgFlag },
      async run({ session, list }, { org }) {
        const client = session.client(OAuthClientService, "iam");
        const clients = await pages((page) => client.listOAuthClients({ org, page }), (r) => r.clients);
        await list(OAuthClientSchema, clients, clientColumns);
      },
    }),
    create: command<{ org: string; public: boolean; redirectUri: readonly string[] }, [string]>({
      brief: "Register a program; its secret is shown this once",
      args: one("Client", "client"),
      flags: {
        org: orgFlag,
        public: { kind: "boolean", default: false, brief: "It can keep no secret" },
        redirectUri: { kind: "parsed", parse: text, variadic: true, brief: "Where logins return to, repeatable" },
      },
      async run({ session, items }, flags, name) {
        const answer = await session.client(OAuthClientService, "iam").createOAuthClient({
          org: flags.org,
          name,
          public: flags.public,
          redirectUris: [...flags.redirectUri],
        });
        const value = { id: answer.client?.meta?.id ?? "", secret: answer.secret };
        await items([{ value, json: value, name: value.id }], [
          { name: "client_id", get: (c) => c.id },
          { name: "secret", get: (c) => c.secret || "(public)" },
        ], true);
      },
    }),
    delete: command<{ org: string }, [string]>({
      brief: "Delete an OAuth client",
      args: one("Client", "client"),
      flags: { org: orgFlag },
      async run({ session, confirm, io }, { org }, name) {
        confirm(`Delete the OAuth client ${name}?`);
        await session.client(OAuthClientService, "iam").deleteOAuthClient({ org, client: name });
        io.err(`Deleted OAuth client ${name}\n`);
      },
    }),
  },
});
