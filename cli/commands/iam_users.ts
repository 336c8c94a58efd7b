import { buildRouteMap } from "@stricli/core";
import { type User, UserSchema, UserService } from "@ultracloud/proto/iam/v1";
import type { Column } from "../frame/columns.ts";
import { command, text } from "../frame/command.ts";
import { metaColumns, pages } from "./_shared.ts";

const userColumns: readonly Column<User>[] = [
  ...metaColumns<User>(),
  { name: "email", get: (u) => u.email },
  { name: "state", get: (u) => u.disabled ? "disabled" : "active" },
];

const orgFlag = { kind: "parsed", parse: text, brief: "Organisation" } as const;
const userArg = [{ brief: "User, name or id", placeholder: "user" }] as const;

export const user = buildRouteMap({
  docs: { brief: "Users" },
  routes: {
    list: command<{ org: string }, []>({
      brief: "List users of an organisation",
      flags: { org: orgFlag },
      async run({ session, list }, { org }) {
        const client = session.client(UserService, "iam");
        await list(UserSchema, await pages((page) => client.listUsers({ org, page }), (r) => r.users), userColumns);
      },
    }),
    create: command<{ org: string; email?: string; passwordFile?: string }, [string]>({
      brief: "Create a user",
      args: userArg,
      flags: {
        org: orgFlag,
        email: { kind: "parsed", parse: text, optional: true, brief: "Address" },
        passwordFile: { kind: "parsed", parse: text, optional: true, brief: "File with the first password" },
      },
      async run({ session, one }, flags, name) {
        const password = flags.passwordFile ? (await Deno.readTextFile(flags.passwordFile)).trimEnd() : "";
        const client = session.client(UserService, "iam");
        await one(
          UserSchema,
          await client.createUser({ org: flags.org, name, email: flags.email ?? "", password }),
          userColumns,
        );
      },
    }),
    show: command<{ org: string }, [string]>({
      brief: "Show a user",
      args: userArg,
      flags: { org: orgFlag },
      async run({ session, one }, { org }, user) {
        await one(UserSchema, await session.client(UserService, "iam").getUser({ org, user }), userColumns);
      },
    }),
    disable: command<{ org: string }, [string]>({
      brief: "Disable a user and revoke their tokens",
      args: userArg,
      flags: { org: orgFlag },
      async run({ session, one, confirm }, { org }, user) {
        confirm(`Disable ${user} and revoke every token?`);
        await one(
          UserSchema,
          await session.client(UserService, "iam").setUserDisabled({ org, user, disabled: true }),
          userColumns,
        );
      },
    }),
    enable: command<{ org: string }, [string]>({
      brief: "Enable a user",
      args: userArg,
      flags: { org: orgFlag },
      async run({ session, one }, { org }, user) {
        await one(
          UserSchema,
          await session.client(UserService, "iam").setUserDisabled({ org, user, disabled: false }),
          userColumns,
        );
      },
    }),
    delete: command<{ org: string }, [string]>({
      brief: "Delete a user",
      args: userArg,
      flags: { org: orgFlag },
      async run({ session, confirm, io }, { org }, user) {
        confirm(`Delete the user ${user}?`);
        await session.client(UserService, "iam").deleteUser({ org, user });
        io.err(`Deleted user ${user}\n`);
      },
    }),
  },
});
