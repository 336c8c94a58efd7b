import { buildRouteMap } from "@stricli/core";
import { type ServiceAccount, ServiceAccountSchema, ServiceAccountService } from "@ultracloud/proto/iam/v1";
import type { Column } from "../frame/columns.ts";
import { command } from "../frame/command.ts";
import { apiKey } from "./_iam_api_keys.ts";
import { accountArg, accountNames } from "./_iam_shared.ts";
import { labelFlag, labelsOf, metaColumns, pages } from "./_shared.ts";

const accountColumns: readonly Column<ServiceAccount>[] = [
  ...metaColumns<ServiceAccount>(),
  { name: "state", get: (a) => a.disabled ? "disabled" : "active" },
];

export const serviceAccount = buildRouteMap({
  docs: { brief: "Service accounts and their keys" },
  routes: {
    list: command({
      brief: "List service accounts of the project",
      async run({ session, list }) {
        const client = session.client(ServiceAccountService, "iam");
        const { project } = session;
        await list(
          ServiceAccountSchema,
          await pages((page) => client.listServiceAccounts({ project, page }), (r) => r.serviceAccounts),
          accountColumns,
        );
      },
    }),
    create: command<{ label?: readonly string[] }, [string]>({
      brief: "Create a service account",
      args: accountArg,
      flags: { label: labelFlag },
      async run({ session, one }, flags, name) {
        const client = session.client(ServiceAccountService, "iam");
        await one(
          ServiceAccountSchema,
          await client.createServiceAccount({ project: session.project, name, labels: labelsOf(flags.label) }),
          accountColumns,
        );
      },
    }),
    show: command<Record<never, never>, [string]>({
      brief: "Show a service account",
      args: accountArg,
      complete: accountNames,
      async run({ session, one }, _flags, name) {
        const client = session.client(ServiceAccountService, "iam");
        await one(
          ServiceAccountSchema,
          await client.getServiceAccount({ project: session.project, serviceAccount: name }),
          accountColumns,
        );
      },
    }),
    disable: command<Record<never, never>, [string]>({
      brief: "Disable a service account: its tokens end, its keys are refused",
      args: accountArg,
      complete: accountNames,
      async run({ session, one, confirm }, _flags, serviceAccount) {
        confirm(`Disable ${serviceAccount} and revoke every token?`);
        const client = session.client(ServiceAccountService, "iam");
        const { project } = session;
        await one(
          ServiceAccountSchema,
          await client.setServiceAccountDisabled({ project, serviceAccount, disabled: true }),
          accountColumns,
        );
      },
    }),
    enable: command<Record<never, never>, [string]>({
      brief: "Enable a service account; its keys are good again",
      args: accountArg,
      complete: accountNames,
      async run({ session, one }, _flags, serviceAccount) {
        const client = session.client(ServiceAccountService, "iam");
        const { project } = session;
        await one(
          ServiceAccountSchema,
          await client.setServiceAccountDisabled({ project, serviceAccount, disabled: false }),
          accountColumns,
        );
      },
    }),
    delete: command<Record<never, never>, [string]>({
      brief: "Delete a service account and its keys",
      args: accountArg,
      complete: accountNames,
      async run({ session, confirm, io }, _flags, name) {
        confirm(`Delete the service account ${name} and its keys?`);
        await session.client(ServiceAccountService, "iam").deleteServiceAccount({
          project: session.project,
          serviceAccount: name,
        });
        io.err(`Deleted service account ${name}\n`);
      },
    }),
    key: apiKey,
  },
});
