import { ServiceAccountService } from "@ultracloud/proto/iam/v1";
import { text } from "../frame/command.ts";
import type { Session } from "../frame/session.ts";
import { pages } from "./_shared.ts";

type Time = { readonly seconds: bigint } | undefined;

/** A time for people and programs; empty for none. */
export const at = (time: Time): string =>
  time === undefined ? "" : new Date(Number(time.seconds) * 1_000).toISOString();

export const orgFlag = { kind: "parsed", parse: text, default: "", brief: "Organisation; empty for the root" } as const;
export const one = (brief: string, placeholder: string) => [{ brief, placeholder }] as const;
export const two = (first: string, second: string) =>
  [{ brief: first, placeholder: first }, { brief: second, placeholder: second }] as const;

export const accountArg = [{ brief: "Service account, name or id", placeholder: "account" }] as const;

/** Service accounts of the project, for the shell. */
export async function accountNames(session: Session): Promise<readonly string[]> {
  const client = session.client(ServiceAccountService, "iam");
  const { project } = session;
  const all = await pages((page) => client.listServiceAccounts({ project, page }), (r) => r.serviceAccounts);
  return all.map((account) => account.meta?.name ?? "");
}
