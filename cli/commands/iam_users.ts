import { buildRouteMap } from "@stricli/core";
import { TokenService, type User, UserSchema, UserService } from "@ultracloud/proto/iam/v1";
import { fault } from "@ultracloud/base";
import type { Column } from "../frame/columns.ts";
import { command, text } from "../frame/command.ts";
import type { Session } from "../frame/session.ts";
import { newSecretFrom, secretFrom } from "./_secrets.ts";
import { metaColumns, pages } from "./_shared.ts";

const userColumns: readonly Column<User>[] = [
  ...metaColumns<User>(),
  { name: "email", get: (u) => u.email },
  { name: "state", get: (u) => u.disabled ? "disabled" : "active" },
];

const orgFlag = { kind: "parsed", parse: text, brief: "Organisation" } as const;
const userArg = [{ brief: "User, name or id", placeholder: "user" }] as const;

const passwordFlag = (brief: string) =>
  ({
    kind: "parsed",
    parse: text,
    optional: true,
    brief: `${brief}, '-' for standard input; asked for unless given`,
  }) as const;

/** Users of the organisation that the project in use is in, for the shell. */
async function userNames(session: Session): Promise<readonly string[]> {
  const org = session.project.split("/")[0]!;
  const client = session.client(UserService, "iam");
  const all = await pages((page) => client.listUsers({ org, page }), (r) => r.users);
  return all.map((user) => user.meta?.name ?? "");
}

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
        passwordFile: {
          kind: "parsed",
          parse: text,
          optional: true,
          brief: "File with the first password, '-' for standard input; none unless given",
        },
      },
      async run({ session, one, io }, flags, name) {
        const password = flags.passwordFile ? await secretFrom(io, flags.passwordFile, "Password") : "";
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
      complete: userNames,
      flags: { org: orgFlag },
      async run({ session, one }, { org }, user) {
        await one(UserSchema, await session.client(UserService, "iam").getUser({ org, user }), userColumns);
      },
    }),
    update: command<{ org: string; email: string }, [string]>({
      brief: "Change a user's address",
      args: userArg,
      complete: userNames,
      flags: { org: orgFlag, email: { kind: "parsed", parse: text, brief: "Address; empty for none" } },
      async run({ session, one }, { org, email }, user) {
        const client = session.client(UserService, "iam");
        await one(UserSchema, await client.updateUser({ org, user, value: { email } }), userColumns);
      },
    }),
    changePassword: command<{ passwordFile?: string; newPasswordFile?: string }, []>({
      brief: "Change your own password; every other login of yours ends",
      flags: {
        passwordFile: passwordFlag("File with the password of now"),
        newPasswordFile: passwordFlag("File with the new one"),
      },
      async run({ session, io }, flags) {
        const client = session.client(UserService, "iam");
        const password = await secretFrom(io, flags.passwordFile, "Password");
        const newPassword = await newSecretFrom(io, flags.newPasswordFile, "New password");
        session.saveCredentials(await client.changePassword({ password, newPassword }));
        const who = await session.client(TokenService, "iam").whoAmI({});
        io.err(`Changed the password of ${who.displayName}\n`);
      },
    }),
    resetPassword: command<{ org: string; passwordFile?: string; none: boolean }, [string]>({
      brief: "Give a user another password and end every login of theirs",
      args: userArg,
      complete: userNames,
      flags: {
        org: orgFlag,
        passwordFile: passwordFlag("File with the new password"),
        none: { kind: "boolean", default: false, brief: "No password: the user logs in by none from now on" },
      },
      async run({ session, one, confirm, io }, { org, passwordFile, none }, user) {
        if (none && passwordFile !== undefined) {
          throw fault("invalid_argument", "usage", "Cannot do both: wanted --password-file or --none");
        }
        const password = none ? "" : await newSecretFrom(io, passwordFile, "New password");
        confirm(`Replace the password of ${user} and end every login?`);
        const client = session.client(UserService, "iam");
        await one(UserSchema, await client.setUserPassword({ org, user, password }), userColumns);
      },
    }),
    disable: command<{ org: string }, [string]>({
      brief: "Disable a user and revoke their tokens",
      args: userArg,
      complete: userNames,
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
      complete: userNames,
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
      complete: userNames,
      flags: { org: orgFlag },
      async run({ session, confirm, io }, { org }, user) {
        confirm(`Delete the user ${user}?`);
        await session.client(UserService, "iam").deleteUser({ org, user });
        io.err(`Deleted user ${user}\n`);
      },
    }),
  },
});
